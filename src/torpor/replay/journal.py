"""What the log holds past the snapshot, matched to what the restored agent asks for again.

A restored agent runs on from its snapshot. For each operation that it starts, `find` gives the
record that it is, or none (live: it is new), or raises `Divergence`; `take` uses that up. A record
has an outcome, and then the operation does not happen again; or it has none, because a crash came
first: it is *in doubt* (rule 3). `finish` is asked when the agent ends.

**Lines.** A line is a thread or an asyncio task. The *main line* is the one that runs the agent
itself: its main thread, or the task of an async agent. All others are *side lines*: threads of a
pool, tasks under `asyncio.gather`, a loop that a plain agent starts. The log says for each
operation whether a side line began it. A program is taken to do the same each time, given the same
results, but for what depends on which line is quicker. So what may differ between two executions?

1.  What the main line does before the first operation of any side line does not depend on who was
    quicker. There the next record of the main line must be what it asks for: same kind, name and
    digest of the arguments. An agent without side lines is like that from end to end, so a changed
    name, changed arguments, another kind, another order, a step more or fewer is noticed at once.
2.  Side lines may come in any order, and trade places (which worker takes which job is chance).
    After them so may operations of the main line (it may take results as they come). There an
    operation is matched by kind, name and digest: of equal ones, those of its own kind of line
    first, in the order of the log.
3.  But an operation that no record matches is new, and new is only what comes after all that is
    recorded. The main line may begin nothing new while a record of its own is unused: only it could
    ask for that, and before the crash it did so without the new one. If no other line is alive, nor
    may anything recorded by a side line be left.
4.  When the agent ends, no record is left.

A cancellation falls wherever the agent happens to be. After one (`interrupt`) only rule 2 holds.

Why nothing is silently mismatched: a record is only ever given to an operation of its kind, name
and digest, and only once (rule 2); equal operations are interchangeable, as the program itself
cannot tell which of them another line asks for. What has no record is either new by 3, or reported.

Not reported: a side line's operation in doubt that is not asked for again. This time it may just
not have come so far, and there is no result to be lost.
Reported, though some would call it the same program: a main line that begins operations in the
order in which side lines ended, where a crash fell into the middle of that.

**Questions.** Two kinds of operations are none of the program's, and come only after a crash: their
records are `questions`, and stand outside all of the above. A step that its author wants nobody to
repeat unasked is asked about when it is found in doubt: `doubt:` and its name; the number is how
often it had been repeated, and one more. And an agent that diverges asks whether it may go on:
`verdict:` and the record that should have come. If so, all that is unused is superseded.

**Names.** An operation is `kind:name#n`. A matched one has its record's, so that what is in doubt
keeps its idempotency key; a new one has the number after all that the log or this agent has used.

A call that raises changes nothing. Pure; standard library only: it runs in the machine, beside
the agent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypedDict

from torpor.model.errors import GuestError
from torpor.model.ids import OpId, op_id, op_number


class _Identified(TypedDict):
    op: str
    kind: str
    name: str
    digest: str


class Recorded(_Identified, total=False):
    """One operation of the log, in the order in which they began. With `ok` it has ended: with
    `value` if true, else `error` (type, message, traceback); `seq` is where in the log that stands.
    Without, it is in doubt, and was `again` times begun again. `at` is its place in the agent's
    source; `side` is true if a side line began it."""

    ok: bool
    value: Any
    error: dict[str, Any]
    seq: int
    again: int
    at: str
    side: bool
    printed: dict[str, int]  # a step's: how much the log then held of each output stream


class Asked(NamedTuple):
    """What the agent asks for, `at` which place in its source."""

    kind: str
    name: str
    digest: str
    at: str = ""
    side: bool = False


class Match(NamedTuple):
    """`op` is the operation's id. `record` is None if it is new."""

    op: OpId
    record: Recorded | None

    @property
    def settled(self) -> bool:
        """The log has its outcome."""
        return self.record is not None and "ok" in self.record


class Divergence(GuestError):
    """The agent does something else than it did when the log was written. `recorded` is the
    operation of the log that it did not ask for, `asked` what it does instead (None: it ends)."""

    code = "divergence"

    def __init__(self, recorded: Recorded, asked: Asked | None) -> None:
        if asked is None:
            now = "the agent ends"
        else:
            now = _words(f"{asked.kind} {asked.name}", asked.digest, asked.at)
        was = _words(recorded["op"], recorded["digest"], recorded.get("at", ""))
        if "ok" not in recorded:
            was += ", which had no result yet"
        super().__init__(
            f"the agent does not do what its log says\n  recorded: {was}\n  now:      {now}",
            hint="Code between operations must do the same each time: put what varies (time, "
            "randomness, the network) into a step, or use torpor.now, torpor.random and "
            "torpor.uuid4; start what depends on several results in a settled order.",
        )
        self.recorded = recorded
        self.asked = asked


def _words(operation: str, digest: str, at: str) -> str:
    return f"{operation} (arguments {digest[:8]})" + (f" at {at}" if at else "")


class _Numbers:
    """The numbers of one kind and name: which this agent has begun, and the highest in use."""

    __slots__ = ("_above", "_all_to", "highest")

    def __init__(self) -> None:
        self.highest = 0
        self._all_to = 0  # all up to here are begun, and those
        self._above: set[int] = set()

    def begin(self, n: int) -> None:
        self.highest = max(self.highest, n)
        self._above.add(n)
        while self._all_to + 1 in self._above:
            self._all_to += 1
            self._above.remove(self._all_to)

    def begun(self, n: int) -> bool:
        return n <= self._all_to or n in self._above


class Journal:
    def __init__(self, records: Iterable[Recorded] = ()) -> None:
        self._numbers: dict[tuple[str, str], _Numbers] = {}
        # Unused, in the order in which they began, by who began them.
        self._main: dict[str, Recorded] = {}
        self._side: dict[str, Recorded] = {}
        self._ordered: deque[str] = deque()  # those of the main line that must come in order
        # The others, by what they are and whether of a side line.
        self._alike: dict[tuple[str, str, str, bool], dict[str, None]] = {}
        self.questions: dict[str, Recorded] = {}
        self._met = False  # a side line has begun something, here or in the log
        self._interrupted = False
        self.extend(records)

    @property
    def unused(self) -> tuple[Recorded, ...]:
        """The records that no operation has asked for yet."""
        return (*self._main.values(), *self._side.values())

    @property
    def empty(self) -> bool:
        return not self._main and not self._side

    def extend(self, records: Iterable[Recorded]) -> None:
        """Add what the log has got since. What this agent has begun itself is left out; of what
        was here and in doubt, the newer record counts."""
        for record in records:
            op, kind, name = record["op"], record["kind"], record["name"]
            if kind in ("doubt", "verdict"):
                self.questions[op] = record
                continue
            numbers = self._numbers_of(kind, name)
            numbers.highest = max(numbers.highest, op_number(op))
            side = record.get("side", False)
            line = self._side if side else self._main
            if numbers.begun(op_number(op)):
                continue
            if op not in line:
                self._met = self._met or side
                if self._met:
                    self._alike.setdefault((kind, name, record["digest"], side), {})[op] = None
                else:
                    self._ordered.append(op)
            line[op] = record

    def find(self, asked: Asked, alone: Callable[[], bool] = lambda: False) -> Match:
        """What `asked` is. `alone` says whether no line but the asking one is alive. Raises
        Divergence. Changes nothing: `take` what is found."""
        if self._ordered and not asked.side:
            record = self._main[self._ordered[0]]
            if (record["kind"], record["name"], record["digest"]) != asked[:3]:
                raise Divergence(record, asked)
            return Match(OpId(record["op"]), record)
        for side in (asked.side, not asked.side):
            for op in self._alike.get((*asked[:3], side), ()):
                return Match(OpId(op), (self._side if side else self._main)[op])
        if (left := self._left(asked, alone)) is not None:
            raise Divergence(left, asked)
        numbers = self._numbers.get((asked.kind, asked.name))
        n = 1 if numbers is None else numbers.highest + 1
        return Match(op_id(asked.kind, asked.name, n), None)

    def take(self, asked: Asked, match: Match) -> None:
        """`match`, which `find` gave for `asked`, has begun."""
        self._numbers_of(asked.kind, asked.name).begin(op_number(match.op))
        if match.record is None:
            self._met = self._met or asked.side
        elif self._ordered and self._ordered[0] == match.op:
            self._ordered.popleft()
            del self._main[match.op]
        else:
            side = match.record.get("side", False)
            key = (*asked[:3], side)
            del (self._side if side else self._main)[match.op]
            del self._alike[key][match.op]
            if not self._alike[key]:
                del self._alike[key]

    def supersede(self) -> None:
        """The agent goes on without what is unused. Its names stay taken."""
        for each in (self._main, self._side, self._alike):
            each.clear()
        self._ordered.clear()

    def interrupt(self) -> None:
        """The agent is being cancelled."""
        self._interrupted = self._met = True
        for op in self._ordered:
            record = self._main[op]
            key = (record["kind"], record["name"], record["digest"], False)
            self._alike.setdefault(key, {})[op] = None
        self._ordered.clear()

    def finish(self) -> None:
        """The agent ends. Raises Divergence if something recorded was not asked for."""
        if (left := self._left(None, lambda: True)) is not None:
            raise Divergence(left, None)

    def _left(self, asked: Asked | None, alone: Callable[[], bool]) -> Recorded | None:
        """The first record that should have come before `asked`, which is new."""
        if self._interrupted:
            return None
        main = next(iter(self._main.values()), None)
        if main is not None and (asked is None or not asked.side or alone()):
            return main
        side = next((record for record in self._side.values() if "ok" in record), None)
        return side if side is not None and alone() else None

    def _numbers_of(self, kind: str, name: str) -> _Numbers:
        numbers = self._numbers.get((kind, name))
        if numbers is None:
            numbers = self._numbers[kind, name] = _Numbers()
        return numbers
