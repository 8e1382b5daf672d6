"""What the log holds past the snapshot, matched to what the restored agent asks for again.

A restored agent runs on from its snapshot. For each operation that it starts, `find` gives the
record that it is, or none (live: it is new), or raises `Early` (not yet) or `Divergence`; `take`
uses that up. A record has an outcome, and then the operation does not happen again; or it has none,
because a crash came first: it is *in doubt* (rule 3). `finish` is asked when the agent ends.

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
    first, in the order of the log. Where objects are among the arguments, equal ones may differ in
    what these hold, of which the hint is a digest. It gets the one with its hint. If there is none,
    its record may not be there yet, or not have the same hint again; so it is *early*: held, to see
    whether others come for theirs. If not, hints of that name mean nothing: it gets the first.
3.  But an operation that no record matches is new, and new is only what comes after all that is
    recorded. The main line may begin nothing new while a record of its own is unused: only it could
    ask for that, and before the crash it did so without the new one. If no other line is alive, nor
    may anything recorded by a side line be left.
4.  What has a body, a step, is moreover not new while a record of its name is unused: that may be
    what it is, its arguments being other than they were. It is early, too: held until the record is
    used by whoever it belongs to, and then new after all. If nobody is left who could do that
    (`torpor.sdk.holding` says when that is taken to be so), it diverges, before its body.
5.  When the agent ends, no record is left.

A cancellation falls wherever the agent happens to be. After one (`interrupt`) only rule 2 holds.

Why a program that does the same is not held for ever: a record that is unused belongs to a line
which before the crash came to it without what is held now, and comes to it again. There is one
exception. Of two lines that do the same, the one that has done less may be given what the other has
recorded; then that other finds nothing recorded for what it must do before it comes to the rest. So
an operation is not held if the log had an equal one, which another line was given: of equal ones it
does not matter which is new.

Why nothing is silently mismatched: a record is only ever given to an operation of its kind, name
and digest, and only once (rule 2); equal operations are interchangeable, as the program itself
cannot tell which of them another line asks for. Where their arguments hold objects, it could: there
the hint tells, or a step's `key`. What has no record is either new by 3 and 4, or reported.

Not reported: a side line's operation in doubt that is not asked for again, when nothing of its name
comes either. This time it may just not have come so far, and there is no result to be lost.
Reported, though some would call it the same program: a main line that begins operations in the
order in which side lines ended, where a crash fell into the middle of that.

**Questions.** Two kinds of operations are none of the program's, and come only after a crash: their
records are `questions`, and stand outside all of the above. A step that its author wants nobody to
repeat unasked is asked about when it is found in doubt: `doubt:` and its name; the number is how
often it had been repeated, and one more. And an agent that diverges asks whether it may go on:
`verdict:` and the record that should have come. If so, all that is unused is superseded.

**Files.** What a step's body publishes, and what is kept when the agent has ended
(`torpor.core.artifacts`), no replay asks for: they are always new, and their records only numbers.

**Names.** An operation is `kind:name#n`. A matched one has its record's, so that what is in doubt
keeps its idempotency key; a new one has the number after all that the log or this agent has used.

A call that raises changes nothing. Pure; standard library only: it runs in the machine, beside
the agent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypedDict, TypeVar

from torpor.core.artifacts import FILE
from torpor.core.errors import GuestError
from torpor.core.ids import OpId, op_id, op_kind, op_name, op_number


class _Identified(TypedDict):
    op: str
    kind: str
    name: str
    digest: str


class Recorded(_Identified, total=False):
    """One operation of the log, in the order in which they began. With `ok` it has ended: with
    `value` if true, else `error` (type, message, traceback); `seq` is where in the log that stands.
    Without, it is in doubt, and was `again` times begun again. `at` is its place in the agent's
    source; `side` is true if a side line began it; `hint` tells it from those that are equal."""

    ok: bool
    value: Any
    error: dict[str, Any]
    seq: int
    again: int
    at: str
    side: bool
    hint: str
    printed: dict[str, int]  # a step's: how much the log then held of each output stream


class Intent(NamedTuple):
    """What the agent asks for, `at` which place in its source."""

    kind: str
    name: str
    digest: str
    at: str = ""
    side: bool = False
    hint: str = ""


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

    def __init__(self, recorded: Recorded, intent: Intent | None) -> None:
        if intent is None:
            now = "the agent ends"
        else:
            now = _words(f"{intent.kind} {intent.name}", intent.digest, intent.at)
        was = _words(recorded["op"], recorded["digest"], recorded.get("at", ""))
        if "ok" not in recorded:
            was += ", which had no result yet"
        super().__init__(
            f"the agent does not do what its log says\n  recorded: {was}\n  now:      {now}",
            hint="Code between operations must do the same each time. Put whatever "
            "varies (time, randomness, the network) into a step, or use "
            "torpor.now, torpor.random and torpor.uuid4. Start whatever depends on "
            "several results in a settled order.",
        )
        self.recorded = recorded
        self.intent = intent


class Early(Exception):
    """It may not begin before `record` is used; or, if it is `alike`, it may be what `record` is,
    unless that is another's."""

    def __init__(self, record: Recorded, *, alike: bool) -> None:
        super().__init__(record["op"])
        self.record = record
        self.alike = alike


def _words(operation: str, digest: str, at: str) -> str:
    return f"{operation} (arguments {digest[:8]})" + (f" at {at}" if at else "")


_WITH_BODY = ("step",)


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


class _Unordered:
    """The unused records that may be asked for in any order, and how they are found. All are kept
    in the order of the log: a dict is a set that has one."""

    def __init__(self) -> None:
        # By what they are, and whether of a side line; with their hints, and with any.
        self._equal: dict[tuple[_Named, bool], dict[str, None]] = {}
        self._alike: dict[tuple[_Named, bool], dict[str, None]] = {}
        # Of those that have a body: by kind and name; and all that there ever were.
        self._named: dict[tuple[str, str], dict[str, None]] = {}
        self._known: set[_Named] = set()

    def add(self, record: Recorded) -> None:
        named, op, side = _named(record), record["op"], record.get("side", False)
        self._equal.setdefault((named, side), {})[op] = None
        if named.hint:
            self._alike.setdefault((named.unhinted, side), {})[op] = None
        if named.kind in _WITH_BODY:
            self._named.setdefault(named[:2], {})[op] = None
            self._known |= {named, named.unhinted}

    def remove(self, record: Recorded) -> None:
        named, op, side = _named(record), record["op"], record.get("side", False)
        _drop(self._equal, (named, side), op)
        if named.hint:
            _drop(self._alike, (named.unhinted, side), op)
        if named.kind in _WITH_BODY:
            _drop(self._named, named[:2], op)

    def find(self, intent: Intent) -> str | None:
        named = _Named(*intent[:3], intent.hint)
        return _first(self._equal, (named, intent.side), (named, not intent.side))

    def alike(self, intent: Intent, *, hintless: bool) -> str | None:
        """The first with any hint, if hints mean nothing or the log had none with this one."""
        named = _Named(*intent[:3], "")
        if intent.hint and not hintless and named._replace(hint=intent.hint) in self._known:
            return None
        keys = (named, intent.side), (named, not intent.side)
        return _first(self._alike, *keys) or _first(self._equal, *keys)

    def first_before(self, intent: Intent) -> str | None:
        """The first that has to be used before `asked` is new."""
        if _Named(*intent[:3], "") in self._known:
            return None
        return _first(self._named, intent[:2])


class _Named(NamedTuple):
    kind: str
    name: str
    digest: str
    hint: str

    @property
    def unhinted(self) -> _Named:
        return self._replace(hint="") if self.hint else self


def _named(record: Recorded) -> _Named:
    return _Named(record["kind"], record["name"], record["digest"], record.get("hint", ""))


_Key = TypeVar("_Key")


def _drop(ops: dict[_Key, dict[str, None]], key: _Key, op: str) -> None:
    del ops[key][op]
    if not ops[key]:
        del ops[key]


def _first(ops: Mapping[_Key, Mapping[str, None]], *keys: _Key) -> str | None:
    return next((op for key in keys for op in ops.get(key, ())), None)


class Journal:
    def __init__(self, records: Iterable[Recorded] = ()) -> None:
        self._numbers: dict[tuple[str, str], _Numbers] = {}
        # Unused, in the order in which they began, by who began them.
        self._main: dict[str, Recorded] = {}
        self._side: dict[str, Recorded] = {}
        self._ordered: deque[str] = deque()  # those of the main line that must come in order
        self._others = _Unordered()
        self._hintless: set[tuple[str, str]] = set()  # kind and name
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
                self._keep_taken(record)
                continue
            numbers = self._numbers_of(kind, name)
            numbers.highest = max(numbers.highest, op_number(op))
            if kind == FILE:
                continue
            side = record.get("side", False)
            line = self._side if side else self._main
            if numbers.begun(op_number(op)):
                continue
            if op not in line:
                self._met = self._met or side
                if self._met:
                    self._others.add(record)
                else:
                    self._ordered.append(op)
            line[op] = record

    def _keep_taken(self, question: Recorded) -> None:
        """The names of what was superseded, of which there are no records, are not used again."""
        value = question.get("value")
        for op in value.get("taken", ()) if isinstance(value, dict) else ():
            numbers = self._numbers_of(op_kind(op), op_name(op))
            numbers.highest = max(numbers.highest, op_number(op))

    def find(
        self,
        intent: Intent,
        alone: Callable[[], bool] = lambda: False,
        late: Early | None = None,
    ) -> Match:
        """What `asked` is. `alone` says whether no line but the asking one is alive; `late` is what
        was raised for it before, if it was held for that and nobody came. Raises Early, Divergence.
        Changes nothing: `take` what is found."""
        if intent.kind == FILE:
            return self._new(intent)
        if self._ordered and not intent.side:
            record = self._main[self._ordered[0]]
            if (record["kind"], record["name"], record["digest"]) != intent[:3]:
                raise Divergence(record, intent)
            return Match(OpId(record["op"]), record)
        if (op := self._others.find(intent)) is not None:
            return Match(OpId(op), self._record(op))
        hintless = intent[:2] in self._hintless
        if (op := self._others.alike(intent, hintless=hintless)) is not None:
            if not (hintless or late or self._interrupted or alone()):
                raise Early(self._record(op), alike=True)
            return Match(OpId(op), self._record(op))
        if (left := self._left(intent, alone)) is not None:
            raise Divergence(left, intent)
        if intent.kind in _WITH_BODY and not self._interrupted:
            op = self._others.first_before(intent)
            if op is not None and ((late and not late.alike) or alone()):
                raise Divergence(self._record(op), intent)
            if op is not None:
                raise Early(self._record(op), alike=False)
        return self._new(intent)

    def _new(self, intent: Intent) -> Match:
        numbers = self._numbers.get((intent.kind, intent.name))
        n = 1 if numbers is None else numbers.highest + 1
        return Match(op_id(intent.kind, intent.name, n), None)

    def take(self, intent: Intent, match: Match) -> None:
        """`match`, which `find` gave for `asked`, has begun."""
        self._numbers_of(intent.kind, intent.name).begin(op_number(match.op))
        if match.record is None:
            self._met = self._met or (intent.side and intent.kind != FILE)
            return
        if intent.hint != match.record.get("hint", ""):
            self._hintless.add(intent[:2])
        if self._ordered and self._ordered[0] == match.op:
            self._ordered.popleft()
            del self._main[match.op]
        else:
            del (self._side if match.record.get("side", False) else self._main)[match.op]
            self._others.remove(match.record)

    def supersede(self) -> None:
        """The agent goes on without what is unused. Its names stay taken."""
        for each in (self._main, self._side, self._ordered):
            each.clear()
        self._others = _Unordered()

    def interrupt(self) -> None:
        """The agent is being cancelled."""
        self._interrupted = self._met = True
        for op in self._ordered:
            self._others.add(self._main[op])
        self._ordered.clear()

    def finish(self) -> None:
        """The agent ends. Raises Divergence if something recorded was not asked for."""
        if (left := self._left(None, lambda: True)) is not None:
            raise Divergence(left, None)

    def _left(self, intent: Intent | None, alone: Callable[[], bool]) -> Recorded | None:
        """The first record that should have come before `asked`, which is new."""
        if self._interrupted:
            return None
        main = next(iter(self._main.values()), None)
        if main is not None and (intent is None or not intent.side or alone()):
            return main
        side = next((record for record in self._side.values() if "ok" in record), None)
        return side if side is not None and alone() else None

    def _record(self, op: str) -> Recorded:
        return self._main.get(op) or self._side[op]

    def _numbers_of(self, kind: str, name: str) -> _Numbers:
        numbers = self._numbers.get((kind, name))
        if numbers is None:
            numbers = self._numbers[kind, name] = _Numbers()
        return numbers
