"""HTTP/1.1 as a server reads and writes it, by the piece: bytes in, events out. No I/O.

What two parsers could take for two different things is refused (RFC 9112, 11.2): both lengths, a
length twice, other codings than `chunked`, folded lines, bare CR or LF, blanks before a colon, a
second Host. BadRequest has the status to answer before the connection is closed.
"""

from __future__ import annotations

import enum
import http
import re
from collections.abc import Iterable
from typing import NamedTuple

from torpor.core import refusals
from torpor.wire.streams import TOKEN

HEAD_BYTES_MAX = 64 * 1024
HEADER_LINES_MAX = 200
TARGET_MAX = 16 * 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_LINE_MAX = 4096  # of a chunked body
_LENGTH_DIGITS_MAX = 18
_CHUNK_DIGITS_MAX = 15
_TRAILERS_MAX = 100
_METHOD_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ-_")
_TARGET = re.compile(r"[\x21-\x7e]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# Between two hops, and not between client and server. What Connection names is, too.
HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "proxy-authorization", "te"),
        *("proxy-authenticate", "trailer", "transfer-encoding", "upgrade", "http2-settings"),
    }
)

Headers = list[tuple[str, str]]


class BadRequest(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Head(NamedTuple):
    """A request, but for its body. Names of headers are in lower case. `length` is None where the
    body is chunked."""

    method: str
    target: str
    headers: Headers
    keep_alive: bool
    modern: bool  # HTTP/1.1: the answer may be chunked
    length: int | None
    upgrade: str  # to which protocol the client wants to change
    expects_continue: bool

    def get(self, name: str) -> str:
        return next((value for each, value in self.headers if each == name), "")

    @property
    def end_to_end(self) -> Headers:
        """The headers that are for the server, but for those that say where the body ends."""
        dropped = HOP_BY_HOP | _named_by_connection(self.headers) | {"host", "expect"}
        return [(name, value) for name, value in self.headers if name not in dropped]


class End:
    """The request has come whole."""


END = End()
Event = Head | bytes | End


class _Stage(enum.Enum):
    HEAD = enum.auto()
    BODY = enum.auto()
    CHUNK_SIZE = enum.auto()
    CHUNK_END = enum.auto()
    TRAILER = enum.auto()
    DONE = enum.auto()


class Parser:
    """Give it what comes with `feed`, and take events with `next` until there is none. After END it
    reads the next request, of which bytes may be there already."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0  # bytes of the body, or of its chunk, still to come
        self._chunked = False
        self._trailers = 0
        self._stage = _Stage.HEAD

    def feed(self, data: bytes) -> None:
        self._buffer += data

    @property
    def buffered(self) -> int:
        return len(self._buffer)

    @property
    def at_end(self) -> bool:
        """Nothing is left of the body."""
        return self._stage is _Stage.DONE

    def rest(self) -> bytes:
        """What has come behind the last event, and is no HTTP any more."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def next(self, body_max: int = 1 << 30) -> Event | None:
        """What comes next, of a body at most `body_max` bytes; None if more is needed. Raises
        BadRequest, after which the parser must not be used."""
        while True:
            match self._stage:
                case _Stage.HEAD:
                    return self._head()
                case _Stage.BODY:
                    return self._body(body_max)
                case _Stage.CHUNK_SIZE:
                    further = self._chunk_size()
                case _Stage.CHUNK_END:
                    further = self._chunk_end()
                case _Stage.TRAILER:
                    further = self._trailer()
                case _Stage.DONE:
                    self._stage = _Stage.HEAD
                    return END
            if not further:
                return None

    def _head(self) -> Head | None:
        while self._buffer[:2] == b"\r\n":  # ignored before a request (RFC 9112, 2.2)
            del self._buffer[:2]
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or end > HEAD_BYTES_MAX:
            if len(self._buffer) > HEAD_BYTES_MAX:
                raise BadRequest(431, f"the request's head exceeds {HEAD_BYTES_MAX:,} bytes")
            return None
        head = parse_head(bytes(self._buffer[:end]))
        del self._buffer[: end + 4]
        self._chunked = head.length is None
        self._left = head.length or 0
        self._trailers = 0
        if self._chunked:
            self._stage = _Stage.CHUNK_SIZE
        else:
            self._stage = _Stage.BODY if self._left else _Stage.DONE
        return head

    def _body(self, body_max: int) -> bytes | None:
        taken = bytes(self._buffer[: min(self._left, body_max)])
        if not taken:
            return None
        del self._buffer[: len(taken)]
        self._left -= len(taken)
        if not self._left:
            self._stage = _Stage.CHUNK_END if self._chunked else _Stage.DONE
        return taken

    def _chunk_size(self) -> bool:
        line = self._line()
        if line is None:
            return False
        digits = line.partition(b";")[0].rstrip(b" \t")
        if not digits or len(digits) > _CHUNK_DIGITS_MAX or digits.strip(b"0123456789abcdefABCDEF"):
            raise BadRequest(400, f"chunk size {line[:40]!r} is not a hexadecimal number")
        self._left = int(digits, 16)
        self._stage = _Stage.BODY if self._left else _Stage.TRAILER
        return True

    def _chunk_end(self) -> bool:
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            raise BadRequest(400, "a chunk is longer than its size says")
        del self._buffer[:2]
        self._stage = _Stage.CHUNK_SIZE
        return True

    def _trailer(self) -> bool:
        line = self._line()
        if line is None:
            return False
        self._trailers += 1
        if self._trailers > _TRAILERS_MAX:
            raise BadRequest(400, "the body has too many trailers")
        if not line:
            self._stage = _Stage.DONE
        return True

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end < 0 or end > _LINE_MAX:
            if len(self._buffer) > _LINE_MAX:
                raise BadRequest(400, "a line of a chunked body is too long")
            return None
        line = bytes(self._buffer[:end])
        if b"\n" in line or b"\r" in line:
            raise BadRequest(400, "a line of a chunked body has a bare CR or LF")
        del self._buffer[: end + 2]
        return line


def parse_head(head: bytes) -> Head:
    """The lines of a request's head, without the blank one. Raises BadRequest."""
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or parts[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise BadRequest(400, f"{first[:80]!a} is not an HTTP/1.1 request line")
    method, target, version = parts
    if not method or len(method) > 32 or not _METHOD_CHARS.issuperset(method):
        raise BadRequest(400, f"{method[:32]!a} is not a method")
    if len(target) > TARGET_MAX or not _TARGET.fullmatch(target):
        words = f"{target[:80]!a} is not a target of at most {TARGET_MAX:,} characters"
        raise BadRequest(414 if len(target) > TARGET_MAX else 400, words)
    headers = [_header(line) for line in lines]
    if len(headers) > HEADER_LINES_MAX:
        raise BadRequest(431, f"the request has more than {HEADER_LINES_MAX} headers")
    modern = version == "HTTP/1.1"
    if sum(name == "host" for name, _ in headers) > 1:
        raise BadRequest(400, "the request names its host twice")
    connection = _named_by_connection(headers)
    upgrade = ", ".join(value for name, value in headers if name == "upgrade")
    return Head(
        method,
        target,
        headers,
        keep_alive="close" not in connection and (modern or "keep-alive" in connection),
        modern=modern,
        length=_length(headers, modern),
        upgrade=upgrade.lower() if "upgrade" in connection else "",
        expects_continue=("expect", "100-continue") in {(n, v.lower()) for n, v in headers},
    )


def _named_by_connection(headers: Headers) -> set[str]:
    """Options, and headers that are for this hop alone."""
    return {
        each.strip()
        for name, value in headers
        if name == "connection"
        for each in value.lower().split(",")
    }


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    name = name.lower()
    if not colon or not name or not TOKEN.issuperset(name):
        raise BadRequest(400, f"{line[:80]!a} is not a header")
    value = value.strip(" \t")
    if not _VALUE.fullmatch(value):
        raise BadRequest(400, f"the value of {name} has characters that no header has")
    return name, value


def _length(headers: Headers, modern: bool) -> int | None:
    codings = [value for name, value in headers if name == "transfer-encoding"]
    lengths = [value for name, value in headers if name == "content-length"]
    if codings:
        if len(codings) > 1 or codings[0].lower() != "chunked" or lengths or not modern:
            raise BadRequest(400, "the body must be chunked or have a Content-Length, not both")
        return None
    if not lengths:
        return 0
    (length, *more) = lengths
    if more:
        raise BadRequest(400, "the request has more than one Content-Length")
    if not (length.isascii() and length.isdigit()) or len(length) > _LENGTH_DIGITS_MAX:
        raise BadRequest(400, f"Content-Length {length[:40]!a} is not a number")
    return int(length)


# Answers.


class Framing(NamedTuple):
    """How the body of an answer is to go out."""

    chunked: bool
    length: int | None  # that was promised
    bodiless: bool
    keep_alive: bool

    def piece(self, data: bytes) -> bytes:
        if self.bodiless or not data:
            return b""
        return b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data

    @property
    def last(self) -> bytes:
        return b"0\r\n\r\n" if self.chunked and not self.bodiless else b""


def answer_head(
    head: Head, status: int, headers: Iterable[tuple[str, str]]
) -> tuple[bytes, Framing]:
    """The head of the answer to `head`, and how its body follows."""
    given = [(name.lower(), value) for name, value in headers]
    kept = [(name, value) for name, value in given if name not in HOP_BY_HOP]
    lengths = {value for name, value in kept if name == "content-length"}
    bodiless = head.method == "HEAD" or status in (204, 304) or status < 200
    length = int(text) if len(lengths) == 1 and (text := min(lengths)).isdigit() else None
    if length is None or status in (204, 304):
        kept = [(name, value) for name, value in kept if name != "content-length"]
    chunked = length is None and not bodiless and head.modern
    keep_alive = head.keep_alive and (bodiless or chunked or length is not None)
    if chunked:
        kept.append(("transfer-encoding", "chunked"))
    kept.append(("connection", "keep-alive" if keep_alive else "close"))
    return _lines(status, kept), Framing(chunked, length, bodiless, keep_alive)


def switching_head(headers: Iterable[tuple[str, str]]) -> bytes:
    """Of a 101: what follows is no HTTP."""
    kept = [(n, v) for n, v in headers if n.lower() not in ("connection", "content-length")]
    return _lines(101, [*kept, ("connection", "upgrade")])


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
    framing = [
        ("content-length", str(len(body))),
        ("connection", "keep-alive" if keep_alive else "close"),
    ]
    return _lines(status, [*headers, *framing], reason) + (b"" if head else body)


def error_response(
    path: str,
    status: int,
    code: str,
    message: str,
    *,
    keep_alive: bool = False,
    head: bool = False,
    retry: bool = True,
    reason: str = "",
) -> bytes:
    """An error as the clients of the API at `path` read it; one to be repeated, if `retry`. For
    `reason` see `response`."""
    headers = refusals.headers(retry=retry).items()
    body = refusals.encoded(path, status, code, message)
    if status == refusals.NOT_YET_STATUS:
        reason = refusals.NOT_YET
    return response(status, headers, body, keep_alive=keep_alive, head=head, reason=reason)


def _lines(status: int, headers: Iterable[tuple[str, str]], reason: str = "") -> bytes:
    lines = [f"HTTP/1.1 {status} {reason or _PHRASES.get(status, 'Status')}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


_PHRASES = {int(each): each.phrase for each in http.HTTPStatus}
