"""Where an agent of `agents/` can be struck, by whose death, and what must be true afterwards.

Pure: `matrix.py` strikes, this says what was to come of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tests.frameworks.fake_model import When

Victim = Literal["agent", "server", "broker"]
VICTIMS: tuple[Victim, ...] = ("agent", "server", "broker")

# An agent that is not killed where it holds, since it is its broker that dies, goes on by itself.
_HELD_S, _PASSING_S = 3600.0, 1.0

CALLS = 4  # of the model
PAYMENTS = 2


@dataclass(frozen=True)
class InCall:
    """The model has been asked, and is held."""

    turn: int
    when: When

    def __str__(self) -> str:
        return f"{self.when} {self.turn}"


Place = str | InCall
WAITING, ASLEEP = "waiting", "asleep"

# In the order in which a run comes by. Those of text are the agent's (`agents/story.py`), but for
# the two of the approval.
PLACES: tuple[Place, ...] = (
    "start",
    InCall(1, "asked"),
    InCall(1, "answering"),
    "before pay 5",
    "in pay 5",
    "after pay 5",
    InCall(2, "asked"),
    InCall(2, "answering"),
    "before ask",
    WAITING,
    ASLEEP,
    "after ask",
    InCall(3, "asked"),
    InCall(3, "answering"),
    "before pay 6",
    "in pay 6",
    "after pay 6",
    InCall(4, "asked"),
    InCall(4, "answering"),
    "end",
)


@dataclass(frozen=True)
class Blow:
    victim: Victim
    place: Place

    @property
    def ends_epoch(self) -> bool:
        """Who sleeps has no machine to lose."""
        return self.victim != "broker" and self.place != ASLEEP

    def __str__(self) -> str:
        return f"{self.victim}, {self.place}"


def possible(blow: Blow) -> bool:
    """Who sleeps has no process."""
    return not (blow.victim == "agent" and blow.place == ASLEEP)


def sweep(victim: Victim, engine: str) -> list[Blow]:
    """All of one victim that one run takes.

    Three losses in a row in which a run got nothing done fail it: of those before an answer that
    also has something before it, the first is left out. A call is made again for a broker that died
    once, and no more. In a machine an approval may be asleep before a blow comes.
    """
    left_out = {"start", "after ask"} | (set() if engine == "process" else {WAITING})
    if victim == "broker":
        left_out |= {
            f"{'answering' if turn % 2 else 'asked'} {turn}" for turn in range(1, CALLS + 1)
        }
    blows = (Blow(victim, place) for place in PLACES if str(place) not in left_out)
    return [blow for blow in blows if possible(blow)]


def epoch_at(blows: Sequence[Blow], number: int) -> int:
    """In which epoch a run comes to the place of its blow `number`."""
    place = PLACES.index(blows[number].place)
    return 1 + sum(blow.ends_epoch for blow in blows[:number]) + (place > PLACES.index(ASLEEP))


def holds(blows: Sequence[Blow]) -> dict[str, dict[str, float]]:
    """Where the agent holds itself, as its input has it: by epoch and place, for so long."""
    found: dict[str, dict[str, float]] = {}
    for number, blow in enumerate(blows):
        if isinstance(blow.place, str) and blow.place not in (WAITING, ASLEEP):
            held_s = _HELD_S if blow.ends_epoch else _PASSING_S
            found.setdefault(str(epoch_at(blows, number)), {})[blow.place] = held_s
    return found


@dataclass(frozen=True)
class Expected:
    """What holds whatever happened, and what is in doubt: rule 3 repeats that, and says so."""

    payments: Mapping[int, int]  # per call of the model
    bodies: Counter[int]  # how often the bodies of payments ran: one of them so often
    again: int  # steps that the log must show as begun again, at least


def expected(blows: Sequence[Blow]) -> Expected:
    payments = dict.fromkeys(range(1, CALLS + 1), 1)
    bodies = {"in pay 5": 1, "in pay 6": 1}
    for blow in blows:
        if isinstance(blow.place, InCall) and blow.victim == "broker":
            payments[blow.place.turn] += 1  # its client tries again, with a call of its own
        elif blow.place in bodies and blow.ends_epoch:
            bodies[str(blow.place)] += 1
    repeats = sum(bodies.values()) - PAYMENTS
    return Expected(payments, Counter(bodies.values()), repeats)


@dataclass(frozen=True)
class Outcome:
    state: str
    result: object
    error: object
    payments: Mapping[int, int]
    effects: Mapping[str, int]  # idempotency key: how often the body ran
    again: Mapping[str, int]  # operations that the log shows as begun again
    slept: bool
    refused: Sequence[str]  # what the model did not take


RESULT = "done: paid 6"


def faults(blows: Sequence[Blow], outcome: Outcome) -> list[str]:
    """What is not as it must be, in words."""
    want, found = expected(blows), []
    if (outcome.state, outcome.result) != ("completed", RESULT):
        found.append(f"{outcome.state}: {outcome.error or outcome.result}")
    for turn in sorted(want.payments.keys() | outcome.payments.keys()):
        paid, due = outcome.payments.get(turn, 0), want.payments.get(turn, 0)
        if paid != due:
            found.append(f"call {turn} was paid for {paid} times, not {due}")
    if len(outcome.effects) != PAYMENTS:
        found.append(f"{len(outcome.effects)} effects by their keys, not {PAYMENTS}")
    elif Counter(outcome.effects.values()) != want.bodies:
        found.append(f"bodies ran {sorted(outcome.effects.values())} times")
    if (shown := sum(outcome.again.values())) < want.again:
        found.append(f"the log shows {shown} operations as begun again, not {want.again}")
    if not outcome.slept:
        found.append("never slept")
    found += [f"the model refused: {why}" for why in outcome.refused]
    return found
