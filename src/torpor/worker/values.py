"""Results of steps that are too large for the log: in parts from the agent, and in parts to one
that replays them. Answers of recorded exchanges that are too large are kept in the same way; they
come from the host itself, and go to the guest as frames (`torpor.worker.serving`).

    agent ── part, part, … ── end {blob} ──► spooled ─► stored ─► op.end in the log ─► recorded
    agent ── fetch ──► read ─► piece, piece, … ──► agent

A value is durable before the entry that names it (rule 5 for values). What was spooled and not
ended is of no use to anybody: the agent that sent it is gone, and the next one begins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from torpor.blobs.protocol import Blobs
from torpor.contextlog import entries
from torpor.contextlog.entries import END, NewEntry
from torpor.contextlog.keys import put_key
from torpor.contextlog.values import ValueRow, find_value, put_value
from torpor.core import artifacts
from torpor.core.bodies import stored_body
from torpor.core.errors import Conflict, GuestError, TorporError, full_disk
from torpor.core.ids import OpId, RunId, op_kind
from torpor.logstore.protocol import Store
from torpor.machines.channel import Channel
from torpor.snapshot.seal import Key
from torpor.snapshot.values import VALUES, Incoming, Kept, read
from torpor.wire import names
from torpor.wire.messages import EXCHANGES, PART_BYTES, VALUE_BYTES_MAX
from torpor.worker.interpreting import End
from torpor.worker.pen import Pen, Write
from torpor.worker.sealing import RunKey, SealingKeys

# So many at once, of one run.
INCOMING_MAX = 64
# While so much was sent that the agent has not taken in, no more is sent.
AHEAD_BYTES = 4 << 20


class Values:
    """All runs' values. `scratch` is where they are spooled."""

    def __init__(self, blobs: Blobs, scratch: Path, store: Store, keys: SealingKeys) -> None:
        self.blobs, self.scratch = blobs, scratch
        self._store, self._keys = store, keys

    async def content(self, run: RunId, digest: str) -> Iterator[bytes]:
        """A value that the run's log names. Reading the iterator blocks. Raises NotFound,
        HostError; the iterator raises Damaged."""
        row = await self._store.read(lambda c: find_value(c, run, digest))
        key = await self.key_of(row)
        return read(self.blobs, Kept(row.digest, row.bytes, row.name), key)

    async def result(self, run: RunId, op: OpId) -> tuple[str, Iterator[bytes]]:
        """The recorded result of an operation: its form, "json" or "bytes", and its content; of an
        exchange whose answer is stored apart, the answer's body.
        Reading the iterator blocks. Raises NotFound, Conflict if there is none, and as `content`.
        """
        ended = await self._store.read(lambda c: _ended(c, run, op))
        if ended is None:
            raise Conflict(f"{op} has no result yet", hint="torpor logs -f waits for it.")
        if not ended["ok"]:
            error = ended["error"]
            raise Conflict(f"{op} failed: {error.get('type')}: {error.get('message')}")
        if (blob := ended.get("blob")) is not None:
            return blob["form"], await self.content(run, blob["digest"])
        value = ended.get("value")
        if op_kind(op) in EXCHANGES and (body := stored_body(value)) is not None:
            return "bytes", await self.content(run, body.digest)
        if isinstance(value, dict) and value.keys() == {"$bytes"}:  # as the SDK packs bytes
            return "bytes", iter((b64decode(value["$bytes"]),))
        return "json", iter((json.dumps(value).encode(),))

    async def key_of(self, row: ValueRow) -> Key | None:
        return await self._keys.find(row.run) if row.sealed else None


def _ended(c: Connection, run: RunId, op: OpId) -> dict[str, Any] | None:
    """Raises NotFound if the operation has not even begun."""
    ended = entries.read_end(c, run, op)
    if ended is None:
        entries.read_op(c, run, op)
    return ended


class Results:
    """Those of one run, for its driver. Its `key` seals them."""

    def __init__(self, run: RunId, values: Values, store: Store, pen: Pen) -> None:
        self.key: RunKey | None = None
        self._run, self._values, self._store, self._pen = run, values, store, pen
        self._incoming: dict[str, Incoming] = {}
        self._ended: dict[str, int] = {}  # operation → the bytes that it must have
        self._kept: dict[str, Kept | TorporError | OSError] = {}
        # The outcomes of these, as the log has them.
        self._recorded: dict[str, dict[str, Any]] = {}
        self._stuck: set[str] = set()
        self._trouble: dict[str, OSError] = {}

    @property
    def stuck(self) -> bool:
        """Something that came could not be spooled, since the disk is full: no more should be
        taken before `room`."""
        return bool(self._stuck)

    async def room(self) -> None:
        """Return once all that came is spooled."""
        while self._stuck:
            await self._pen.when_there_is_room(self._spool_stuck)

    async def _spool_stuck(self) -> None:
        for op in list(self._stuck):
            try:
                self._incoming[op].spool()
            except OSError as error:
                if full_disk(error) is not None:
                    raise
                self._trouble[op] = error
            self._stuck.discard(op)

    def spool(self, op: OpId, data: bytes) -> None:
        """Another part of a result. Raises GuestError."""
        incoming = self._incoming.get(op)
        if incoming is None:
            if len(self._incoming) - len(self._ended) >= INCOMING_MAX:
                raise GuestError(f"more than {INCOMING_MAX} large results come in at once")
            incoming = self._begin(op)
        if incoming.bytes + len(data) > VALUE_BYTES_MAX:
            raise GuestError(f"the result of {op} has more than {VALUE_BYTES_MAX:,} bytes")
        if op not in self._trouble:
            try:
                incoming.write(data)
            except OSError as error:
                if full_disk(error) is not None:
                    self._stuck.add(op)
                else:  # it shows when that has ended: the step fails, the run goes on
                    self._trouble[op] = error

    def _begin(self, op: str) -> Incoming:
        key = None if self.key is None else self.key.key
        return self._incoming.setdefault(op, Incoming(self._values.scratch, key))

    def end(self, end: End) -> Write:
        """An operation has ended; all of its result was sent. For `write`. Raises GuestError."""
        op, blob = end.op, end.outcome.get("blob")
        if blob is None:
            if (cut_off := self._incoming.pop(op, None)) is not None:
                cut_off.close()
            return NewEntry(END, op, {**end.outcome, **end.also})
        if blob["bytes"] == 0:
            self._begin(op)
        if op not in self._incoming:
            raise GuestError(f"{op} ended with a large result that never came")
        self._ended[op] = blob["bytes"]

        def write(c: Connection) -> None:
            outcome = self._recorded[op] = self._outcome(c, op, blob["form"])
            self._pen.append(c, [NewEntry(END, op, {**outcome, **end.also})])

        return write

    async def write(self, *writes: Write) -> list[Any]:
        """Store what has ended, then write: as `Pen.write`. Raises GuestError, too."""
        async with self.settled():
            return await self._pen.write(*writes)

    @contextlib.asynccontextmanager
    async def settled(self) -> AsyncIterator[None]:
        """Inside, the large results of what has ended are stored, to be written."""
        with contextlib.ExitStack() as holds:
            await self._settle(holds)
            yield

    async def _settle(self, holds: contextlib.ExitStack) -> None:
        for op, size in self._ended.items():
            incoming = self._incoming.pop(op)
            with contextlib.closing(incoming):
                if op in self._trouble:
                    self._kept[op] = self._trouble.pop(op)
                    continue
                if incoming.bytes != size:
                    raise GuestError(f"{op} sent {incoming.bytes:,} of {size:,} bytes")
                blobs = self._values.blobs
                try:
                    kept = await self._stored(incoming)
                    # However long the log takes, garbage collection does not (rule 12).
                    holds.enter_context(blobs.held(VALUES, [kept.name]))
                    self._kept[op] = kept
                except (TorporError, OSError) as error:
                    self._kept[op] = error
        self._ended.clear()

    async def _stored(self, incoming: Incoming) -> Kept:
        blobs = self._values.blobs
        return await self._pen.when_there_is_room(lambda: asyncio.to_thread(incoming.store, blobs))

    def _outcome(self, c: Connection, op: str, form: str) -> dict[str, Any]:
        """What the log is to have of an operation with a large result, which is recorded as the
        run's. One that could not be stored has failed. Called again where the disk is full."""
        kept = self._kept[op]
        if not isinstance(kept, Kept):
            words = f"its result could not be stored: {kept}"
            return {"ok": False, "error": {"type": "OSError", "message": words}}
        self._put(c, kept)
        return {"ok": True, "blob": {"digest": kept.digest, "bytes": kept.bytes, "form": form}}

    @contextlib.asynccontextmanager
    async def stored(self, content: bytes) -> AsyncIterator[tuple[Kept, Write]]:
        """Inside, `content` is stored, for an entry to name it that is recorded together with the
        write. Raises TorporError, OSError."""
        key = None if self.key is None else self.key.key
        with contextlib.closing(Incoming(self._values.scratch, key)) as incoming:
            with contextlib.suppress(OSError):  # what could not be written is tried again
                await asyncio.to_thread(incoming.write, content)
            kept = await self._stored(incoming)
        # However long the log takes, garbage collection does not (rule 12).
        with self._values.blobs.held(VALUES, [kept.name]):
            yield kept, lambda c: self._put(c, kept)

    def _put(self, c: Connection, kept: Kept) -> None:
        row = ValueRow(self._run, kept.digest, kept.bytes, self.key is not None, kept.name)
        put_value(c, row)
        if self.key is not None:
            put_key(c, self._run, self.key.wrapped)

    def confirm(self, op: OpId, guest: Channel) -> None:
        """Let the guest know that the end of `op` is recorded: as the log has it, where the agent
        cannot know that."""
        outcome = self._recorded.pop(op, None)
        if outcome is None or (outcome["ok"] and op_kind(op) not in artifacts.KINDS):
            guest.say(names.RECORDED, op=op)
        else:
            guest.say(names.RESULT, op=op, **outcome)

    async def fetch(self, op: OpId, guest: Channel) -> None:
        """Send the recorded result of `op`, in pieces."""
        try:
            ended = await self._store.read(lambda c: entries.read_end(c, self._run, op))
            if ended is None or "blob" not in ended:
                raise GuestError(f"{op} has no large result")
            content = await self._values.content(self._run, ended["blob"]["digest"])
            while (chunk := await asyncio.to_thread(next, content, None)) is not None:
                for at in range(0, len(chunk), PART_BYTES):
                    data = b64encode(chunk[at : at + PART_BYTES]).decode()
                    guest.say(names.PIECE, op=op, data=data, last=False)
                    await guest.room(AHEAD_BYTES)
            guest.say(names.PIECE, op=op, data="", last=True)
        except TorporError as error:
            guest.say(names.PIECE, op=op, data="", last=True, problem=error.message)

    def close(self) -> None:
        for incoming in self._incoming.values():
            incoming.close()
