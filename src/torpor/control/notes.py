"""What a recovered agent logs and emits again, and its run's log has: it is not appended twice.

A machine goes on from a place in the log, or an agent from its beginning, and says once more what
was said after that. Of what the log has there, each thing that is said again in the same words, in
the same step's body or outside of any, takes one away. Where the agent's main line begins something
new, it has said all of it (`torpor.replay.journal`, rule 3): what is left then was said by chance,
by another thread or in words that change, and counts no more. So nothing that an agent says is
lost, and nothing is there twice but what is said in other words, or by threads in another order.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import entries
from torpor.contextlog.entries import NewEntry
from torpor.contextlog.snapshots import SnapshotRow
from torpor.model.ids import RunId
from torpor.wire.messages import NOTE_KINDS

_KINDS = tuple(f"note.{kind}" for kind in NOTE_KINDS)
_ALL = 2**31


class Notes:
    def __init__(self, journal: Iterable[Mapping[str, Any]] = ()) -> None:
        self._said: Counter[bytes] = Counter()
        self._in_doubt = {record["op"] for record in journal if "ok" not in record}

    @classmethod
    def after(
        cls,
        c: Connection,
        run: RunId,
        snapshot: SnapshotRow | None,
        journal: Iterable[Mapping[str, Any]],
    ) -> Notes:
        """What the log has that a machine restored from `snapshot` may say again, which replays
        `journal`."""
        notes, seq = cls(journal), 0 if snapshot is None else snapshot.heard_seq
        for row in entries.read_entries(c, run, seq, _KINDS, _ALL):
            notes._said[_digest(row.kind, row.op, row.data)] += 1
        return notes

    def fresh(self, note: NewEntry) -> list[NewEntry]:
        """The note, unless the log has it."""
        if not self._said:  # nearly always
            return [note]
        digest = _digest(note.kind, note.op, note.data)
        if not self._said[digest]:
            return [note]
        self._said[digest] -= 1
        return []

    def begun(self, begins: Iterable[Mapping[str, Any]]) -> None:
        """The agent has begun these operations, some perhaps again."""
        if any(not each.get("side") and each["op"] not in self._in_doubt for each in begins):
            self._said.clear()


def _digest(kind: str, op: str | None, data: Mapping[str, Any]) -> bytes:
    text = json.dumps([kind, op, data], sort_keys=True)
    return blake2b(text.encode(), digest_size=16).digest()
