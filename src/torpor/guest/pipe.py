"""Messages between the supervisor and the gateway's process, over a socket pair: 4 bytes of length,
big-endian, and as many of a frame (`wire.streams`), or of WORDS and a JSON object."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterable
from struct import Struct
from typing import Any

WORDS = 0  # no frame's kind
_READ_BYTES = 128 * 1024
_LENGTH = Struct(">I")


class Pipe:
    """One end. Neither side is to read more than it can take: see `pending`."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self.fd = end.fileno()
        self._outgoing, self._incoming = bytearray(), bytearray()

    @property
    def pending(self) -> int:
        """Bytes that the other end has not taken."""
        return len(self._outgoing)

    def send(self, frame: bytes) -> None:
        self._outgoing += _LENGTH.pack(len(frame)) + frame

    def say(self, **words: Any) -> None:
        self.send(bytes([WORDS]) + json.dumps(words).encode())

    def flush(self) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while self._outgoing:
                del self._outgoing[: self._socket.send(self._outgoing)]

    def read(self) -> list[bytes] | None:
        """The whole messages that have come; None once the other end is closed."""
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return []
        except ConnectionResetError:
            return None
        if not data:
            return None
        self._incoming += data
        return list(self._take())

    def _take(self) -> Iterable[bytes]:
        start = 0
        while len(self._incoming) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._incoming, start)
            end = start + _LENGTH.size + length
            if len(self._incoming) < end:
                break
            yield bytes(self._incoming[start + _LENGTH.size : end])
            start = end
        del self._incoming[:start]

    def close(self) -> None:
        self._socket.close()


def is_words(message: bytes) -> bool:
    return message[:1] == bytes([WORDS])


def words(message: bytes) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(message[1:])
    return parsed
