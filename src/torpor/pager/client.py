"""How other processes ask the pager: `PagerClient`, for asyncio. Requests and answers are described
in `torpor.pager.control`; an error that the pager answers is raised here as what it was there."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, cast

from torpor.core import errors
from torpor.core.errors import InternalError, Missing, TorporError
from torpor.snapshot.seal import Key

# A fragmented disk's `dirty` is long: two numbers for every other page at worst.
ANSWER_BYTES_MAX = 64 * 1024 * 1024
_ERRORS = {
    kind.code: kind
    for kind in (
        errors.NotFound,
        errors.Conflict,
        errors.Invalid,
        errors.HostError,
        errors.Missing,
        errors.Exhausted,
        errors.Damaged,
        errors.InternalError,
    )
}
_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class PagerClient:
    """Requests that run at the same time use a connection each; idle ones are kept for the next.

    Every method raises Missing when the pager cannot be reached, and what the pager answered.
    """

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._idle: list[_Connection] = []

    async def create(self, slot: str, memory: int, disk: int) -> None:
        """A new, empty slot with files of these sizes in bytes; no memory if that is 0.

        Raises Conflict, Invalid."""
        await self._ask(op="create", slot=slot, memory=memory, disk=disk)

    async def bind(
        self, slot: str, manifest: str, *, hot: bool = True, key: Key | None = None
    ) -> dict[str, Any]:
        """Give a slot the content of a snapshot, which `key` opens if it is sealed; with `hot`, its
        hot pages are in the kernel's cache when this returns. A slot without memory may be bound
        again: what was written to its disk is forgotten. → {pushed, push_ms}.

        Raises NotFound, Conflict, Invalid, Damaged."""
        opening = {"key": key.secret.hex()} if key else {}
        return await self._ask(op="bind", slot=slot, manifest=manifest, hot=hot, **opening)

    async def dirty(self, slot: str) -> dict[str, Any]:
        """→ {pages: [[start, count], …], overlay: path}: disk pages written since the bind, and
        the sparse file that holds them at the same offsets."""
        return await self._ask(op="dirty", slot=slot)

    async def stats(self, slot: str | None = None) -> dict[str, Any]:
        """→ {reads, bytes, frames, hits, misses, pushed, push_ms}: of one slot, which also has
        faults: [[page, count], …] and damage; or of all that there were since the pager's start,
        with damaged: how many."""
        return await self._ask(op="stats", **({"slot": slot} if slot is not None else {}))

    async def drop(self, slot: str) -> None:
        """Remove a slot. Files of it that are open go on working until they are closed."""
        await self._ask(op="drop", slot=slot)

    async def drop_caches(self) -> None:
        """Forget decompressed frames and opened snapshots."""
        await self._ask(op="drop_caches")

    async def readahead(self, kb: int) -> None:
        """Set the kernel's read-ahead for files opened from now on; 0 to learn exact pages."""
        await self._ask(op="readahead", kb=kb)

    async def ping(self) -> dict[str, Any]:
        """→ {pid, mount, version, slots: [name, …]}"""
        return await self._ask(op="ping")

    async def shutdown(self) -> None:
        """Unmount and end the pager."""
        await self._ask(op="shutdown")

    async def close(self) -> None:
        """Close idle connections."""
        while self._idle:
            await _close(self._idle.pop())

    async def _ask(self, **request: Any) -> dict[str, Any]:
        connection = self._idle.pop() if self._idle else await self._connect()
        reader, writer = connection
        try:
            writer.write(json.dumps(request).encode() + b"\n")
            await writer.drain()
            line = await reader.readline()
        except BaseException as error:
            # Also when cancelled: the answer that is still to come must not meet the next request.
            writer.close()
            if isinstance(error, ConnectionError):
                raise self._unreachable(error) from error
            raise
        if not line.endswith(b"\n"):
            writer.close()
            raise self._unreachable("it closed the connection")
        self._idle.append(connection)
        answer = cast(dict[str, Any], json.loads(line))
        if "error" in answer:
            raise _raised(**answer["error"])
        return answer

    async def _connect(self) -> _Connection:
        try:
            return await asyncio.open_unix_connection(self.socket, limit=ANSWER_BYTES_MAX)
        except OSError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, why: object) -> Missing:
        return Missing(
            f"the pager does not answer at {self.socket}: {why}",
            hint=f"The end of {self.socket.with_suffix('.log')} may say why it ended.",
        )


def _raised(code: str, message: str, hint: str) -> TorporError:
    return _ERRORS.get(code, InternalError)(message, hint=hint)


async def _close(connection: _Connection) -> None:
    connection[1].close()
    await connection[1].wait_closed()
