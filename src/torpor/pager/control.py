"""Requests to the pager: one JSON object a line, answered by one, in order, on each connection.

    → {"op": "create", "slot": "m1", "memory": 536870912, "disk": 2147483648}
    ← {}
    → {"op": "bind", "slot": "m1", "manifest": "<blake3 hex>", "hot": true}
    ← {"pushed": 2517, "push_ms": 11.2}
    → {"op": "dirty", "slot": "m2"}
    ← {"error": {"code": "not_found", "message": "there is no slot 'm2'", "hint": ""}}

`FIELDS` is the whole list of operations. A request that is not in it, has a field too many or too
few or of another type, or is longer than LINE_BYTES_MAX is refused, and the rest goes on (rule 13).

The bind of a sealed snapshot also has a "key", 64 hex digits. It is a secret (rule 9): it is kept
with the slot's content, goes with it, and no request is ever logged or repeated in an answer.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import trio

from torpor import __version__
from torpor.core.errors import InternalError, Invalid, TorporError
from torpor.pager.content import Contents
from torpor.pager.files import Files
from torpor.pager.slots import Slot, Slots
from torpor.snapshot.seal import KEY_BYTES, Key

log = logging.getLogger(__name__)

LINE_BYTES_MAX = 64 * 1024
_DIGEST = re.compile(r"[0-9a-f]{64}")
_KEY = re.compile(rf"[0-9a-f]{{{2 * KEY_BYTES}}}")

# operation → its fields and their types; all are required but those of OPTIONAL.
FIELDS: dict[str, dict[str, type]] = {
    "create": {"slot": str, "memory": int, "disk": int},
    "bind": {"slot": str, "manifest": str, "hot": bool, "key": str},
    "dirty": {"slot": str},
    "stats": {"slot": str},
    "drop": {"slot": str},
    "drop_caches": {},
    "readahead": {"kb": int},
    "ping": {},
    "shutdown": {},
}
OPTIONAL = {("stats", "slot"), ("bind", "key")}


def parse(line: bytes) -> dict[str, Any]:
    """A request, checked against FIELDS. Raises Invalid."""
    try:
        request = json.loads(line)
    except ValueError as error:
        raise Invalid(f"the request is not JSON: {error}") from error
    op = request.get("op") if isinstance(request, dict) else None
    if not isinstance(op, str) or op not in FIELDS:
        raise Invalid(
            "the request names no operation of the pager",
            hint=f'Send {{"op": …}} with one of: {", ".join(FIELDS)}.',
        )
    fields = FIELDS[op]
    for name in request.keys() - {"op"} - fields.keys():
        raise Invalid(f"{op} has no field {name!r}", hint=f"It has: {', '.join(fields) or 'none'}.")
    for name, kind in fields.items():
        if name not in request and (op, name) in OPTIONAL:
            continue
        # Not isinstance: true is no number here.
        if type(request.get(name)) is not kind:
            raise Invalid(f"{op} needs {name!r}, of JSON type {_JSON_TYPES[kind]}")
    return cast(dict[str, Any], request)


_JSON_TYPES: dict[type, str] = {str: "string", int: "integer", bool: "boolean"}


class Control:
    """`stop` ends the process; `readahead` sets the mount's read-ahead in KiB."""

    def __init__(
        self,
        slots: Slots,
        files: Files,
        contents: Contents,
        *,
        mount: Path,
        stop: Callable[[], None],
        readahead: Callable[[int], None],
    ) -> None:
        self._slots = slots
        self._files = files
        self._contents = contents
        self._mount = mount
        self._stop = stop
        self._readahead = readahead

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer one connection until it ends."""
        # A client that is gone is no trouble: what it asked for is done.
        with suppress(trio.BrokenResourceError):
            async with stream:
                await self._converse(stream)

    async def _converse(self, stream: trio.SocketStream) -> None:
        try:
            async for line in _lines(stream):
                request, answer = await self._respond(line)
                await _send(stream, answer)
                if request.get("op") == "shutdown":
                    self._stop()
        except Invalid as error:
            await _send(stream, _failure(error))

    async def _respond(self, line: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
        request: dict[str, Any] = {}
        try:
            request = parse(line)
            return request, await self._do(request)
        except TorporError as error:
            return request, _failure(error)
        except Exception as error:
            log.exception("%s failed", request.get("op"))
            return request, _failure(InternalError(f"the pager failed: {error!r}"))

    async def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["op"]:
            case "create":
                self._slots.create(request["slot"], request["memory"], request["disk"])
            case "bind":
                return await self._bind(**{k: v for k, v in request.items() if k != "op"})
            case "dirty":
                overlay = self._slots.get(request["slot"]).overlay
                return {"pages": overlay.ranges(), "overlay": str(overlay.path)}
            case "stats":
                return self._stats(request.get("slot"))
            case "drop":
                dropped = self._slots.drop(request["slot"])
                await trio.to_thread.run_sync(self._files.forget_names, dropped)
            case "drop_caches":
                self._contents.clear()
            case "readahead":
                self._readahead(request["kb"])
            case "ping":
                return {
                    "pid": os.getpid(),
                    "mount": str(self._mount),
                    "version": __version__,
                    "slots": [slot.name for slot in self._slots],
                }
        return {}

    async def _bind(
        self, slot: str, manifest: str, hot: bool, key: str | None = None
    ) -> dict[str, Any]:
        bound: Slot = self._slots.get(slot)
        if not _DIGEST.fullmatch(manifest):
            raise Invalid(f"{manifest!r} is not the digest of a manifest: 64 hex digits")
        if key is not None and not _KEY.fullmatch(key):
            raise Invalid(f"the key is not {2 * KEY_BYTES} hex digits")
        opening = None if key is None else Key(bytes.fromhex(key))
        content = await trio.to_thread.run_sync(self._contents.open, manifest, opening)
        await bound.bind(content, self._files.push if hot else None)
        stats = bound.stats()
        return {"pushed": stats["pushed"], "push_ms": stats["push_ms"]}

    def _stats(self, name: str | None) -> dict[str, Any]:
        """Of one slot, or sums over all that there were since the start."""
        if name is not None:
            return self._slots.get(name).stats()
        return self._slots.totals() | self._contents.stats()


def _failure(error: TorporError) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": error.message, "hint": error.hint}}


async def _send(stream: trio.SocketStream, answer: dict[str, Any]) -> None:
    await stream.send_all(json.dumps(answer).encode() + b"\n")


async def _lines(stream: trio.SocketStream) -> AsyncIterator[bytes]:
    pending = bytearray()
    async for data in stream:
        pending += data
        while (end := pending.find(b"\n")) >= 0:
            line = bytes(pending[:end])
            del pending[: end + 1]
            yield line
        if len(pending) > LINE_BYTES_MAX:
            raise Invalid(f"a request is longer than {LINE_BYTES_MAX} bytes")
