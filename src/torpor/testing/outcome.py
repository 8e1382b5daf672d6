"""What came of an agent's run in a test, and its replays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from torpor.core import artifacts
from torpor.replay.journal import Divergence, Recorded
from torpor.sdk import values
from torpor.testing.log import Log


class LogLine(NamedTuple):
    """A line of `torpor.log`."""

    message: str
    level: str = "info"
    data: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Op:
    """An operation of the run, as `torpor show` has it: `op` is `kind:name#number`. `data` is what
    it began with (of a wait `prompt`, `data`, `timeout_s`, …), `value` what it ended with, if `ok`,
    or else `error` (`type`, `message`); `ok` is None if it has not ended. `at` is when it began."""

    op: str
    kind: str
    name: str
    data: Mapping[str, Any]
    ok: bool | None
    value: Any
    error: Mapping[str, Any] | None
    at: datetime


class Otherwise(Divergence):
    """A replay came to another end than its run."""

    def __init__(self, what: str, recorded: Any, now: Any) -> None:
        super().__init__(Recorded(op="end", kind="end", name="end", digest=""), None)
        self.message = (
            f"the agent does not do what its log says\n"
            f"  recorded: {what} {recorded!r}\n"
            f"  now:      {what} {now!r}"
        )
        self.args = (self.message,)


class Again(Protocol):
    """Runs the agent again, from a log."""

    def __call__(self, log: Log, *, complete: bool) -> Outcome: ...


@dataclass(frozen=True)
class Outcome:
    """How a run ended, and what it did. `result` is what the agent returned, as JSON gives it back;
    of one that failed it is None, `error` is what it raised, and `failure` how the log has that.
    `log` is what it said by `torpor.log`, `emitted` by `torpor.emit`; `slept` is by how many
    seconds the clock has skipped. `children` are those that were run, in that order.
    """

    agent: str
    input: Mapping[str, Any]
    result: Any
    error: BaseException | None
    failure: Mapping[str, Any] | None
    log: list[LogLine]
    emitted: list[Any]
    slept: float
    children: list[Outcome]
    _log: Log = field(repr=False, compare=False)
    _again: Again = field(repr=False, compare=False)

    @property
    def operations(self) -> list[Op]:
        """All of them, in the order in which they began."""
        found: dict[str, Op] = {}
        for entry in self._log.entries:
            what = entry.what
            if entry.t == "begin":
                at = datetime.fromtimestamp(entry.at, UTC)
                data = values.unpack(what["data"])
                named = (entry.op, what["kind"], what["name"], data)
                found[entry.op] = Op(*named, None, None, None, at)
            else:
                op = found[entry.op]
                value = self._value(entry.op, what)
                ended = (what["ok"], value, what.get("error"))
                found[entry.op] = Op(op.op, op.kind, op.name, op.data, *ended, op.at)
        return list(found.values())

    @property
    def steps(self) -> list[Op]:
        """The steps, in the order in which they began."""
        return self._of("step")

    @property
    def waits(self) -> list[Op]:
        """Approvals, permissions, waitpoints and events; the value of each as `torpor.WaitResult`
        has it."""
        return self._of("wait", "event", "permission")

    @property
    def spawned(self) -> list[Op]:
        """The children that it spawned: the value of each is how that ended."""
        return self._of("child")

    @property
    def model_calls(self) -> list[Op]:
        """The calls of models: the value of each is the reply."""
        return self._of("model")

    @property
    def artifacts(self) -> dict[str, bytes]:
        """What was published by `torpor.artifact`, by name."""
        return {each.data["name"]: each.value for each in self._of(*artifacts.KINDS) if each.ok}

    @property
    def entries(self) -> int:
        """How many places there are for a crash: each operation's beginning, and its end."""
        return len(self._log.entries)

    def replay(self, crash_at: int | None = None) -> Outcome:
        """Run the agent again from its log, as it recovers from a crash: what is recorded does not
        happen again. Without `crash_at` all is recorded. With it, a crash came after so many
        entries: an operation that had begun and not ended happens again, what comes after that
        happens, answered as the first time.

        Raises `torpor.Divergence`, with both sides, if the agent asks for anything else than
        recorded, or comes to another end though all was. Raises what the agent raises where it did
        not before."""
        if crash_at is None:
            again = self._again(self._log.until(self.entries), complete=True)
        elif not 0 <= crash_at <= self.entries:
            raise ValueError(f"crash_at={crash_at}: the run has {self.entries} entries")
        else:
            again = self._again(self._log.until(crash_at), complete=False)
        if again.error is not None and self.error is None:
            raise again.error
        if crash_at is None:
            self._compare(again)
        return again

    def replay_all(self) -> None:
        """`replay`, with a crash at each place that there is, and from all of the log. Raises as
        that, saying where the crash was."""
        for place in range(self.entries + 1):
            try:
                self.replay(crash_at=place)
            except BaseException as error:
                after = f"after entry {place}, the {self._log.entries[place - 1]}"
                where = after if place else "before the first entry"
                error.add_note(f"replayed as after a crash {where}: outcome.replay({place})")
                raise
        self.replay()

    def _compare(self, again: Outcome) -> None:
        raised, raises = ((each.failure or {}).get("type") for each in (self, again))
        ends = {
            "it raises": (raised, raises),
            "it returns": (self.result, again.result),
            "it emits": (self.emitted, again.emitted),
        }
        for what, (was, now) in ends.items():
            if was != now:
                raise Otherwise(what, was, now)

    def _of(self, *kinds: str) -> list[Op]:
        return [each for each in self.operations if each.kind in kinds]

    def _value(self, op: str, ended: Mapping[str, Any]) -> Any:
        blob = ended.get("blob")
        if blob is None:
            return values.unpack(ended.get("value"))
        content = self._log.contents[op]
        return content if blob["form"] == "bytes" else values.unpack(json.loads(content))
