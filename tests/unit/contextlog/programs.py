"""What agents do and have in memory, for tests of the log without machines.

An agent's program is phases: all waits of a phase begin, one after the other, and the next phase
begins when all of them have ended.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from torpor.contextlog.entries import Place
from torpor.core.ids import Epoch, OpId

# (kind, name, seconds until it ends by itself); an ask has an idempotency key.
WAITS = [
    ("wait", "a", None),
    ("wait", "a", 6.0),
    ("wait", "b", 20.0),
    ("ask", "k", None),
    ("event", "x", 15.0),
    ("event", "x", 200.0),
    ("event", "y", 15.0),
    ("sleep", "s", 4.0),
]
PROGRAMS = st.lists(
    st.lists(st.sampled_from(WAITS), min_size=1, max_size=3), min_size=1, max_size=3
)

Told = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    op: OpId
    kind: str
    name: str
    limit_s: float | None


Program = list[list[Asked]]


def program_of(phases: list[list[tuple[str, str, float | None]]]) -> Program:
    """With the names that their operations have whenever it is run."""
    used: dict[tuple[str, str], int] = {}
    made: Program = []
    for phase in phases:
        made.append([])
        for kind, name, limit_s in phase:
            of = "wait" if kind == "ask" else kind
            n = used[of, name] = used.get((of, name), 0) + 1
            made[-1].append(Asked(OpId(f"{of}:{name}#{n}"), kind, name, limit_s))
    return made


@dataclass
class Machine:
    """What is in an agent's memory."""

    phase: int = 0
    begun: list[OpId] = field(default_factory=list)
    known: dict[OpId, Told] = field(default_factory=dict)
    recorded: dict[OpId, Told] = field(default_factory=dict)  # its journal
    told: int = 0  # how often it was told something

    def learn(self, op: OpId, value: Told) -> None:
        assert self.known.get(op, value) == value, f"{op} has two results"
        self.told += op not in self.known
        self.known[op] = value

    def next(self, program: Program) -> Asked | None:
        """What it is to begin now: it goes on for as long as it can."""
        while self.phase < len(program):
            for each in program[self.phase]:
                if each.op not in self.begun:
                    return each
            if not all(each.op in self.known for each in program[self.phase]):
                return None
            self.phase += 1
        return None

    def waits_for(self) -> list[OpId]:
        return [op for op in self.begun if op not in self.known]


@dataclass(frozen=True)
class Taken:
    """A machine that was paused, on its way to a snapshot."""

    machine: Machine
    place: Place
    epoch: Epoch
