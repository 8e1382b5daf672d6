"""What a recovered agent logs and emits again, and its run's log has: it is not appended twice.

A machine goes on from a place in the log, or an agent from its beginning, and repeats the notes
that came after that. Each note with the same words, in the same step's body or outside of any,
takes one away from those that the log has there. Where the agent's main line begins something new,
it has repeated all of them (`torpor.replay.journal`, rule 3): what is left then came by chance,
from another thread or in words that change, and counts no more. So no note is lost, and none is
there twice but in other words, or from threads in another order.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import entries
from torpor.contextlog.entries import EntryRow, NewEntry
from torpor.contextlog.snapshots import SnapshotRow
from torpor.core.artifacts import FILE
from torpor.core.ids import RunId
from torpor.wire.messages import NOTE_KINDS

_KINDS = tuple(f"note.{kind}" for kind in NOTE_KINDS)
_ALL = 2**31


class Notes:
    def __init__(
        self,
        repeatable: Iterable[NewEntry | EntryRow] = (),
        journal: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        """For a machine that replays `journal`, and may repeat these notes."""
        self._repeatable = Counter(map(_digest, repeatable))
        self._in_doubt = {record["op"] for record in journal if "ok" not in record}

    def fresh(self, note: NewEntry) -> list[NewEntry]:
        """The note, unless the log has it."""
        if not self._repeatable:  # nearly always
            return [note]
        digest = _digest(note)
        if not self._repeatable[digest]:
            return [note]
        self._repeatable[digest] -= 1
        return []

    def begun(self, begins: Iterable[Mapping[str, Any]]) -> None:
        """The agent has begun these operations, some perhaps again."""
        if any(map(self._is_new, begins)):
            self._repeatable.clear()

    def _is_new(self, begin: Mapping[str, Any]) -> bool:
        """Something that its main line begins, and only once it has repeated all that it had."""
        return not begin.get("side") and begin["op"] not in self._in_doubt and begin["kind"] != FILE


def repeatable(c: Connection, run: RunId, snapshot: SnapshotRow | None) -> list[EntryRow]:
    """The notes in the log that a machine restored from `snapshot` may repeat."""
    seq = 0 if snapshot is None else snapshot.heard_seq
    return entries.read_entries(c, run, seq, _KINDS, _ALL)


def _digest(note: NewEntry | EntryRow) -> bytes:
    text = json.dumps([note.kind, note.op, note.data], sort_keys=True)
    return blake2b(text.encode(), digest_size=16).digest()
