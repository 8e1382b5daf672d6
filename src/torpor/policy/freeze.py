"""When is a run suspended?

When its agent waits for something outside, nothing it does is in flight, its machine is quiet,
and the wait is worth it: what that means differs with what suspending takes (`Terms`). A program
may keep threads that never rest (a ticker, a poller): they do not hold a machine awake for ever,
only as long as there is patience with them.
"""

from __future__ import annotations

from dataclasses import dataclass

# A vCPU busier than this share between two looks is at work on something.
QUIET_CPU_SHARE = 0.25
BUSY_AGAIN_S = 0.1
# A wait that should have ended so long ago does not: nobody takes that long to end it.
OVERDUE_S = 5.0
NEVER_S = 1e10


@dataclass(frozen=True)
class Terms:
    """What a wait must be to be worth suspending its run."""

    grace_s: float  # it must have lasted this long: answers that come at once cost nothing
    worth_s: float  # one known to end sooner is slept through awake
    patience_s: float  # after this long it counts, however busy background threads are
    # Something of the agent's own that is due sooner, such as a timeout, is slept through awake.
    timers_s: float = 1.0


# A freeze and a resume cost about as much CPU as a second awake.
MACHINE = Terms(grace_s=0.1, worth_s=1.0, patience_s=3.0)
# A process that waits costs some 30 MB and no CPU; coming back costs a start and a replay.
# Its replay would begin the agent's own timers anew.
PROCESS = Terms(grace_s=10.0, worth_s=60.0, patience_s=60.0, timers_s=NEVER_S)


@dataclass(frozen=True)
class Facts:
    """What is known of a running machine at one moment."""

    waiting: int  # waits the agent has open
    busy: int  # things in flight inside the machine
    in_flight: int  # things in flight outside for it (model calls), answers not yet delivered
    waited_s: float  # since the last change of any of the above
    cpu_share: float  # of one core, since the previous look
    # Until a wait ends by itself, None if none does; behind us where that is just being written.
    ends_in_s: float | None


@dataclass(frozen=True)
class Freeze:
    pass


@dataclass(frozen=True)
class Stay:
    """Not now. Look again in `again_s` seconds, or only after a change if None."""

    why: str
    again_s: float | None


def decide(facts: Facts, terms: Terms) -> Freeze | Stay:
    if not facts.waiting:
        return Stay("the agent is at work", None)
    if facts.busy or facts.in_flight:
        return Stay("operations are in flight", None)
    if facts.ends_in_s is not None and -OVERDUE_S < facts.ends_in_s < terms.worth_s:
        return Stay("the wait is nearly over", facts.ends_in_s + OVERDUE_S)
    if facts.waited_s < terms.grace_s:
        return Stay("it has only begun to wait", terms.grace_s - facts.waited_s)
    if facts.cpu_share > QUIET_CPU_SHARE and facts.waited_s < terms.patience_s:
        return Stay("the machine is busy", BUSY_AGAIN_S)
    return Freeze()
