"""Streams: what a guest does over the network, on the link's STREAMS channel. No I/O.

A stream is one HTTP exchange, or one TCP connection. The guest opens it, and numbers it; numbers
are not used again in a run. The same frames go on from the host's worker to its broker, with
numbers of the worker's own.

    0     1   kind
    1     4   stream, big-endian
    5         payload: JSON for OPEN, HEAD, REFUSE, RESET, RECORD, ATTACH and NOTE; below for the
              rest

    OPEN     →   {scheme: http | https | tcp, host, port, method, target, headers, upgrade?}. A body
                 is announced by content-length, or by transfer-encoding: chunked
    WINDOW  ← →  8 bytes: the other side may send up to this offset. The first says that the stream
                 is admitted: before it a guest sends no byte of the body. The END of a request that
                 has none may come at once
    DATA    ← →  8 bytes: the offset of the first byte; then at most DATA_BYTES
    END     ← →  8 bytes: the length of all that this side has sent; it sends no more
    HEAD     ←   {status, headers}: of the answer. After a 101 both sides send until END
    REFUSE   ←   {status, code, message, retry?}: there is no answer but this, made by torpor
    RESET   ← →  {code, message}: over, whatever was under way
    RECORD   ←   {kind, ask?, secret?}: not as a stream, but as an operation (`model`, `http`),
                 after a `permission` if `ask`; with `secret` the host authenticates it, and what
                 its client does so with is left out
    ATTACH   →   {op, offset}: the stream has the answer of this operation up to here, and goes on
                 (after a thaw, also on another host)
    NOTE     →   {code, name, port?}, stream 0: refused in the guest: a name that no rule knows, a
                 port, an address

Headers are a list of [name, value], names in lower case, values without CR, LF and NUL. Offsets
count bytes of the body, or of the connection, from 0. An operation's answer comes in the same way,
on the stream that its `begin` names.

Bytes below an offset that was taken before are dropped: after a thaw some come twice. Bytes above
it are a fault. At most WINDOW_BYTES are under way in a direction, since what is unacknowledged is
in every snapshot.

An agent without a machine has no link: there a frame is a line among the lines of its messages,
LINE and then the frame in base64, so that all that is sent keeps its order.
"""

from __future__ import annotations

import json
import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Mapping
from struct import Struct
from typing import Any, NamedTuple

from torpor.core import jsonvalues
from torpor.core.errors import Invalid
from torpor.wire.checks import Check
from torpor.wire.checks import flag as _flag
from torpor.wire.checks import integer as _integer
from torpor.wire.checks import list_of as _list
from torpor.wire.checks import one_of as _one_of
from torpor.wire.checks import record as _record
from torpor.wire.checks import shown as _shown
from torpor.wire.checks import text as _text

OPEN, HEAD, DATA, END, RESET, WINDOW, REFUSE, RECORD, ATTACH, NOTE = range(1, 11)

WINDOW_BYTES = 256 * 1024
DATA_BYTES = 32 * 1024
HOST_CHARS_MAX = 253
TARGET_CHARS_MAX = 16 * 1024
HEADERS_MAX = 200
HEADERS_CHARS_MAX = 64 * 1024
MESSAGE_CHARS_MAX = 4096
OFFSET_MAX = 2**62
STREAM_MAX = 2**32 - 1
PAYLOAD_BYTES_MAX = 256 * 1024
LINE = b"~"

_PREFIX = Struct(">BI")
_OFFSET = Struct(">Q")
TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")  # the name of a header
_VALUE = re.compile(r"[\t\x20-\xff]*")
_TARGET = re.compile(r"[\x21-\x7e]*")


class Frame(NamedTuple):
    """`fields` of kinds whose payload is JSON; `offset` and `data` of the others."""

    kind: int
    stream: int
    fields: dict[str, Any]
    offset: int = 0
    data: bytes = b""


def encode(kind: int, stream: int, fields: Mapping[str, Any]) -> bytes:
    """A frame whose payload is JSON. Raises Invalid, as `decode` would."""
    if problem := _FIELDS[kind](dict(fields)):
        raise Invalid(f"frame {_NAMES[kind]}{problem}")
    payload = json.dumps(fields, separators=(",", ":")).encode()
    return _PREFIX.pack(kind, stream) + payload


def encode_at(kind: int, stream: int, offset: int, data: bytes = b"") -> bytes:
    """A frame of WINDOW, DATA or END."""
    return _PREFIX.pack(kind, stream) + _OFFSET.pack(offset) + data


def decode(message: bytes, allowed: frozenset[int]) -> Frame:
    """Raises Invalid for all that is no frame of an `allowed` kind: FROM_GUEST or TO_GUEST."""
    if len(message) < _PREFIX.size:
        raise Invalid(f"a frame of {len(message)} bytes")
    kind, stream = _PREFIX.unpack_from(message)
    if kind not in allowed:
        raise Invalid(f"a frame of kind {kind}, which is not this side's")
    if kind in _FIELDS:
        return Frame(kind, stream, _read_json(kind, message[_PREFIX.size :]))
    data = message[_PREFIX.size + _OFFSET.size :]
    size = len(message) - _PREFIX.size
    if size < _OFFSET.size or (kind != DATA and data):
        raise Invalid(f"frame {_NAMES[kind]} has a payload of {size} bytes")
    (offset,) = _OFFSET.unpack_from(message, _PREFIX.size)
    if offset + len(data) > OFFSET_MAX or len(data) > DATA_BYTES:
        raise Invalid(f"frame {_NAMES[kind]} at {offset:,} has {len(data):,} bytes")
    return Frame(kind, stream, {}, offset, data)


def peek(frame: bytes) -> tuple[int, int]:
    """Kind and stream of an encoded frame, which is not looked at further. Raises Invalid."""
    if len(frame) < _PREFIX.size:
        raise Invalid(f"a frame of {len(frame)} bytes")
    kind, stream = _PREFIX.unpack_from(frame)
    return kind, stream


def to_line(frame: bytes) -> bytes:
    """An encoded frame as a line, without its end."""
    return LINE + b2a_base64(frame, newline=False)


def of_line(line: bytes) -> bytes:
    """The encoded frame in a line that begins with LINE. Raises Invalid."""
    try:
        return a2b_base64(line[len(LINE) :], strict_mode=True)
    except Base64Error as error:
        raise Invalid(f"a line of a frame is not base64: {error}") from error


def fault(kind: int, fields: Mapping[str, Any]) -> str:
    """What is wrong with the fields of such a frame: the rest of a sentence, or ""."""
    return _FIELDS[kind](dict(fields))


FROM_GUEST = frozenset({OPEN, WINDOW, DATA, END, RESET, ATTACH, NOTE})
TO_GUEST = frozenset({HEAD, WINDOW, DATA, END, RESET, REFUSE, RECORD})


def _read_json(kind: int, payload: bytes) -> dict[str, Any]:
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise Invalid(f"frame {_NAMES[kind]} has {len(payload):,} bytes")
    try:
        fields = jsonvalues.read_utf8(payload)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"frame {_NAMES[kind]} is not JSON: {_shown(str(error))}") from error
    if not isinstance(fields, dict):
        raise Invalid(f"frame {_NAMES[kind]} is no object")
    if problem := _FIELDS[kind](fields):
        raise Invalid(f"frame {_NAMES[kind]}{problem}")
    return fields


def _passes(check: Check, fault: Callable[[Any], str]) -> Check:
    return lambda value: check(value) or fault(value)


def _header_fault(pair: list[str]) -> str:
    if len(pair) != 2:
        return " must be a name and a value"
    name, value = pair
    if not name or not TOKEN.issuperset(name):
        return f" has the name {_shown(name)}, which is none of a header"
    if not _VALUE.fullmatch(value):
        return f": the value of {name} has characters that no header has"
    return ""


def _headers_fault(headers: list[list[str]]) -> str:
    chars = sum(len(name) + len(value) for name, value in headers)
    return f" have {chars:,} characters" if chars > HEADERS_CHARS_MAX else ""


def _target_fault(target: str) -> str:
    if not target.startswith("/") and target != "*":
        return " must be a path"
    return "" if _TARGET.fullmatch(target) else " has characters that no target has"


def _open_fault(fields: Mapping[str, Any]) -> str:
    tcp = fields["scheme"] == "tcp"
    missing = {"method", "target", "headers"} - set(fields)
    if tcp and len(missing) < 3:
        return " of a connection has what only a request has"
    return "" if tcp or not missing else f" lacks {', '.join(sorted(missing))}"


_HEADER = _passes(_list(_text(HEADERS_CHARS_MAX), 2), _header_fault)
_HEADERS = _passes(_list(_HEADER, HEADERS_MAX), _headers_fault)
_MESSAGE = _text(MESSAGE_CHARS_MAX)
_CODE = _text(64, 1)
_STATUS = _integer(100, 999)
_PORT = _integer(1, 65535)
_FIELDS: dict[int, Check] = {
    OPEN: _record(
        {
            "scheme": _one_of("http", "https", "tcp"),
            "host": _text(HOST_CHARS_MAX, 1),
            "port": _PORT,
            "method?": _text(32, 1),
            "target?": _passes(_text(TARGET_CHARS_MAX, 1), _target_fault),
            "headers?": _HEADERS,
            "upgrade?": _text(32, 1),
        },
        _open_fault,
    ),
    HEAD: _record({"status": _STATUS, "headers": _HEADERS}),
    REFUSE: _record({"status": _STATUS, "code": _CODE, "message": _MESSAGE, "retry?": _flag}),
    RESET: _record({"code": _CODE, "message": _MESSAGE}),
    RECORD: _record({"kind": _one_of("model", "http"), "ask?": _flag, "secret?": _flag}),
    ATTACH: _record({"op": _text(1024, 1), "offset": _integer(0, OFFSET_MAX)}),
    NOTE: _record({"code": _CODE, "name": _text(1024), "port?": _integer(0, 65535)}),
}
_NAMES = {
    OPEN: "open",
    HEAD: "head",
    DATA: "data",
    END: "end",
    RESET: "reset",
    WINDOW: "window",
    REFUSE: "refuse",
    RECORD: "record",
    ATTACH: "attach",
    NOTE: "note",
}
