"""Files of runs on their way: from a client to the disk, and from there to where an agent begins.

    POST /v1/files ──► draft, sealed ─► durable ─► `files` row ──► a run names it, or it goes again
    a carrier starts ──► opened, checked ──► written into the agent's working directory

Nothing is held whole in memory. What breaks off on its way in leaves nothing; what an agent does to
a file at its place is its own affair: the next process, or a machine from the template, gets it as
it was given, and replays the rest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from torpor.blobs.protocol import Blobs
from torpor.contextlog import files, runs
from torpor.contextlog.agents import AgentRow
from torpor.contextlog.files import FileRow
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.errors import Exhausted, Invalid, NotFound, full_disk
from torpor.core.ids import RunId
from torpor.core.limits import LIMITS, ServerLimits
from torpor.core.runfiles import FILE_BYTES_MAX, Place, RunFile, check_paths, check_sizes
from torpor.engine import registry
from torpor.logstore.protocol import Store
from torpor.snapshot.seal import Key
from torpor.snapshot.values import VALUES, Deposit, Kept, read
from torpor.worker.sealing import SealingKeys

log = logging.getLogger(__name__)

Object = dict[str, Any]

# What came is written when it is so much: a client's pieces are small.
_PIECE_BYTES = 1 << 20
# A disk that would have less left is full.
_SPARE_BYTES = 64 << 20
# Of a machine's disk; the rest is its file system's, and the agent's.
_DISK_SHARE = 0.9


class RunFiles:
    def __init__(
        self,
        blobs: Blobs,
        store: Store,
        keys: SealingKeys,
        clock: Clock = SYSTEM_CLOCK,
        limits: ServerLimits = LIMITS,
    ) -> None:
        self._blobs, self._store, self._keys = blobs, store, keys
        self._clock, self._limits = clock, limits

    # In.

    async def receive(
        self, chunks: AsyncIterator[bytes], digest: str | None, size_given: int | None
    ) -> Object:
        """Store a content; it waits for a run. `digest` and `told_bytes` are what the client says
        of it. Raises Invalid, Exhausted, HostError; nothing is left then."""
        await asyncio.to_thread(self._require_room, size_given or 0)
        key = await self._keys.of_new_file()
        with self._blobs.draft() as draft:
            deposit = await asyncio.to_thread(Deposit, draft, key)
            async for piece in _pieces(chunks):
                if deposit.bytes + len(piece) > FILE_BYTES_MAX:
                    raise Invalid(
                        f"the file has more than {FILE_BYTES_MAX:,} bytes; that is the limit",
                        hint="Split it, or let the agent fetch it.",
                    )
                await asyncio.to_thread(deposit.write, piece)
            if digest is not None and digest != deposit.digest:
                raise Invalid(
                    "the file changed while it was being uploaded: it is "
                    f"{deposit.digest}, not {digest}",
                    hint="Upload it again when nothing writes to it.",
                )
            if (known := await self._known(deposit.digest)) is not None:
                return _shown(known)
            kept = await asyncio.to_thread(deposit.store, self._blobs)
        row = await self.row_of(kept, key)
        return _shown(await self._store.write(lambda c: self._put(c, row)))

    async def row_of(self, kept: Kept, key: Key | None) -> FileRow:
        """A stored content that `key` seals, to be recorded. Raises HostError."""
        wrapped = None if key is None else await self._keys.wrapped_for(kept.digest, key)
        return FileRow(kept.digest, kept.name, wrapped, kept.bytes)

    async def known(self, digest: str) -> Object:
        """A content that is here; it is spared from now on as if it had just come. Raises
        NotFound."""
        row = await self._known(digest)
        if row is None:
            raise NotFound(f"there is no file {digest[:100]!a} here")
        return _shown(row)

    async def _known(self, digest: str) -> FileRow | None:
        def write(c: Connection) -> FileRow | None:
            row = files.find_file(c, digest)
            if row is None or not self._is_here(row):
                return None
            files.spare(c, digest, self._clock.now())
            return row

        return await self._store.write(write)

    def _put(self, c: Connection, row: FileRow) -> FileRow:
        known = files.put_file(c, row, self._clock.now())
        if known != row and not self._is_here(known):
            files.replace_file(c, row)
            return row
        return known  # another's, where two came at once: ours is garbage

    def _is_here(self, row: FileRow) -> bool:
        return self._blobs.exists(VALUES, row.name)

    def _require_room(self, needed: int) -> None:
        free = self._blobs.free_bytes()
        if free is not None and free < needed + _SPARE_BYTES:
            raise Exhausted(
                f"the store has {free:,} bytes free; the file needs {needed:,}",
                hint="Free some space there, or upload less.",
            )

    # To a run.

    async def check(self, agent: AgentRow, wanted: Mapping[str, str]) -> None:
        """Whether a run of `agent` can have these: path → digest. Raises Invalid, NotFound,
        Exhausted."""
        if not wanted:
            return
        await asyncio.to_thread(check_paths, wanted)
        known = await self._store.read(lambda c: files.sizes(c, wanted.values()))
        files.require(wanted, known)
        total = check_sizes({path: known[digest] for path, digest in wanted.items()})
        disk = agent.spec["disk_mib"] << 20
        in_machine = registry.isolates(agent.engine)
        if in_machine and total > disk * _DISK_SHARE:
            raise Invalid(
                f"the files have {total:,} bytes together; the disk of the agent's "
                f"machine has room for {int(disk * _DISK_SHARE):,}",
                hint='Give the agent a larger disk: [tool.torpor] disk = "8G".',
            )
        if not in_machine:
            await asyncio.to_thread(self._require_room, total)

    async def content(self, ref: str, path: str) -> tuple[RunFile, Iterator[bytes]]:
        """One of a run's files, and its bytes; reading these blocks. Raises NotFound, HostError;
        the iterator raises Damaged."""

        def find(c: Connection) -> tuple[RunFile, FileRow]:
            run = runs.get_run(c, ref).id
            for each in files.files_of(c, run):
                if each.path == path:
                    return each, files.get_file(c, each.digest)
            raise NotFound(f"{run} has no file {path[:200]!a}", hint=f"See: torpor show {run}")

        file, row = await self._store.read(find)
        return file, await self._opened(row)

    async def lay(
        self, run: RunId, put: Callable[[RunFile, Iterator[bytes]], Awaitable[None]]
    ) -> None:
        """Have all files of a run `put` where its agent is about to begin. A full disk is waited
        out. Raises as `content`, and what `put` does."""

        def find(c: Connection) -> list[tuple[RunFile, FileRow]]:
            return [(each, files.get_file(c, each.digest)) for each in files.files_of(c, run)]

        left = await self._store.read(find)
        while left:
            file, row = left[0]
            try:
                await put(file, await self._opened(row))
                del left[0]
            except OSError as error:
                if full_disk(error) is None:
                    raise
                log.warning("run %s waits for room on the disk for %s: %s", run, file.path, error)
                await self._clock.sleep(self._limits.full_disk_retry_s)

    async def _opened(self, row: FileRow) -> Iterator[bytes]:
        key = await self._keys.of_known_file(row)
        return read(self._blobs, Kept(row.digest, row.bytes, row.name), key)


def write_below(root: Path, file: RunFile, content: Iterator[bytes]) -> None:
    """Put a file into a directory. Blocks. Raises OSError, and as `content`."""
    place = Place(root, file.path)
    try:
        for piece in content:
            place.write(piece)
        place.finish()
    finally:
        place.give_up()


async def _pieces(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    held = bytearray()
    async for chunk in chunks:
        held += chunk
        if len(held) >= _PIECE_BYTES:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


def _shown(row: FileRow) -> Object:
    return {"digest": row.digest, "bytes": row.bytes}
