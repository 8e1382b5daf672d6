"""When is a run suspended?

When its agent waits for something outside, nothing it does is in flight, its machine is quiet,
and the wait is worth it: what that means differs with what suspending takes (`Terms`). A program
may keep threads that never rest (a ticker, a poller): they do not hold a machine awake for ever,
only as long as there is patience with them.

A recorded call under way (a model's answer) is a wait, too, whose end nobody knows. Once it has
been quiet for as long as a freeze and a resume take, the machine is frozen: so, whenever the answer
comes, no more than twice the least possible is spent on waiting for it. What the agent is busy with
then is most likely the step that made the call; whether anything else is at work its guest finds.
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
    # Recorded calls that have been quiet for so long are slept under; None: no call is.
    call_s: float | None = None


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
    in_flight: int  # answers not yet delivered
    waited_s: float  # since the last change of any of the above
    cpu_share: float  # of one core, since the previous look
    # Until a wait ends by itself, None if none does; behind us where that is just being written.
    ends_in_s: float | None
    calls: int = 0  # recorded calls under way for it
    quiet_s: float = 0.0  # since the last of these began, or anything of their answers came


@dataclass(frozen=True)
class Freeze:
    pass


@dataclass(frozen=True)
class Stay:
    """Not now. Look again in `again_s` seconds, or only after a change if None."""

    why: str
    again_s: float | None


def call_patience(rule: bool | float, freeze_s: float) -> float | None:
    """`Terms.call_s` by an agent's rule, where a freeze and a resume take `freeze_s`."""
    if isinstance(rule, bool):
        return freeze_s if rule else None
    return rule


def decide(facts: Facts, terms: Terms) -> Freeze | Stay:
    since_s = facts.waited_s
    if facts.in_flight:
        return Stay("an answer is on its way to it", None)
    if facts.calls:
        if terms.call_s is None:
            return Stay("a call is under way", None)
        if facts.quiet_s < terms.call_s:
            return Stay("a call has not been quiet for long", terms.call_s - facts.quiet_s)
        since_s = min(since_s, facts.quiet_s)
    elif not facts.waiting:
        return Stay("the agent is at work", None)
    elif facts.busy:
        return Stay("operations are in flight", None)
    if facts.ends_in_s is not None and -OVERDUE_S < facts.ends_in_s < terms.worth_s:
        return Stay("the wait is nearly over", facts.ends_in_s + OVERDUE_S)
    if since_s < terms.grace_s:
        return Stay("it has only begun to wait", terms.grace_s - since_s)
    if facts.cpu_share > QUIET_CPU_SHARE and since_s < terms.patience_s:
        return Stay("the machine is busy", BUSY_AGAIN_S)
    return Freeze()
