"""The link over a channel that is cut: see the head of torpor/wire/link.py for what a cut does."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torpor.core.errors import Damaged
from torpor.wire import link as wire
from torpor.wire.link import MARKER, Link, LinkError, LinkState, Received

TO_GUEST, TO_HOST = 0, 1


class Channel:
    """Two links and the bytes under way between them. The guest's link is never replaced: its
    machine is frozen and goes on. The host's is, when a cut serialises it."""

    def __init__(self, max_frame: int) -> None:
        self.max_frame = max_frame
        self.host = Link(max_frame)
        self.guest = Link(max_frame)
        self.host.sync()
        self.pipe = [bytearray(), bytearray()]
        self.sent: list[list[Received]] = [[], []]
        self.got: list[list[Received]] = [[], []]
        self.moved = [0, 0]

    def send(self, way: int, channel: int, message: bytes) -> None:
        (self.host, self.guest)[way].send(channel, message)
        self.sent[way].append(Received(channel, message))

    def flush(self, way: int) -> None:
        self.pipe[way] += (self.host, self.guest)[way].data_to_send()

    def move(self, way: int, count: int) -> None:
        data = bytes(self.pipe[way][:count])
        del self.pipe[way][:count]
        self.moved[way] += len(data)
        self.got[way] += (self.guest, self.host)[way].receive(data)

    def cut(self, *, kept: int, drained: int, serialise: bool) -> None:
        """Of the bytes under way to the guest the first `kept` arrive, the rest is lost. The new
        host session sees those to the host from `drained` on."""
        del self.pipe[TO_GUEST][kept:]
        del self.pipe[TO_HOST][:drained]
        if serialise:
            stored = json.loads(json.dumps(self.host.state().to_json()))
            self.host = Link.from_state(LinkState.from_json(stored), self.max_frame)
        self.host.sync()

    def settle(self, chunk: int = 1 << 30) -> None:
        for _ in range(20):
            for way in (TO_GUEST, TO_HOST):
                self.flush(way)
                while self.pipe[way]:
                    self.move(way, chunk)
        assert not self.host.data_to_send() and not self.guest.data_to_send()

    def check(self) -> None:
        assert self.got == self.sent
        assert self.host.synced and self.guest.synced
        assert self.host.unacked == self.guest.unacked == 0


def stream(*messages: bytes) -> bytes:
    link = Link()
    link.sync()
    for message in messages:
        link.send(1, message)
    return link.data_to_send()


FRAME = stream(b"within")  # a greeting and a frame, to be found inside payloads


def frame(
    kind: int, *, seq: int = 0, ack: int = 0, channel: int = 0, payload: bytes = b""
) -> bytes:
    """A frame with a right CRC, built without the code under test."""
    covered = struct.pack(">HQQB", len(payload), seq, ack, channel) + payload
    return struct.pack(">BI", kind, zlib.crc32(covered, kind)) + covered


def greeting(*, seq: int = 0, ack: int = 0, following: int = 0) -> bytes:
    return MARKER + frame(wire.SYNC, seq=seq, ack=ack, payload=struct.pack(">Q", following))


pieces = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([MARKER, MARKER * 2, FRAME, FRAME[:20], FRAME[16:], b"\x01\x00", b"\0" * 30]),
    st.integers(1, 15).map(lambda n: MARKER[:n]),
    st.integers(1, 15).map(lambda n: MARKER[n:]),
)
payloads = st.lists(pieces, max_size=4).map(b"".join)
ways = st.sampled_from([TO_GUEST, TO_HOST])
sizes = st.one_of(st.integers(0, 60), st.just(1 << 30))
events = st.one_of(
    st.tuples(st.just("send"), ways, st.integers(0, 3), payloads),
    st.tuples(st.just("flush"), ways),
    st.tuples(st.just("move"), ways, sizes),
    st.tuples(st.just("cut"), sizes, sizes, st.booleans()),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(events, max_size=40), st.integers(1, 60), st.integers(1, 80))
def test_each_message_arrives_once_and_in_order_whatever_is_cut(
    script: list[tuple[object, ...]], max_frame: int, chunk: int
) -> None:
    channel = Channel(max_frame)
    for event in script:
        match event:
            case ("send", int(way), int(number), bytes(payload)):
                channel.send(way, number, payload)
            case ("flush", int(way)):
                channel.flush(way)
            case ("move", int(way), int(count)):
                channel.move(way, count)
            case ("cut", int(kept), int(drained), bool(serialise)):
                channel.cut(kept=kept, drained=drained, serialise=serialise)
        for way in (TO_GUEST, TO_HOST):
            assert channel.got[way] == channel.sent[way][: len(channel.got[way])]
    channel.settle(chunk)
    channel.check()


TALK = [
    (TO_HOST, 0, b"begin"),
    (TO_GUEST, 0, b"recorded"),
    (TO_HOST, 1, b"a line that needs more than one frame, with " + MARKER + b" in it"),
    (TO_GUEST, 3, MARKER[:9]),
    (TO_HOST, 0, b""),
    (TO_GUEST, 0, MARKER + MARKER[:4]),
    (TO_HOST, 2, FRAME),
]


def talk(channel: Channel) -> Iterator[None]:
    """The same conversation each time; control comes back after each moved chunk."""
    for way, number, message in TALK:
        channel.send(way, number, message)
        channel.flush(TO_GUEST)
        channel.flush(TO_HOST)
        # Both ways stay busy: nothing is moved to its last byte before the end.
        for side in (way, 1 - way):
            while len(channel.pipe[side]) > 20:
                channel.move(side, 1)
                yield
    while any(channel.pipe):
        for side in (TO_GUEST, TO_HOST):
            while channel.pipe[side]:
                channel.move(side, 1)
                yield
            channel.flush(1 - side)


@pytest.mark.parametrize("serialise", [False, True])
@pytest.mark.parametrize("way", [TO_GUEST, TO_HOST])
@pytest.mark.parametrize("kept", [0, 7, 1000])
def test_a_cut_at_every_byte_of_a_conversation(way: int, serialise: bool, kept: int) -> None:
    whole = Channel(max_frame=24)
    for _ in talk(whole):
        pass
    whole.check()
    assert whole.moved[way] > 200
    for position in range(1, whole.moved[way] + 1):
        channel = Channel(max_frame=24)
        for _ in talk(channel):
            if channel.moved[way] == position:
                break
        # What was not said before the cut is said after it.
        said = len(channel.sent[TO_GUEST]) + len(channel.sent[TO_HOST])
        channel.cut(kept=kept, drained=0, serialise=serialise)
        for rest in TALK[said:]:
            channel.send(*rest)
            channel.flush(rest[0])
        channel.settle(chunk=5)
        channel.check()


@pytest.mark.parametrize("cut_at", range(len(FRAME) + 1))
def test_half_a_frame_completed_by_the_bytes_of_the_marker_one_at_a_time(cut_at: int) -> None:
    """The guest holds a frame that lacks a few bytes; the next bytes are a marker's, which are
    even the right ones. The marker is then seen only in part: the guest must ask again."""
    channel = Channel(max_frame=100)
    channel.settle()
    channel.send(TO_GUEST, 1, b"ends like a marker " + MARKER[:6])
    channel.flush(TO_GUEST)
    channel.cut(kept=cut_at, drained=0, serialise=True)
    channel.settle(chunk=1)
    channel.check()


@pytest.mark.parametrize("missing", range(1, 16))
def test_a_frame_completed_by_a_marker_is_delivered_once(missing: int) -> None:
    channel = Channel(max_frame=100)
    channel.settle()
    channel.send(TO_GUEST, 1, b"ends like a marker " + MARKER[:missing])
    channel.flush(TO_GUEST)
    channel.cut(kept=len(channel.pipe[TO_GUEST]) - missing, drained=0, serialise=True)
    channel.settle(chunk=1)
    channel.check()


def test_nothing_is_said_or_heard_before_a_greeting() -> None:
    host, guest = Link(), Link()
    guest.send(0, b"hello")
    assert guest.data_to_send() == b""
    assert guest.receive(b"console noise" * 100) == []
    assert not guest.synced and guest.unacked > 0
    host.sync()
    assert guest.receive(host.data_to_send()) == []
    assert host.receive(guest.data_to_send()) == [Received(0, b"hello")]
    assert host.synced and guest.synced
    guest.receive(host.data_to_send())
    assert guest.unacked == 0


def test_a_resume_needs_no_round_trip() -> None:
    channel = Channel(max_frame=1000)
    channel.settle()
    channel.cut(kept=0, drained=0, serialise=True)
    channel.send(TO_GUEST, 0, b"thaw")
    channel.flush(TO_GUEST)
    channel.move(TO_GUEST, 1 << 30)
    assert channel.got[TO_GUEST] == [Received(0, b"thaw")]


@pytest.mark.parametrize("data", [greeting() + frame(wire.DATA, payload=b"x"), greeting()])
@pytest.mark.parametrize("held", [5, 20, 47])
def test_after_sync_nothing_of_the_old_stream_counts(data: bytes, held: int) -> None:
    link = Link()
    link.receive(greeting() + data[:held])
    link.sync()
    assert not link.synced
    assert link.receive(data[held:]) == []
    link.data_to_send()
    assert not link.synced


def test_a_gap_makes_the_receiver_ask_and_the_rest_comes() -> None:
    channel = Channel(max_frame=1000)
    channel.settle()
    channel.send(TO_GUEST, 0, b"lost in the channel, though nothing was cut")
    channel.host.data_to_send()
    channel.send(TO_GUEST, 0, b"next")
    channel.settle()
    channel.check()


@given(st.data())
def test_a_damaged_byte_costs_a_repetition_and_nothing_else(data: st.DataObject) -> None:
    channel = Channel(wire.FRAME_MAX)
    channel.settle()
    for number in range(4):
        channel.send(TO_HOST, 1, b"some output %d" % number)
    channel.flush(TO_HOST)
    place = data.draw(st.integers(0, len(channel.pipe[TO_HOST]) - 1))
    channel.pipe[TO_HOST][place] ^= data.draw(st.integers(1, 255))
    channel.send(TO_HOST, 1, b"x" * 70_000)  # whatever length was damaged, its bytes come
    channel.settle()
    channel.check()


def test_acknowledgements_ride_on_frames_and_stand_alone_only_when_nothing_else_goes() -> None:
    host, guest = Link(), Link()
    host.sync()
    guest.receive(host.data_to_send())
    host.receive(guest.data_to_send())
    host.send(0, b"a")
    guest.receive(host.data_to_send())
    guest.send(0, b"b")
    both = guest.data_to_send()
    assert len(both) == 25
    host.receive(both)
    assert host.unacked == 0
    alone = host.data_to_send()
    assert (alone[0], len(alone)) == (wire.ACK, 24)
    guest.receive(alone)
    assert guest.unacked == 0
    assert guest.data_to_send() == b"" == host.data_to_send()  # an ACK is not acknowledged


def test_the_marker_and_the_frames_have_the_documented_bytes() -> None:
    assert len(MARKER) == 16 and min(MARKER) >= 16
    assert not any(MARKER.startswith(MARKER[-n:]) for n in range(1, 16))
    assert stream(b"hi\n").hex(" ") == (
        "4c 1d a5 76 19 a6 da a2 45 d0 f8 a7 75 91 28 7b "
        + "04 59 15 24 dc 00 08 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 "
        + "00 00 00 00 00 00 00 01 "
        + "01 6e 8d 93 ce 00 03 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 01 "
        + "68 69 0a"
    )


@given(st.lists(payloads, min_size=1, max_size=5), st.integers(1, 60))
def test_the_marker_is_on_the_wire_only_where_a_greeting_is(
    messages: list[bytes], max_frame: int
) -> None:
    link = Link(max_frame)
    link.sync()
    for message in messages:
        link.send(0, message)
    data = link.data_to_send()
    assert data.startswith(MARKER) and data.count(MARKER) == 1
    assert MARKER not in data[1:]


def test_large_messages_are_cut_into_frames_up_to_the_limit() -> None:
    channel = Channel(wire.FRAME_MAX)
    message = bytes(range(256)) * 2048
    channel.send(TO_GUEST, 3, message)
    channel.settle(chunk=100_000)
    channel.check()
    with pytest.raises(LinkError, match="at most"):
        channel.host.send(3, bytes(wire.MESSAGE_MAX + 1))
    assert channel.host.unacked == 0


def test_a_peer_that_never_acknowledges_ends_in_an_error_that_queues_nothing() -> None:
    link = Link()
    half = bytes(wire.MESSAGE_MAX - 100_000)
    link.send(3, half)
    link.send(3, half)
    before = link.unacked
    with pytest.raises(LinkError, match="unacknowledged"):
        link.send(3, half)
    assert link.unacked == before


@pytest.mark.parametrize("channel", [-1, 16])
def test_there_are_sixteen_channels(channel: int) -> None:
    link = Link()
    with pytest.raises(LinkError, match="channel"):
        link.send(channel, b"")
    assert link.unacked == 0


@pytest.mark.parametrize("max_frame", [0, wire.FRAME_MAX + 1])
def test_a_frame_size_that_the_header_cannot_hold_is_refused(max_frame: int) -> None:
    with pytest.raises(LinkError, match="payload"):
        Link(max_frame)


# ---- a peer that lies


LIES: dict[str, tuple[bytes, str]] = {
    "acknowledges the unsent": (greeting(ack=1), "acknowledges"),
    "acknowledges the unsent later": (greeting() + frame(wire.ACK, ack=2**64 - 1), "acknowledges"),
    "lacks what it must resend": (greeting(seq=1, following=1), "not kept together"),
    "greets at length": (MARKER + frame(wire.SYNCED, payload=b"longer than eight"), "greeting"),
    "mixes channels in a message": (
        greeting() + frame(wire.PART, seq=0, channel=1) + frame(wire.DATA, seq=1, channel=2),
        "within a message",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_a_link_error(lie: str) -> None:
    data, message = LIES[lie]
    link = Link()
    link.sync()
    with pytest.raises(LinkError, match=message):
        link.receive(data)


def test_a_peer_that_has_forgotten_what_it_sent_is_not_its_older_self() -> None:
    """A machine of an older snapshot beside a newer host state would lose messages silently."""
    channel = Channel(max_frame=1000)
    channel.send(TO_HOST, 0, b"said after the snapshot")
    channel.settle()
    older = Link()
    older.sync()
    with pytest.raises(LinkError, match="not kept together"):
        channel.host.receive(older.data_to_send())


def test_an_acknowledgement_of_what_is_still_queued_harms_only_the_liar() -> None:
    link = Link()
    link.receive(greeting())
    link.data_to_send()
    link.send(0, b"queued")
    assert link.receive(frame(wire.ACK, ack=1)) == []
    assert link.unacked == 0
    assert link.data_to_send() == b""


def test_an_endless_message_is_refused_at_the_limit() -> None:
    link = Link()
    link.receive(greeting())
    payload = bytes(wire.FRAME_MAX)
    fits = wire.MESSAGE_MAX // wire.FRAME_MAX
    for seq in range(fits):
        assert link.receive(frame(wire.PART, seq=seq, payload=payload)) == []
    with pytest.raises(LinkError, match="more than"):
        link.receive(frame(wire.PART, seq=fits, payload=payload))


numbers = st.one_of(st.integers(0, 6), st.integers(0, 2**64 - 1))
lying_frames = st.builds(
    frame,
    st.integers(0, 255),
    seq=numbers,
    ack=numbers,
    channel=st.integers(0, 255),
    payload=st.binary(max_size=30),
)
lying_lengths = st.builds(
    lambda data, length: data[:5] + struct.pack(">H", length) + data[7:],
    lying_frames,
    st.integers(0, 65535),
)
honest_frames = st.builds(
    frame, st.sampled_from([1, 2, 3]), seq=st.integers(0, 4), payload=st.binary(max_size=9)
)
hostile = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.just(greeting()),
        st.builds(greeting, seq=numbers, ack=numbers, following=numbers),
        st.just(MARKER),
        lying_frames,
        lying_lengths,
        honest_frames,
    ),
    max_size=30,
)


@settings(max_examples=400, deadline=None)
@given(hostile, st.integers(1, 300), st.booleans())
def test_a_hostile_peer_gets_a_link_error_or_nothing_and_cannot_make_the_link_hold_its_bytes(
    parts: list[bytes], chunk: int, greet: bool
) -> None:
    link = Link()
    if greet:
        link.sync()
    link.send(0, b"an answer")
    data = b"".join(parts)
    for at in range(0, len(data), chunk):
        try:
            link.receive(data[at : at + chunk])
        except LinkError:
            return
        assert len(link._buffer) < 24 + wire.FRAME_MAX
        assert len(link.data_to_send()) <= 16 + 24 + 8 + 24 + len(b"an answer")


@pytest.mark.parametrize(
    "noise",
    [b"\0", b"\xff", MARKER[:15], MARKER, greeting(), frame(wire.DATA, seq=9)],
    ids=["zeros", "ones", "half markers", "markers", "greetings", "gaps"],
)
def test_endless_noise_is_not_kept(noise: bytes) -> None:
    link = Link()
    link.receive(greeting())
    for _ in range(20):
        assert link.receive(noise * 5000) == []
        assert len(link._buffer) < 24 + wire.FRAME_MAX
        assert len(link.data_to_send()) <= 16 + 24 + 8


# ---- state


def test_a_state_survives_json_with_a_message_half_received() -> None:
    host = Link(max_frame=4)
    host.receive(greeting() + frame(wire.PART, seq=0, channel=2, payload=b"half, "))
    host.send(1, b"not acknowledged")
    state = host.state()
    assert LinkState.from_json(json.loads(json.dumps(state.to_json()))) == state
    after = Link.from_state(state)
    assert after.unacked == host.unacked
    after.sync()
    rest = greeting(following=2) + frame(wire.DATA, seq=1, channel=2, payload=b"whole")
    assert after.receive(rest) == [Received(2, b"half, whole")]


def without(key: str) -> Callable[[dict[str, object]], object]:
    return lambda state: {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    "damage",
    [
        without("outbox"),
        without("next_send"),
        lambda state: {**state, "next_send": "many"},
        lambda state: {**state, "next_send": 0},
        lambda state: {**state, "next_expected": -1},
        lambda state: {**state, "outbox": [[1, 0]]},
        lambda state: {**state, "outbox": 7},
        lambda state: {**state, "partial": "é"},
        lambda state: [],
        lambda state: None,
    ],
)
def test_a_malformed_state_is_damaged(damage: Callable[[dict[str, object]], object]) -> None:
    link = Link()
    link.send(0, b"kept")
    with pytest.raises(Damaged, match="link state"):
        LinkState.from_json(damage(link.state().to_json()))  # type: ignore[arg-type]
