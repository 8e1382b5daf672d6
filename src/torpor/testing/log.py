"""What a run in a test has done, in order: the part of a context log that replays need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torpor.replay.journal import Recorded

_IDENTITY = ("op", "kind", "name", "digest", "at", "side", "hint")


class Entry(NamedTuple):
    """`at` is the test's time; `what` is a `begin`, or an outcome as the journal has it."""

    t: Literal["begin", "end"]
    op: str
    at: float
    what: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.t} of {self.op}"


@dataclass
class Log:
    entries: list[Entry] = field(default_factory=list)
    contents: dict[str, bytes] = field(default_factory=dict)  # of results that are in no entry
    begun: dict[str, Entry] = field(default_factory=dict)

    def begin(self, message: Mapping[str, Any], now: float) -> Entry:
        """What begins again after a crash has begun when it first did."""
        op = message["op"]
        if op not in self.begun:
            self._append(Entry("begin", op, now, message))
        return self.begun[op]

    def end(self, op: str, outcome: Mapping[str, Any], now: float) -> None:
        self._append(Entry("end", op, now, outcome))

    def _append(self, entry: Entry) -> None:
        self.entries.append(entry)
        if entry.t == "begin":
            self.begun[entry.op] = entry

    def until(self, place: int) -> Log:
        """The log as a crash leaves it that comes after so many entries."""
        cut = Log(contents=self.contents)
        for entry in self.entries[:place]:
            cut._append(entry)
        return cut

    def journal(self) -> list[Recorded]:
        """For a replay."""
        records: dict[str, dict[str, Any]] = {}
        for place, entry in enumerate(self.entries, start=1):
            if entry.t == "begin":
                known = {key: entry.what[key] for key in _IDENTITY if key in entry.what}
                records[entry.op] = known
            else:
                records[entry.op] |= {**entry.what, "seq": place}
        return list(records.values())  # type: ignore[arg-type]
