"""HTTP/1.1, as much as a model endpoint on the loopback needs: bytes in, requests out. No I/O.

Bodies by Content-Length or chunked; keep-alive; one request at a time. What is malformed or too
large raises BadRequest with the status to answer before the connection is closed.
"""

from __future__ import annotations

import http
from collections.abc import Iterable
from typing import NamedTuple

from torpor.core import refusals

HEAD_BYTES_MAX = 64 * 1024
BODY_BYTES_MAX = 8 * 1024 * 1024
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class BadRequest(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Request(NamedTuple):
    method: str
    path: str  # with its query
    headers: dict[str, str]  # by lower-case name; repeated ones joined by ", "
    keep_alive: bool
    body: bytearray  # grows while it comes in


class Parser:
    """Feed it what comes; `feed` gives the request once it is whole. The bytes of a further one
    stay until `feed` is called again."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._request: Request | None = None
        self._length = 0  # bytes of body still to come; of this chunk when chunked
        self._chunked = False
        self._stage = "head"
        self.expects_continue = False  # the client waits for CONTINUE before it sends the body

    def feed(self, data: bytes) -> Request | None:
        """Raises BadRequest, after which the parser must not be used."""
        self._buffer += data
        while getattr(self, f"_{self._stage}")():
            if self._stage == "done":
                request, self._request = self._request, None
                self._stage = "head"
                return request
        return None

    # Each stage takes what it can from the buffer, and says whether it got further.

    def _head(self) -> bool:
        while (
            self._buffer[:2] == b"\r\n"
        ):  # blank lines before a request are ignored (RFC 9112 2.2)
            del self._buffer[:2]
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or end > HEAD_BYTES_MAX:
            if len(self._buffer) > HEAD_BYTES_MAX:
                raise BadRequest(431, f"the request's head exceeds {HEAD_BYTES_MAX:,} bytes")
            return False
        head = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        self._request = _parse_head(head)
        self._start_body(self._request)
        return True

    def _start_body(self, request: Request) -> None:
        headers = request.headers
        coding = headers.get("transfer-encoding")
        length = headers.get("content-length")
        self._chunked = coding is not None
        if coding is not None:
            if coding.lower() != "chunked" or length is not None:
                raise BadRequest(400, "the body must be chunked or have a Content-Length, not both")
            self._stage = "chunk_size"
        elif length is not None:
            if not (length.isascii() and length.isdigit()):
                raise BadRequest(400, f"Content-Length {length[:40]!r} is not a number")
            self._expect(request, int(length[:20]))
            self._stage = "body"
        elif request.method in ("POST", "PUT", "PATCH"):
            raise BadRequest(411, f"a {request.method} needs a Content-Length or a chunked body")
        else:
            self._stage = "done"
        self.expects_continue = (
            self._stage != "done" and headers.get("expect", "").lower() == "100-continue"
        )

    def _expect(self, request: Request, length: int) -> None:
        if len(request.body) + length > BODY_BYTES_MAX:
            raise BadRequest(413, f"the request's body exceeds {BODY_BYTES_MAX:,} bytes")
        self._length = length

    def _body(self) -> bool:
        assert self._request is not None
        taken = self._buffer[: self._length]
        del self._buffer[: self._length]
        self._request.body.extend(taken)
        self._length -= len(taken)
        if self._length:
            return False
        self._stage = "chunk_end" if self._chunked else "done"
        return True

    def _chunk_size(self) -> bool:
        assert self._request is not None
        line = self._line()
        if line is None:
            return False
        digits = line.partition(b";")[0].strip()
        if not digits or len(digits) > 8 or digits.strip(b"0123456789abcdefABCDEF"):
            raise BadRequest(400, f"chunk size {line[:40]!r} is not a hexadecimal number")
        self._expect(self._request, int(digits, 16))
        self._stage = "body" if self._length else "trailer"
        return True

    def _chunk_end(self) -> bool:
        line = self._line()
        if line is None:
            return False
        if line:
            raise BadRequest(400, "a chunk is longer than its size says")
        self._stage = "chunk_size"
        return True

    def _trailer(self) -> bool:
        line = self._line()
        if line is None:
            return False
        if not line:
            self._stage = "done"
        return True

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > 4096:
                raise BadRequest(400, "a line of a chunked body is too long")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line


def _parse_head(head: bytes) -> Request:
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or parts[0] not in _METHODS or not parts[2].startswith("HTTP/1."):
        raise BadRequest(400, f"{first[:80]!r} is not an HTTP/1.1 request line")
    method, path, version = parts
    if not path.startswith("/") or not path.isascii() or len(path) > 4096:
        raise BadRequest(400, f"{path[:80]!r} is not a path of at most 4096 characters")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or not name or not _TOKEN.issuperset(name):
            raise BadRequest(400, f"{line[:80]!r} is not a header")
        value = value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    connection = headers.get("connection", "").lower()
    keep_alive = "close" not in connection and (version != "HTTP/1.0" or "keep-alive" in connection)
    return Request(method, path, headers, keep_alive, bytearray())


def response(
    status: int,
    headers: Iterable[tuple[str, str]],
    body: bytes,
    *,
    keep_alive: bool,
    head: bool = False,
    reason: str = "",
) -> bytes:
    """A whole response; `head` leaves out the body, as HEAD wants it. `reason` stands for what is
    usual with this status."""
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = "Status"
    lines = [f"HTTP/1.1 {status} {reason or phrase}"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines += [
        f"content-length: {len(body)}",
        f"connection: {'keep-alive' if keep_alive else 'close'}",
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + (b"" if head else body)


def error_response(
    path: str,
    status: int,
    code: str,
    message: str,
    *,
    keep_alive: bool = False,
    retry: bool = True,
    reason: str = "",
) -> bytes:
    """An error as the clients of the API at `path` read it; one to be repeated, if `retry`."""
    headers = refusals.headers(retry=retry).items()
    body = refusals.encoded(path, status, code, message)
    return response(status, headers, body, keep_alive=keep_alive, reason=reason)
