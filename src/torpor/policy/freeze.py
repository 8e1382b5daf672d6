"""When is a machine frozen?

When its agent waits for something outside, nothing it does is in flight, the machine is quiet,
and the wait is worth it. A program may keep threads that never rest (a ticker, a poller): they
do not hold a machine awake for ever, only for PATIENCE_S.
"""

from __future__ import annotations

from dataclasses import dataclass

# The machine must have been waiting this long: answers that come at once cost no freeze.
GRACE_S = 0.1
# A vCPU busier than this share during the grace is at work on something.
QUIET_CPU_SHARE = 0.25
# After this long a wait counts, however busy background threads are.
PATIENCE_S = 3.0
# A wait known to end sooner is slept through awake: a freeze and a resume cost about as much.
WORTH_S = 1.0


@dataclass(frozen=True)
class Facts:
    """What is known of a running machine at one moment."""

    waiting: int  # waits the agent has open
    busy: int  # things in flight inside the machine
    in_flight: int  # things in flight outside for it (model calls), answers not yet delivered
    waited_s: float  # since the last change of any of the above
    cpu_share: float  # of one core, since the previous look
    ends_in_s: float | None  # until a wait ends by itself, None if none does


@dataclass(frozen=True)
class Freeze:
    pass


@dataclass(frozen=True)
class Stay:
    """Not now. Look again in `again_s` seconds, or only after a change if None."""

    why: str
    again_s: float | None


def decide(facts: Facts) -> Freeze | Stay:
    if not facts.waiting:
        return Stay("the agent is at work", None)
    if facts.busy or facts.in_flight:
        return Stay("operations are in flight", None)
    if facts.ends_in_s is not None and facts.ends_in_s < WORTH_S:
        return Stay("the wait is nearly over", None)
    if facts.waited_s < GRACE_S:
        return Stay("it has only begun to wait", GRACE_S - facts.waited_s)
    if facts.cpu_share > QUIET_CPU_SHARE and facts.waited_s < PATIENCE_S:
        return Stay("the machine is busy", GRACE_S)
    return Freeze()
