"""What a worker and its broker say to each other over `run/broker.sock`. No I/O.

Each frame has its length before it: 4 bytes, big-endian. Frames are those of `wire.streams`, under
numbers of the worker's own that are used once in a connection, and these:

    BEGIN     →  instead of OPEN: {run, request, op?, kind?, length?, offset?, permit?}. `request`
                 is a guest's OPEN as it came: nothing that only the worker may say is in it.
                 With `op` it is a recorded call, of `kind` model or http: made once, however often
                 it is begun; its body has `length` bytes, its answer is wanted from `offset` on.
                 `permit` is the digest of what a person allowed
    ATTACH    →  {run, op, offset}: to a recorded call that was begun before, if it is known
    VERDICT   ←  {verdict, rule?, secret?, record?, code?, reason?, address?, digest?, joined?}
    DONE      ←  {sent, received, ms, status?, address?, secret?, usage?}: nothing more comes
    CALL      →  {id, do, ...}, of stream 0: `policy`, `secrets`, `acknowledge`, `forget`,
                 `explain`, `health`
    REPLY     ←  {id, ...} or {id, error}, of stream 0
    HELLO     ←  {broker, pid, upstream}, of stream 0: first of all, and again when the identity
                 `broker` is another

What comes on a stream, in this order:

    denied               VERDICT deny, REFUSE
    to be an operation   VERDICT allow or ask with `record`, RECORD: where a plain stream was begun
    no answer            VERDICT allow, perhaps WINDOW, REFUSE, DONE
    an answer            VERDICT allow, WINDOW (of a body), HEAD, DATA …, END, DONE
    cut off              …, RESET, DONE
    a connection (tcp)   VERDICT allow, WINDOW once it stands, DATA … both ways, END both ways, DONE
    not known (ATTACH)   REFUSE with the code UNKNOWN

The worker sends a body's bytes up to the offsets of WINDOW frames, and END after the last; that END
is what lets a recorded call out. Before it, nothing of the call was sent, whoever dies. After RESET
of the worker's own, DONE comes still. A recorded call that goes on without its listener does so
after RESET, too. The first WINDOW_BYTES of an answer come unasked.

A broker's identity is another as soon as it has lost a call: what one and the same does not know
of was never begun there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from struct import Struct
from typing import Any

from torpor.core import jsonvalues
from torpor.core.errors import Invalid
from torpor.wire import streams
from torpor.wire.checks import Check, anything, flag, integer, number, one_of, record, shown, text
from torpor.wire.streams import Frame

BEGIN, VERDICT, DONE, CALL, REPLY, HELLO = range(32, 38)
CONTROL = 0  # the stream of CALL, REPLY and HELLO

UNKNOWN = "unknown_call"
# Of a REFUSE: begun again with a permission, it goes out.
NEEDS_PERMISSION = "needs_permission"
# Of a recorded call, and of its answer: they cross the link whole.
BODY_BYTES_MAX = 32 * 1024 * 1024
CONTROL_BYTES_MAX = 16 * 1024 * 1024
LENGTH = Struct(">I")

_PREFIX = Struct(">BI")
_JSON_BYTES_MAX = {CALL: CONTROL_BYTES_MAX, REPLY: CONTROL_BYTES_MAX}
FRAME_BYTES_MAX = _PREFIX.size + CONTROL_BYTES_MAX

TO_BROKER = frozenset(
    {BEGIN, CALL, streams.ATTACH, streams.WINDOW, streams.DATA, streams.END, streams.RESET}
)
TO_WORKER = frozenset({VERDICT, DONE, REPLY, HELLO}) | streams.TO_GUEST


def _request_fault(fields: Any) -> str:
    if not isinstance(fields, dict):
        return " must be an object"
    return streams.fault(streams.OPEN, fields)


def _begin_fault(fields: Mapping[str, Any]) -> str:
    recorded = {"op", "kind", "length"} & set(fields)
    if len(recorded) not in (0, 3):
        return " has a part of what a recorded call has"
    return "" if recorded or "offset" not in fields else " of a plain stream has an offset"


_RUN, _OP = text(256, 1), text(1024, 1)
_WORDS = text(streams.MESSAGE_CHARS_MAX)
_SIZE = integer(0, streams.OFFSET_MAX)
_FIELDS: dict[int, tuple[str, Check]] = {
    BEGIN: (
        "begin",
        record(
            {
                "run": _RUN,
                "request": _request_fault,
                "op?": _OP,
                "kind?": one_of("model", "http"),
                "length?": integer(0, BODY_BYTES_MAX),
                "offset?": _SIZE,
                "permit?": text(256, 1),
            },
            _begin_fault,
        ),
    ),
    streams.ATTACH: ("attach", record({"run": _RUN, "op": _OP, "offset": _SIZE})),
    VERDICT: (
        "verdict",
        record(
            {
                "verdict": one_of("allow", "ask", "deny"),
                "rule?": _WORDS,  # which decided, for people
                "secret?": text(256),  # its name
                "record?": one_of("model", "http"),
                "code?": text(64),
                "reason?": _WORDS,
                "address?": text(64),
                "digest?": text(256),  # of what a person would allow
                "joined?": flag,  # the call is under way or answered: its body is not wanted
            }
        ),
    ),
    DONE: (
        "done",
        record(
            {
                "sent": _SIZE,  # bytes of the bodies
                "received": _SIZE,
                "ms": number(0, 1e12),
                "status?": integer(100, 999),
                "address?": text(64),
                "secret?": text(256),
                "usage?": anything,  # {input, output, cost, …} of a model's answer
            }
        ),
    ),
    CALL: ("call", anything),
    REPLY: ("reply", anything),
    HELLO: (
        "hello",
        record({"broker": text(64, 1), "pid": integer(1), "upstream": _WORDS}),
    ),
}


def framed(frame: bytes) -> bytes:
    return LENGTH.pack(len(frame)) + frame


def encode(kind: int, stream: int, fields: Mapping[str, Any]) -> bytes:
    """Framed. Raises Invalid, as `decode` would."""
    if kind in _FIELDS:
        _check(kind, fields)
        try:
            payload = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise Invalid(f"frame {_FIELDS[kind][0]} has half of a surrogate pair") from error
        return framed(_PREFIX.pack(kind, stream) + payload)
    return framed(streams.encode(kind, stream, fields))


def encode_at(kind: int, stream: int, offset: int, data: bytes = b"") -> bytes:
    """Framed: WINDOW, DATA or END."""
    return framed(streams.encode_at(kind, stream, offset, data))


def decode(frame: bytes, allowed: frozenset[int]) -> Frame:
    """Raises Invalid for all that is no frame of an `allowed` kind: TO_BROKER or TO_WORKER."""
    kind = frame[0] if frame else 0
    if kind not in _FIELDS or kind not in allowed or len(frame) < _PREFIX.size:
        return streams.decode(frame, allowed)
    _, stream = _PREFIX.unpack_from(frame)
    payload = frame[_PREFIX.size :]
    if len(payload) > _JSON_BYTES_MAX.get(kind, 2 * streams.PAYLOAD_BYTES_MAX):
        raise Invalid(f"frame {_FIELDS[kind][0]} has {len(payload):,} bytes")
    try:
        fields = jsonvalues.read_utf8(payload)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"frame {_FIELDS[kind][0]} is not JSON: {shown(str(error))}") from error
    _check(kind, fields)
    return Frame(kind, stream, fields)


def _check(kind: int, fields: Mapping[str, Any]) -> None:
    name, check = _FIELDS[kind]
    if problem := check(dict(fields) if isinstance(fields, Mapping) else fields):
        raise Invalid(f"frame {name}{problem}")
    if kind in (CALL, REPLY) and not (isinstance(fields, Mapping) and "id" in fields):
        raise Invalid(f"frame {name} lacks the key 'id'")


def admits(kind: int, fields: Mapping[str, Any]) -> bool:
    """Whether from this frame on its stream is admitted."""
    return kind == VERDICT and fields["verdict"] == "allow"


def is_last(kind: int, *, admitted: bool) -> bool:
    """Whether nothing of the broker's comes after it on its stream."""
    return kind in (DONE, streams.RECORD) or (kind == streams.REFUSE and not admitted)


class Reader:
    """Frames out of the bytes of a connection."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are whole now. Raises Invalid for a length that none has."""
        self._bytes += data
        frames, start = [], 0
        while len(self._bytes) - start >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._bytes, start)
            if not _PREFIX.size <= length <= FRAME_BYTES_MAX:
                raise Invalid(f"a frame of {length:,} bytes")
            end = start + LENGTH.size + length
            if len(self._bytes) < end:
                break
            frames.append(bytes(self._bytes[start + LENGTH.size : end]))
            start = end
        if start:
            del self._bytes[:start]
        return frames
