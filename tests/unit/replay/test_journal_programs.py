"""Random programs, crashed at a random moment, and replayed: as they were, and edited.

A program is what its main line does, in order: operations, and blocks of side lines that it waits
for. `Execution` runs one, its lines interleaved at random, against a journal. What an operation
gives is made of the execution that it happened in, so that no result passes for another.

Arguments are data, or data and an object: one that holds the same in each execution (p, q, a
dataclass, say), or something else each time (?, a framework's context).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from torpor.replay.journal import Divergence, Early, Intent, Journal, Recorded

Operation = tuple[str, str, str]  # kind, name, arguments: a letter of data, and of an object
Line = list[Operation]
Program = list[Operation | list[Line]]

arguments = st.sampled_from(["x", "y", "z", "xp", "xq", "yp", "x?", "y?"])
operations = st.one_of(
    st.tuples(st.just("step"), st.sampled_from("ab"), arguments),
    st.tuples(st.just("wait"), st.sampled_from("ab"), st.sampled_from("xyz")),
)
lines = st.lists(operations, max_size=6)
parts: st.SearchStrategy[Operation | list[Line]] = st.one_of(
    operations, operations, st.lists(st.lists(operations, max_size=3), max_size=3)
)
programs: st.SearchStrategy[Program] = st.lists(parts, max_size=6)


@dataclass
class Execution:
    """One machine's life. `log` is what it appends to: the records in the order they began."""

    log: list[Recorded]
    draw: random.Random
    crash_after: int  # moves of any line
    journal: Journal
    given: list[tuple[Operation, Recorded]] = field(default_factory=list)
    new: list[Operation] = field(default_factory=list)
    alive: int = 1
    idle: set[int] = field(default_factory=set)  # lines that had a turn since anything moved
    running: list[Iterator[Any]] = field(default_factory=list)
    alike: int = 0  # that are held for a likeness

    def run(self, program: Program) -> bool:
        """Whether it came to its end. Raises Divergence."""
        running: list[Iterator[Any]] = [self.main(program, lambda line: running.append(line))]
        self.running = running
        while running:
            if self.crash_after == 0:
                return False
            self.crash_after -= 1
            line = self.draw.choice(running)
            self.idle.add(id(line))
            if next(line, self) is self:
                running.remove(line)
                self.idle.clear()
        self.journal.finish()
        return True

    @property
    def quiet(self) -> bool:
        return self.idle.issuperset(map(id, self.running))

    def main(self, program: Program, start: Any) -> Iterator[Any]:
        for part in program:
            if isinstance(part, tuple):
                yield from self.operate(part, side=False)
                continue
            left = list(range(len(part)))
            self.alive += len(part)
            for number, line in enumerate(part):
                start(self.side(line, left, number))
            while left:
                yield

    def side(self, line: Line, left: list[int], number: int) -> Iterator[Any]:
        for operation in line:
            yield from self.operate(operation, side=True)
        self.alive -= 1
        left.remove(number)

    def operate(self, operation: Operation, *, side: bool) -> Iterator[Any]:
        kind, name, given = operation
        held = given[1:].replace("?", f"{self.draw.random()}")
        intent = Intent(*digest(operation), side=side, hint=held)
        late: Early | None = None
        while True:
            try:
                match = self.journal.find(intent, lambda: self.alive == 1, late)
            except Early as early:
                self.alike += early.alike
                yield
                # What is held for likeness only is held the shortest.
                late = early if self.quiet and (early.alike or not self.alike) else None
                self.alike -= early.alike
            else:
                break
        self.idle.clear()
        self.journal.take(intent, match)
        record = match.record
        if record is not None and "ok" in record:
            self.given.append((operation, record))
            yield
            return
        if record is None:
            self.new.append(operation)
            record = {"op": match.op, "kind": kind, "name": name, "digest": intent.digest}
            record |= {"side": side, "hint": held}
            self.log.append(record)
        yield
        self.idle.clear()
        # What was in doubt is ended in the log, not in the journal that was made of it.
        next(each for each in self.log if each["op"] == match.op)["ok"] = True
        yield


def digest(operation: Operation) -> Operation:
    """Objects count by their type."""
    kind, name, given = operation
    return kind, name, given[0] + "o" * len(given[1:])


def execute(program: Program, log: list[Recorded], draw: random.Random, moves: int) -> Execution:
    return Execution(log, draw, moves, Journal([record.copy() for record in log]))


def edited(was: list[Any], edits: list[tuple[str, int, Any]]) -> list[Any]:
    becomes = list(was)
    for edit, at, part in edits:
        place = at % (len(becomes) + 1)
        match edit:
            case "insert":
                becomes.insert(place, part)
            case "replace":
                becomes[place : place + 1] = [part]
            case "remove":
                del becomes[place : place + 1]
            case "swap":
                becomes[place : place + 2] = reversed(becomes[place : place + 2])
            case "end":
                del becomes[place:]
    return becomes


def edits(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[str, int, Any]]]:
    kinds = st.sampled_from(["insert", "replace", "remove", "swap", "end"])
    return st.lists(st.tuples(kinds, st.integers(0, 20), parts), max_size=2)


moves = st.integers(0, 60)
WHOLE = 10_000


@given(programs, st.randoms(use_true_random=False), st.lists(moves, max_size=4))
def test_the_same_program_always_comes_through(
    program: Program, draw: random.Random, crashes: list[int]
) -> None:
    log: list[Recorded] = []
    for crash_after in [*crashes, WHOLE]:
        one = execute(program, log, draw, crash_after)
        records = {record["op"]: record for record in log if "ok" in record}
        whole = one.run(program)
        # In doubt is taken from the journal's copy: what the machine ends is the log's.
        ops = [record["op"] for record in log]
        assert len(set(ops)) == len(ops)
        for operation, record in one.given:
            assert (record["kind"], record["name"], record["digest"]) == digest(operation)
            if operation[2][1:] in ("p", "q") and not varying(program, operation[1]):
                assert record["hint"] == operation[2][1:]  # its own, not another's
        if whole:
            assert sorted(r["op"] for _, r in one.given) == sorted(records)
            break
    assume(whole)  # else a line was never chosen, in ten thousand moves
    everything = Counter(digest(operation) for part in program for operation in flat(part))
    assert Counter((r["kind"], r["name"], r["digest"]) for r in log) == everything


def varying(program: Program, name: str) -> bool:
    """Whether some of that name are given an object that is not the same again."""
    return any(each[1:] == (name, f"{x}?") for p in program for each in flat(p) for x in "xyz")


def flat(part: Operation | list[Line]) -> Line:
    return [part] if isinstance(part, tuple) else [each for line in part for each in line]


@given(lines, edits(operations), st.randoms(use_true_random=False), moves)
def test_a_plain_program_is_replayed_exactly_or_diverges(
    was: Line, changes: list[Any], draw: random.Random, crash_after: int
) -> None:
    """The oracle: the log is what the program begins with, or it is not."""
    becomes = edited(was, changes)
    intent = list(map(digest, becomes))
    log: list[Recorded] = []
    execute(list(was), log, draw, crash_after).run(list(was))
    logged = [(r["kind"], r["name"], r["digest"]) for r in log]
    ended = [record["op"] for record in log if "ok" in record]
    other = execute(list(becomes), log, draw, WHOLE)
    try:
        other.run(list(becomes))
    except Divergence as error:
        assert intent[: len(logged)] != logged
        same = next(
            (i for i, (a, b) in enumerate(zip(logged, intent, strict=False)) if a != b),
            min(len(logged), len(intent)),
        )
        # Noticed at once: all before it was given out, nothing new was begun.
        assert error.recorded["op"] == log[same]["op"]
        assert (error.intent and error.intent[:3]) == (intent[same] if same < len(intent) else None)
        assert not other.new
    else:
        assert intent[: len(logged)] == logged
        assert [record["op"] for _, record in other.given] == ended
        assert other.new == becomes[len(logged) :]


@given(programs, edits(parts), st.randoms(use_true_random=False), moves)
def test_an_edited_program_never_gets_what_is_not_its_own_nor_leaves_anything(
    was: Program, changes: list[Any], draw: random.Random, crash_after: int
) -> None:
    becomes = edited(was, changes)
    log: list[Recorded] = []
    execute(was, log, draw, crash_after).run(was)
    ended = Counter(record["op"] for record in log if "ok" in record)
    before = len(log)
    logged_main = [(r["kind"], r["name"], r["digest"]) for r in log if not r.get("side")]
    other = execute(becomes, log, draw, WHOLE)
    try:
        whole = other.run(becomes)
    except Divergence:
        whole = False
    given = Counter(record["op"] for _, record in other.given)
    assert given <= ended  # each at most once
    for operation, record in other.given:
        assert (record["kind"], record["name"], record["digest"]) == digest(operation)
    if whole:
        assert given == ended
    new_main = [r for r in log[before:] if not r.get("side")]
    if new_main:  # then the main line has asked for all that it had begun before
        intent = Counter(digest(each) for part in becomes for each in flat(part))
        assert Counter(logged_main) <= intent
