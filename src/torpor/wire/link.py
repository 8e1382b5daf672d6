"""The link: messages over a byte channel that is cut by every freeze. No I/O.

One `Link` sits at each end, in the machine and on the host. Bytes from the channel go into
`receive`, which gives the messages they complete; `send` queues a message; `data_to_send` gives
the bytes to write. Each message arrives exactly once and in order, per direction, whatever cuts
come between, as long as both ends carry their state over: the machine's end is frozen with the
machine, the host's is kept as a `LinkState` beside the snapshot.

What a cut does to the channel (virtio-serial, measured), and what answers it:

    host → guest   any suffix of the bytes written may be lost; the guest may hold half a frame
                   → a marker that cannot occur within a frame ends whatever came before it
    guest → host   nothing is lost, but the new stream may begin in the middle of a frame
                   → a link hunts for the marker and discards all bytes before it
    both           it is unknown which of the last frames arrived
                   → frames are numbered, kept until acknowledged, and sent again

The frame, numbers big-endian, 24 bytes of header and then the payload (docs/formats/link.md):

    0     1      kind: 1 DATA (ends a message), 2 PART (the message goes on), 3 ACK, 4 SYNC,
                 5 SYNCED
    1     4      CRC-32 (zlib) of bytes 5 to the frame's end, started with the kind
    5     2      length of the payload
    7     8      seq: this frame's number, for DATA and PART; the oldest number the sender still
                 holds, for SYNC and SYNCED; 0 for ACK
    15    8      ack: the number of the next frame the sender expects; it has all before it
    23    1      channel, 0 to 15
    24    length payload

SYNC and SYNCED, the greetings, come right after the 16 bytes of MARKER; nothing else does. Their
payload is the number (8 bytes) of the next frame that the sender will queue. ACK has no payload.
No byte of MARKER is below 16. Bytes 0 and 23 of a header are, and so are 7 and 15 (numbers stay
below 2**56), so every 16 bytes that touch a header hold one; and `send` cuts a payload within any
marker it contains. Hence MARKER never appears by accident.

    (new) ──────► HUNTING ──MARKER──► MARKED ──SYNC, SYNCED──► HEARING
                     ▲                  │ ▲                     │ │
                     └───anything else──┘ └───────MARKER────────┘ │
                     └────bad frame, or a gap: ask with SYNC──────┘

A side that calls `sync` (the host, on every new byte stream), or that loses the thread, sends SYNC
and then all unacknowledged frames, without waiting for an answer: a resume costs no round trip.
The receiver of a SYNC does the same behind a SYNCED, which is not answered. A frame that comes
twice is known by its number and dropped.

A peer that does what no sound one can (acknowledges the unsent, lacks what it must resend, has
forgotten what it sent, sends endless messages) makes `LinkError`, after which the link must not
be used. Whatever it sends, a link holds at most one frame and one message of it.
"""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections import deque
from itertools import islice
from struct import Struct
from typing import Any, NamedTuple
from zlib import crc32

from torpor.core.errors import Damaged, GuestError

CONTROL, STDOUT, STDERR, FILES, STREAMS = range(5)
CHANNEL_MAX = 15
DATA, PART, ACK, SYNC, SYNCED = 1, 2, 3, 4, 5

MARKER = bytes.fromhex("4c1da57619a6daa245d0f8a77591287b")
FRAME_MAX = 64 * 1024 - 1  # payload bytes; the length has two bytes
MESSAGE_MAX = 64 * 1024 * 1024
# All that may wait for acknowledgement, headers included: a peer that never acknowledges ends
# here. Two of the largest messages.
OUTBOX_MAX = 2 * MESSAGE_MAX

_HEADER = Struct(">BIHQQB")
_COVERED = Struct(">HQQB")  # the part of the header that the CRC covers
_NUMBER = Struct(">Q")
_COVERED_AT = _HEADER.size - _COVERED.size

_HUNTING, _MARKED, _HEARING = 0, 1, 2
# The kinds of frame that may come next, by state.
_WELCOME = ((), (SYNC, SYNCED), (DATA, PART, ACK))


class LinkError(GuestError):
    """The peer broke the link's rules, or more was sent than a link holds."""

    code = "link"


class Received(NamedTuple):
    channel: int
    message: bytes


class Frame(NamedTuple):
    """A frame in the outbox; its number follows from its place."""

    kind: int
    channel: int
    payload: bytes


class LinkState(NamedTuple):
    """What must outlive a cut: `Link.from_state` goes on from it."""

    next_send: int  # number of the next frame to be queued; the outbox ends just before it
    next_expected: int
    outbox: tuple[Frame, ...]
    partial_channel: int | None  # of the message whose first frames were received, if any
    partial: bytes

    def to_json(self) -> dict[str, Any]:
        return {
            "next_send": self.next_send,
            "next_expected": self.next_expected,
            "outbox": [[f.kind, f.channel, _to_base64(f.payload)] for f in self.outbox],
            "partial_channel": self.partial_channel,
            "partial": _to_base64(self.partial),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> LinkState:
        """Raises Damaged."""
        try:
            state = cls(
                next_send=value["next_send"],
                next_expected=value["next_expected"],
                outbox=tuple(
                    Frame(kind, channel, a2b_base64(text))
                    for kind, channel, text in value["outbox"]
                ),
                partial_channel=value["partial_channel"],
                partial=a2b_base64(value["partial"]),
            )
            sound = 0 <= len(state.outbox) <= state.next_send and state.next_expected >= 0
        except (KeyError, TypeError, ValueError, Base64Error) as error:
            raise Damaged(f"a stored link state is malformed: {error!r}") from error
        if not sound:
            raise Damaged("a stored link state has impossible frame numbers")
        return state


class Link:
    """One end of a link. It says and hears nothing before `sync`, here or at the peer."""

    def __init__(self, max_frame: int = FRAME_MAX) -> None:
        if not 1 <= max_frame <= FRAME_MAX:
            raise LinkError(f"a frame's payload has 1 to {FRAME_MAX} bytes, not {max_frame}")
        self._max_frame = max_frame
        # Outgoing: the outbox holds frames _base to _next_send - 1; those from _cursor on have not
        # been sent since the last SYNC or SYNCED.
        self._outbox: deque[Frame] = deque()
        self._base = 0
        self._cursor = 0
        self._next_send = 0
        self._unacked = 0
        self._greeting = 0  # SYNC or SYNCED when one must be sent first
        self._speaking = False  # one was sent: the peer can place what follows
        # Incoming.
        self._state = _HUNTING
        self._buffer = bytearray()
        self._searched = 0  # no marker starts in the buffer before this
        self._next_expected = 0
        self._ack_owed = False
        self._partial = bytearray()
        self._partial_channel: int | None = None

    @classmethod
    def from_state(cls, state: LinkState, max_frame: int = FRAME_MAX) -> Link:
        """The end that `state` was taken of, before a new byte stream. Call `sync` next."""
        link = cls(max_frame)
        link._outbox.extend(state.outbox)
        link._next_send = state.next_send
        link._base = link._cursor = state.next_send - len(state.outbox)
        link._unacked = sum(_HEADER.size + len(frame.payload) for frame in state.outbox)
        link._next_expected = state.next_expected
        link._partial_channel = state.partial_channel
        link._partial += state.partial
        return link

    def state(self) -> LinkState:
        return LinkState(
            next_send=self._next_send,
            next_expected=self._next_expected,
            outbox=tuple(self._outbox),
            partial_channel=self._partial_channel,
            partial=bytes(self._partial),
        )

    @property
    def synced(self) -> bool:
        """Both directions work: this end has greeted and has heard a greeting."""
        return self._speaking and self._state == _HEARING

    @property
    def unacked(self) -> int:
        """Bytes queued or sent that the peer has not acknowledged, with their headers. 0 means
        that it has everything. A sender of much waits for this to fall."""
        return self._unacked

    def sync(self) -> None:
        """A new byte stream begins: greet, send again what is unacknowledged, and hunt for the
        peer's greeting. Calling it again does no harm."""
        self._greeting = SYNC
        self._state = _HUNTING
        self._buffer.clear()
        self._searched = 0

    def send(self, channel: int, message: bytes) -> None:
        """Queue `message`. Raises LinkError, queueing nothing, when it is too large, the channel
        is none, or too much is unacknowledged."""
        if not 0 <= channel <= CHANNEL_MAX:
            raise LinkError(f"channel {channel} is not between 0 and {CHANNEL_MAX}")
        if len(message) > MESSAGE_MAX:
            raise LinkError(f"a message of {len(message):,} bytes; at most {MESSAGE_MAX:,} go")
        if len(message) <= self._max_frame and MARKER not in message:
            frames = [Frame(DATA, channel, message)]
        else:
            frames = _split(channel, message, self._max_frame)
        size = len(message) + len(frames) * _HEADER.size
        if self._unacked + size > OUTBOX_MAX:
            raise LinkError(
                f"{self._unacked:,} bytes are unacknowledged and {size:,} more would exceed "
                f"{OUTBOX_MAX:,}",
                hint="The other end has stopped reading.",
            )
        self._outbox.extend(frames)
        self._next_send += len(frames)
        self._unacked += size

    def data_to_send(self) -> bytes:
        """All bytes that can go now; an acknowledgement alone if one is owed and nothing else
        goes. The caller must write them, or call `sync` on the next stream."""
        parts = []
        if self._greeting:
            self._cursor = self._base
            parts.append(MARKER)
            parts.append(self._encode(self._greeting, self._base, 0, _NUMBER.pack(self._next_send)))
            self._greeting = 0
            self._speaking = True
        elif not self._speaking:
            return b""
        if self._cursor < self._next_send:
            for frame in islice(self._outbox, self._cursor - self._base, None):
                parts.append(self._encode(frame.kind, self._cursor, frame.channel, frame.payload))
                self._cursor += 1
        if self._ack_owed:
            self._ack_owed = False
            if not parts:
                parts.append(self._encode(ACK, 0))
        return b"".join(parts)

    def receive(self, data: bytes) -> list[Received]:
        """The messages that `data`, the next bytes of the channel, completes. Raises LinkError."""
        out: list[Received] = []
        buffer = self._buffer
        buffer += data
        while (mark := buffer.find(MARKER, self._searched)) >= 0:
            self._take(mark, out)  # what is left before the marker is half a frame
            del buffer[: mark + len(MARKER)]
            self._searched = 0
            self._state = _MARKED
        taken = self._take(len(buffer), out)
        if self._state == _HUNTING:
            taken = max(taken, len(buffer) - len(MARKER) + 1)  # the end may be half a marker
        del buffer[:taken]
        self._searched = max(0, len(buffer) - len(MARKER) + 1)
        return out

    def _encode(self, kind: int, seq: int, channel: int = 0, payload: bytes = b"") -> bytes:
        covered = _COVERED.pack(len(payload), seq, self._next_expected, channel) + payload
        return b"%c%b%b" % (kind, crc32(covered, kind).to_bytes(4, "big"), covered)

    def _take(self, end: int, out: list[Received]) -> int:
        """Handle the whole frames that start the buffer and end before `end`; the bytes used."""
        buffer = self._buffer
        at = 0
        while self._state != _HUNTING and end - at >= _HEADER.size:
            kind, crc, length, seq, ack, channel = _HEADER.unpack_from(buffer, at)
            stop = at + _HEADER.size + length
            if kind not in _WELCOME[self._state] or channel > CHANNEL_MAX:
                self._lose()
                break
            if stop > end:
                break
            covered = bytes(buffer[at + _COVERED_AT : stop])
            if crc32(covered, kind) != crc:
                self._lose()
                break
            self._acknowledged(ack)
            if self._state == _MARKED:
                self._greeted(kind, seq, covered[_COVERED.size :])
            elif kind != ACK:
                self._arrived(kind, seq, channel, covered[_COVERED.size :], out)
            at = stop
        return at

    def _lose(self) -> None:
        """The thread is lost: ask for a greeting. The bytes at hand stay, half a marker may be
        among them: a half frame that was lacking few bytes has taken them from it."""
        self._state = _HUNTING
        self._greeting = SYNC

    def _acknowledged(self, ack: int) -> None:
        if ack > self._next_send:
            raise LinkError(
                f"the peer acknowledges frame {ack - 1}; {self._next_send} were ever sent"
            )
        while self._base < ack:
            self._unacked -= _HEADER.size + len(self._outbox.popleft().payload)
            self._base += 1
        self._cursor = max(self._cursor, self._base)

    def _greeted(self, kind: int, seq: int, payload: bytes) -> None:
        if len(payload) != _NUMBER.size:
            raise LinkError(f"a greeting with a payload of {len(payload)} bytes")
        (peer_next,) = _NUMBER.unpack(payload)
        if not seq <= self._next_expected <= peer_next:
            raise LinkError(
                f"the peer holds frames {seq} to {peer_next - 1}; this end expects frame "
                f"{self._next_expected}: the two ends were not kept together"
            )
        self._state = _HEARING
        if kind == SYNC and not self._greeting:
            self._greeting = SYNCED  # a SYNC that is about to go serves as well

    def _arrived(
        self, kind: int, seq: int, channel: int, payload: bytes, out: list[Received]
    ) -> None:
        if seq > self._next_expected:
            self._lose()
            return
        self._ack_owed = True
        if seq < self._next_expected:
            return  # sent again after a cut, though it had come
        self._next_expected += 1
        if self._partial_channel is None:
            if kind == DATA:
                out.append(Received(channel, payload))
                return
            self._partial_channel = channel
        if channel != self._partial_channel:
            raise LinkError(
                f"a frame of channel {channel} within a message of channel {self._partial_channel}"
            )
        if len(self._partial) + len(payload) > MESSAGE_MAX:
            raise LinkError(f"the peer sends a message of more than {MESSAGE_MAX:,} bytes")
        self._partial += payload
        if kind == DATA:
            out.append(Received(channel, bytes(self._partial)))
            self._partial = bytearray()
            self._partial_channel = None


def _split(channel: int, message: bytes, max_frame: int) -> list[Frame]:
    """`message` in frames of at most `max_frame` bytes, each marker in it cut in half."""
    frames = []
    start = 0
    while True:
        end = min(start + max_frame, len(message))
        mark = message.find(MARKER, start, end)
        if mark >= 0:
            end = mark + len(MARKER) // 2
        last = end == len(message)
        frames.append(Frame(DATA if last else PART, channel, message[start:end]))
        if last:
            return frames
        start = end


def _to_base64(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode()
