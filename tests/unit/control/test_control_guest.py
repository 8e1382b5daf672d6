"""The conversation with a machine, over a real socket and link."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from torpor.core.errors import GuestError
from torpor.machines.channel import Item, Message, Output
from torpor.machines.guest import Guest
from torpor.wire import messages, streams
from torpor.wire.link import CONTROL, STDERR, STDOUT, STREAMS, Link, Received

pytestmark = pytest.mark.anyio
BUFFER_BYTES = 8192


class Machine:
    """No more than a socket, whose other end is the test."""

    def __init__(self) -> None:
        self.link, self.inside = socket.socketpair()
        for end in (self.link, self.inside):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self.gone = asyncio.Event()

        self.resumed = 0
        self.stalls: asyncio.Queue[str] = asyncio.Queue()
        self.alive = True

    async def stalled(self) -> str:
        return await self.stalls.get()

    async def resume(self) -> None:
        self.resumed += 1

    async def ended(self) -> str:
        await self.gone.wait()
        return "killed by SIGKILL"

    def die(self) -> None:
        self.inside.close()
        self.gone.set()


class Inside:
    """The machine's end of the conversation."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.link = Link()
        self.got: list[Received] = []

    def write(self) -> None:
        data = self.link.data_to_send()
        assert self.machine.inside.send(data) == len(data)

    def say(self, t: str, **fields: Any) -> None:
        self.link.send(CONTROL, messages.encode(t, **fields))
        self.write()

    async def read(self, size: int = 1 << 20) -> bytes:
        data = await asyncio.get_running_loop().sock_recv(self.machine.inside, size)
        self.got += self.link.receive(data)
        return data

    async def until(self, count: int) -> list[Any]:
        """The first `count` messages, answering as a link does."""
        async with asyncio.timeout(10):
            while len(self.got) < count:
                await self.read()
                self.write()
        return [json.loads(received.message) for received in self.got]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def machine(anyio_backend: str) -> AsyncIterator[Machine]:
    machine = Machine()
    yield machine
    machine.die()
    machine.link.close()


@pytest.fixture
async def guest(machine: Machine) -> AsyncIterator[Guest]:
    guest = Guest(machine, Link())  # type: ignore[arg-type]
    guest.synchronise()
    yield guest
    await guest.stop_pumping()


@pytest.fixture
async def inside(machine: Machine, guest: Guest) -> Inside:
    inside = Inside(machine)
    await inside.read()
    inside.write()
    return inside


async def heard(guest: Guest, count: int) -> list[Item]:
    async with asyncio.timeout(10):
        while len(guest.inbox) < count and guest.broken is None:
            guest.arrived.clear()
            await guest.arrived.wait()
    return list(guest.inbox)


async def broken(guest: Guest) -> GuestError:
    async with asyncio.timeout(10):
        while guest.broken is None:
            guest.arrived.clear()
            await guest.arrived.wait()
    return guest.broken


async def test_both_ways(guest: Guest, inside: Inside) -> None:
    guest.say("recorded", op="step:a#1")
    guest.say("prepare")
    assert await inside.until(2) == [{"t": "recorded", "op": "step:a#1"}, {"t": "prepare"}]
    inside.link.send(STDOUT, b"out")
    inside.link.send(STDERR, b"err")
    inside.say("prepared")
    assert await heard(guest, 3) == [
        *(Output(STDOUT, b"out"), Output(STDERR, b"err")),
        Message({"t": "prepared"}),
    ]


async def test_frames_of_streams(guest: Guest, inside: Inside) -> None:
    """In their place among the messages, since a step may wait for them."""
    guest.say("prepare")
    guest.pass_on(streams.encode_at(streams.WINDOW, 1, 10))
    async with asyncio.timeout(10):
        while len(inside.got) < 2:
            await inside.read()
    assert inside.got[1] == (STREAMS, streams.encode_at(streams.WINDOW, 1, 10))
    inside.say("prepared")
    inside.link.send(STREAMS, streams.encode_at(streams.DATA, 1, 0, b"body"))
    inside.write()
    assert await heard(guest, 2) == [
        Message({"t": "prepared"}),
        streams.Frame(streams.DATA, 1, {}, 0, b"body"),
    ]


async def test_more_than_the_socket_holds(guest: Guest, inside: Inside) -> None:
    for n in range(20):
        guest.say("cancel", reason=str(n) * 10_000)
    said = await inside.until(20)
    assert [message["reason"][0] for message in said] == [str(n)[0] for n in range(20)]


async def test_hearing_leaves_the_rest_in_order(guest: Guest, inside: Inside) -> None:
    inside.say("status", waiting=1, busy=0)
    inside.link.send(STDOUT, b"before")
    inside.say("prepared")
    inside.link.send(STDOUT, b"after")
    inside.say("status", waiting=2, busy=0)
    await heard(guest, 5)
    assert await guest.hear("prepared", "unprepared", within_s=10) == {"t": "prepared"}
    first, before, after, second = guest.inbox
    assert isinstance(first, Message) and first.fields["waiting"] == 1
    assert (before, after) == (Output(STDOUT, b"before"), Output(STDOUT, b"after"))
    assert isinstance(second, Message) and second.fields["waiting"] == 2


async def test_hearing_has_a_limit(guest: Guest, inside: Inside) -> None:
    inside.say("status", waiting=1, busy=0)
    await heard(guest, 1)
    with pytest.raises(GuestError, match="did not say thawed or prepared within 0 s"):
        await guest.hear("thawed", "prepared", within_s=0)
    assert len(guest.inbox) == 1
    assert guest.broken is None


async def test_hearing_ends_with_the_machine(guest: Guest, inside: Inside) -> None:
    hearing = asyncio.create_task(guest.hear("prepared", within_s=10))
    inside.machine.die()
    with pytest.raises(GuestError, match="the machine is gone: killed by SIGKILL"):
        await hearing


async def test_its_last_words_are_heard(guest: Guest, inside: Inside) -> None:
    inside.say("done", value=1)
    inside.machine.die()
    await broken(guest)
    assert list(guest.inbox) == [Message({"t": "done", "value": 1})]


async def test_a_machine_that_ends_with_bytes_unread(guest: Guest, inside: Inside) -> None:
    guest.say("prepare")
    written = asyncio.Event()
    asyncio.get_running_loop().add_reader(inside.machine.inside, written.set)
    await written.wait()
    asyncio.get_running_loop().remove_reader(inside.machine.inside)
    inside.machine.die()  # the socket makes a reset of that
    assert "the machine is gone: killed by SIGKILL" in str(await broken(guest))
    guest.say("prepare")  # to nobody, which is no error


@pytest.mark.parametrize(
    ("channel", "message", "words"),
    [
        (CONTROL, b"{", "not JSON"),
        (CONTROL, b'{"t": "recorded", "op": "step:a#1"}', "unknown type 'recorded'"),
        (CONTROL, b'{"t": "begin", "op": 7}', "begin lacks the key"),
        (7, b"", "channel 7, which is not its own"),
        (STREAMS, b"\1\0\0", "a frame of 3 bytes"),
        (STREAMS, streams.encode(streams.HEAD, 1, {"status": 200, "headers": []}), "not this side"),
        (STREAMS, streams.encode_at(streams.DATA, 1, 2**63), "frame data at"),
        (CONTROL, b'{"t": "crashed", "traceback": "Oh."}', "supervisor failed:\nOh."),
    ],
)
@pytest.mark.parametrize("how", ["read", "drained"])
async def test_what_it_must_not_say(
    guest: Guest, inside: Inside, channel: int, message: bytes, words: str, how: str
) -> None:
    if how == "drained":
        await guest.stop_pumping()
    inside.link.send(channel, message)
    inside.write()
    if how == "drained":
        guest.drain()
    assert words in str(await broken(guest))
    assert not guest.inbox


@pytest.mark.parametrize("how", ["read", "drained"])
async def test_a_peer_that_breaks_the_links_rules(guest: Guest, inside: Inside, how: str) -> None:
    if how == "drained":
        await guest.stop_pumping()
    # It acknowledges what was never sent.
    inside.link._next_expected = 1000
    inside.say("prepared")
    if how == "drained":
        guest.drain()
    assert "acknowledges frame" in str(await broken(guest))


async def test_noise_is_passed_over(guest: Guest, inside: Inside) -> None:
    inside.machine.inside.send(bytes(range(256)) * 8)
    inside.say("prepared")
    async with asyncio.timeout(10):
        while not guest.inbox:
            await inside.read()  # it asks for a greeting
            inside.write()
    assert list(guest.inbox) == [Message({"t": "prepared"})]


async def test_draining_takes_all_that_was_written(guest: Guest, inside: Inside) -> None:
    await guest.stop_pumping()
    assert not guest.pumping
    for n in range(3):
        inside.link.send(STDOUT, b"%d" % n)
    inside.write()
    assert not guest.inbox
    guest.drain()
    assert list(guest.inbox) == [Output(STDOUT, b"%d" % n) for n in range(3)]
    assert guest.link.state().next_expected == 3
    guest.drain()  # nothing more, which is no error
    inside.machine.die()
    guest.drain()
    assert len(guest.inbox) == 3


async def test_it_goes_on_after_a_frame_that_was_half_written(guest: Guest, inside: Inside) -> None:
    reasons = [str(n) * 30_000 for n in range(3)]
    for reason in reasons:
        guest.say("cancel", reason=reason)
    # As much as the sockets hold is written; the writer stands in the middle of a frame.
    taken = len(await inside.read(1000))
    await guest.stop_pumping()
    assert guest.link.unacked > taken
    guest.say("prepare")
    guest.go_on_pumping()
    said = await inside.until(4)
    assert [message.get("reason") for message in said] == [*reasons, None]


async def test_it_goes_on_with_another_machine(guest: Guest, inside: Inside) -> None:
    """The link's state outlives the socket: what was not acknowledged goes again."""
    guest.say("recorded", op="step:a#1")
    await guest.stop_pumping()
    state, theirs = guest.link.state(), inside.link.state()
    machine = Machine()
    again = Guest(machine, Link.from_state(state))  # type: ignore[arg-type]
    again.synchronise()
    restored = Inside(machine)
    restored.link = Link.from_state(theirs)
    assert await restored.until(1) == [{"t": "recorded", "op": "step:a#1"}]
    restored.say("prepared")
    assert await again.hear("prepared", within_s=10) == {"t": "prepared"}
    await again.stop_pumping()
    machine.die()
    machine.link.close()
