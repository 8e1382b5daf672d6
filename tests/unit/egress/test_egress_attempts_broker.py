"""Attempts on the way out, at the broker's own door: each is refused or harmless, and said so."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.egress.brokers import RUN, brokered, collect, exchange, request, until
from tests.unit.egress.upstreams import Received, answer, upstream

from torpor.core.errors import Invalid
from torpor.core.ids import OpId, RunId
from torpor.egress import protocol
from torpor.egress.admission import DenyAll
from torpor.egress.protocol import BEGIN, DONE, TO_BROKER, VERDICT
from torpor.egress.server import RUN_STREAMS_MAX, Broker
from torpor.wire.streams import DATA, END, HEAD, RESET, WINDOW, WINDOW_BYTES, Frame

pytestmark = pytest.mark.anyio
OP = OpId("http:upstream.test/@0a1b2c3d#1")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_attempt_05_a_host_header_that_names_another_host_is_not_sent() -> None:
    """Only the field `host` says where to, and the server hears that."""
    async with upstream() as server, brokered() as (_, client):
        headers = {"host": "evil.test", ":authority": "evil.test"}
        with pytest.raises(Invalid):
            await client.open(RUN, request(server.port, headers=headers))
        del headers[":authority"]
        found = await exchange(client, request(server.port, headers=headers))
        assert found.status == 200
        assert server.received[0].values("host") == [f"upstream.test:{server.port}"]


@pytest.mark.parametrize(
    "target",
    ["http://evil.test/", "evil.test:443", "*", "/a#@evil.test/", "/\\evil.test", "/a b", "/é", ""],
)
async def test_attempt_06_a_target_that_names_another_host_is_refused(target: str) -> None:
    async with upstream() as server, brokered() as (_, client):
        try:
            found = await exchange(client, request(server.port, target))
        except Invalid:
            pass
        else:
            assert (found.verdict["verdict"], found.refusal["code"]) == ("deny", "bad_request")
        assert not server.received


@pytest.mark.parametrize("target", ["//evil.test/", "/@evil.test", "/.evil.test"])
async def test_attempt_06_what_looks_like_one_is_a_path(target: str) -> None:
    async with upstream() as server, brokered() as (_, client):
        await exchange(client, request(server.port, target))
        assert server.received[0].line == f"GET {target} HTTP/1.1"
        assert server.received[0].values("host") == [f"upstream.test:{server.port}"]


async def test_attempt_09_a_host_header_opens_no_way_in_clear_to_another_address() -> None:
    """Rules are for the field `host`; a header that says otherwise changes nothing."""
    async with upstream() as server, brokered(judge=DenyAll()) as (_, client):
        opened = request(server.port, headers={"host": "api.github.com"}, host="evil.test")
        found = await exchange(client, opened)
        assert (found.verdict["verdict"], found.status) == ("deny", 403)
        assert "evil.test" in found.refusal["message"]
        assert server.connections == 0


async def test_attempt_10_a_proxy_in_the_guest_finds_no_second_one_here() -> None:
    async with upstream() as server, brokered() as (_, client):
        for method in ("CONNECT", "connect", "Connect"):
            found = await exchange(client, request(server.port, "/", method))
            assert (found.verdict["verdict"], found.refusal["code"]) == ("deny", "bad_request")
        headers = {"proxy-authorization": "Basic eDp5", "proxy-connection": "keep-alive"}
        await exchange(client, request(server.port, headers=headers))
        (received,) = server.received
        assert b"proxy-" not in received.head.lower()


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        ([["transfer-encoding", "chunked"], ["content-length", "4"]], 4),
        ([["content-length", "4"], ["transfer-encoding", "identity, chunked"]], 4),
        ([["transfer-encoding", "xchunked"]], None),
        ([["transfer-encoding", "chunked"], ["transfer-encoding", "chunked"]], None),
    ],
)
async def test_attempt_14_a_body_has_one_framing_which_is_ours(
    headers: list[list[str]], sent: int | None
) -> None:
    body = b"0\r\n\r\nGET /admin HTTP/1.1\r\nhost: x\r\n\r\n"[: sent or None]
    async with upstream() as server, brokered() as (_, client):
        await exchange(client, request(server.port, "/", "POST", headers), body)
        (received,) = server.received
        framings = received.values("transfer-encoding") + received.values("content-length")
        assert framings == (["chunked"] if sent is None else [str(sent)])
        assert received.body == body


@pytest.mark.parametrize(
    "lengths", [["4", "4"], ["4", "5"], ["+4"], ["-1"], ["4, 4"], ["0x4"], ["٤"], [""], ["1e1"]]
)
async def test_attempt_14_lengths_that_are_not_one_number_are_refused(lengths: list[str]) -> None:
    async with upstream() as server, brokered() as (_, client):
        headers = [["content-length", length] for length in lengths]
        try:
            found = await exchange(client, request(server.port, "/", "POST", headers), b"1234")
        except Invalid:
            pass
        else:
            assert found.refusal["code"] == "bad_request"
        assert server.connections == 0


@pytest.mark.parametrize("body", [b"12", b"1234GET / HTTP/1.1\r\n\r\n", b""])
async def test_attempt_14_a_body_of_another_length_ends_its_connection(body: bytes) -> None:
    async with upstream() as server, brokered() as (_, client):
        opened = request(server.port, "/", "POST", {"content-length": "4"})
        found = await exchange(client, opened, body)
        assert found.refusal["code"] == "bad_body"
        assert (await exchange(client, request(server.port, "/next"))).status == 200
        assert not any(b"GET / " in received.body for received in server.received)
        assert server.received[-1].line == "GET /next HTTP/1.1"
        posts = [r.connection for r in server.received if r.line.startswith("POST")]
        assert server.received[-1].connection not in posts  # what had begun is not used again


@pytest.mark.parametrize(
    "bad", ["a\rb", "a\nb", "a\r\nx-evil: 1", "a\0b", "a\x1bb", "a\ud800", "Ā"]
)
async def test_attempt_15_control_characters_in_fields_are_no_frame(bad: str) -> None:
    async with upstream() as server, brokered() as (_, client):
        for opened in (
            request(server.port, headers=[["x-one", bad]]),
            request(server.port, headers=[[bad, "1"]]),
            request(server.port, target=f"/{bad}"),
        ):
            with pytest.raises(Invalid):
                await client.open(RUN, opened)
        for opened in (
            request(server.port, method=f"GET {bad}"),
            request(server.port, host=f"upstream.test{bad}"),
        ):
            try:
                found = await exchange(client, opened)
            except Invalid:
                continue
            assert found.status in (400, 403, 502)
        assert not server.received


async def test_attempt_15_bytes_that_no_header_has_are_refused() -> None:
    """aiohttp would write them as others than were judged."""
    async with upstream() as server, brokered() as (_, client):
        found = await exchange(client, request(server.port, headers={"x-one": "\xe9"}))
        assert found.refusal["code"] == "bad_request"
        assert not server.received


async def test_attempt_16_connection_takes_nothing_out_that_is_ours_and_lets_nothing_in() -> None:
    async with upstream() as server, brokered() as (_, client):
        headers = [
            ["connection", "authorization, X-Own , close"],
            ["x-own", "1"],
            ["proxy-authorization", "Basic eDp5"],
            ["keep-alive", "timeout=1"],
            ["te", "trailers"],
            ["x-kept", "1"],
        ]
        await exchange(client, request(server.port, headers=headers))
        head = server.received[0].head.decode().lower()
        assert "x-kept: 1" in head
        for name in ("connection", "x-own", "proxy-authorization", "keep-alive", "te:"):
            assert f"\r\n{name}" not in head


async def test_attempt_17_an_upgrade_is_no_tunnel() -> None:
    switching = b"HTTP/1.1 101 Switching\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\nPRI *"

    async def switch(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(switching)

    async with upstream(switch) as server, brokered() as (_, client):
        for wanted in ("h2c", "tls/1.0", "TORPOR"):
            found = await exchange(client, request(server.port, upgrade=wanted))
            assert (found.verdict["verdict"], found.refusal["code"]) == ("deny", "bad_request")
        assert not server.received
        headers = {"upgrade": "h2c", "connection": "upgrade, http2-settings", "http2-settings": "x"}
        found = await exchange(client, request(server.port, headers=headers))
        assert not server.received[0].values("upgrade")
        assert not server.received[0].values("http2-settings")
        # The server changes the protocol all the same.
        assert (found.status, found.refusal["code"], found.body) == (502, "bad_answer", b"")
        await server.closed.wait()


async def test_attempt_41_an_endless_answer_waits_for_its_reader() -> None:
    async def endless(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    async with upstream(endless) as server, brokered() as (_, client):
        stream = await client.open(RUN, request(server.port))
        stream.end(0)
        size = 0
        while size < WINDOW_BYTES:
            frame = await stream.next()
            assert frame is not None
            size += len(frame.data)
        health = await client.health()  # others go on
        assert (size, health["streams"]) == (WINDOW_BYTES, 1)
        stream.reset("enough", "enough")
        found = await collect(stream)
        assert found.body == b""
        assert found.done["received"] < 8 * WINDOW_BYTES
        await server.closed.wait()  # and nobody reads it any more


async def test_attempt_41_an_endless_answer_of_a_recorded_call_is_cut() -> None:
    async def endless(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(1 << 20))
            await writer.drain()

    async with upstream(endless) as server, brokered() as (broker, client):
        stream, _ = await client.call(RUN, OP, "http", request(server.port), b"")
        found = await collect(stream)
        assert found.reset["code"] == "reply_too_large"
        assert len(found.body) <= protocol.BODY_BYTES_MAX
        assert broker.calls.bytes <= protocol.BODY_BYTES_MAX + 65536
        await server.closed.wait()


async def test_attempt_41_ten_gigabytes_are_announced_and_refused() -> None:
    async def announce(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n")

    async with upstream(announce) as server, brokered() as (_, client):
        stream, _ = await client.call(RUN, OP, "http", request(server.port), b"")
        assert (await collect(stream)).refusal["code"] == "reply_too_large"
        await server.closed.wait()


async def test_attempt_41_streams_beyond_a_runs_share_are_refused_and_others_go_on() -> None:
    held, go = asyncio.Semaphore(0), asyncio.Event()

    async def hold(received: Received, writer: asyncio.StreamWriter) -> None:
        if received.line.startswith("GET /held"):
            held.release()
            await go.wait()
        await answer(received, writer)

    async with upstream(hold) as server, brokered() as (broker, client):
        streams = [
            await client.open(RUN, request(server.port, "/held")) for _ in range(RUN_STREAMS_MAX)
        ]
        for stream in streams:
            stream.end(0)
            await held.acquire()
        for _ in range(1000):
            found = await exchange(client, request(server.port))
            assert (found.status, found.refusal["code"]) == (429, "too_many")
        found = await exchange(client, request(server.port, "/other"), run=RunId("run_2"))
        assert found.status == 200
        go.set()
        assert [(await collect(stream)).status for stream in streams] == [200] * RUN_STREAMS_MAX
        assert (await exchange(client, request(server.port))).status == 200
        assert broker.streams.total() == 0


async def test_attempt_41_a_head_without_end_is_refused() -> None:
    async def endless(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"x-more: " + b"y" * 8000 + b"\r\n")
            await writer.drain()

    async with upstream(endless) as server, brokered() as (_, client):
        found = await exchange(client, request(server.port))
        assert found.status == 502
        await server.closed.wait()


@pytest.mark.parametrize(("letter", "status"), [(b"y", 200), (b"\xff", 502)])
async def test_attempt_41_a_head_that_no_frame_can_have_is_refused(
    letter: bytes, status: int
) -> None:
    """Else it would end the connection, and with it everybody's streams."""
    fields = b"".join(b"x-%d: %s\r\n" % (n, letter * 30_000) for n in range(2))
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n%s\r\n" % fields

    async def crowd(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(head)

    async with upstream(crowd) as server, brokered() as (_, client):
        connection = await client.connect()
        assert (await exchange(client, request(server.port))).status == status
        assert not connection.lost


@asynccontextmanager
async def raw(broker: Broker) -> AsyncIterator[tuple[Frames, asyncio.StreamWriter]]:
    """A worker that writes what it likes."""
    import socket

    near, far = socket.socketpair()
    await asyncio.get_running_loop().connect_accepted_socket(broker.connection, far)
    reader, writer = await asyncio.open_unix_connection(sock=near)
    try:
        yield Frames(reader), writer
    finally:
        writer.close()


class Frames:
    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def next(self) -> Frame | None:
        try:
            (length,) = struct.unpack(">I", await self._reader.readexactly(4))
            message = await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return protocol.decode(message, protocol.TO_WORKER)

    async def until(self, kind: int) -> Frame:
        while (frame := await self.next()) is not None:
            if frame.kind == kind:
                return frame
        raise AssertionError("the connection was closed")

    async def closed(self) -> None:
        while await self.next() is not None:
            pass


Write = Callable[[int], list[bytes]]


@pytest.mark.parametrize(
    "sent",
    [
        lambda n: [protocol.encode_at(DATA, n, WINDOW_BYTES, b"x")],  # a gap
        lambda n: [protocol.encode_at(END, n, 7)],  # a length that is none
        lambda n: [protocol.encode_at(END, n, 0), protocol.encode_at(DATA, n, 0, b"x")],
        lambda n: [
            protocol.encode_at(DATA, n, i * 32768, bytes(32768))
            for i in range(2 * WINDOW_BYTES // 32768)
        ],
    ],
    ids=["gap", "length", "after-the-end", "beyond-the-window"],
)
async def test_attempt_42_frames_that_lie_reset_their_stream_and_no_other(sent: Write) -> None:
    async def hold(received: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with upstream(hold) as server, brokered() as (broker, _), raw(broker) as (frames, writer):
        for number in (1, 2):
            opened = {"run": RUN, "request": request(server.port, "/", "POST")}
            writer.write(protocol.encode(BEGIN, number, opened))
            await frames.until(WINDOW)
        for message in sent(1):
            writer.write(message)
        reset = await frames.until(RESET)
        assert (reset.stream, reset.fields["code"]) == (1, "bad_stream")
        assert (await frames.until(DONE)).stream == 1
        for message in sent(1):  # it is over: nobody's
            writer.write(message)
        writer.write(protocol.encode(RESET, 2, {"code": "enough", "message": ""}))
        assert (await frames.until(DONE)).stream == 2


async def test_attempt_42_streams_that_were_never_begun_are_nobodys() -> None:
    async with upstream() as server, brokered() as (broker, _), raw(broker) as (frames, writer):
        for number in (0, 7, 2**32 - 1):
            writer.write(protocol.encode_at(DATA, number, 0, b"x"))
            writer.write(protocol.encode_at(WINDOW, number, 2**60))
            writer.write(protocol.encode_at(END, number, 1))
            writer.write(protocol.encode(RESET, number, {"code": "x", "message": ""}))
        writer.write(protocol.encode(BEGIN, 7, {"run": RUN, "request": request(server.port)}))
        writer.write(protocol.encode_at(END, 7, 0))
        assert (await frames.until(HEAD)).stream == 7


@pytest.mark.parametrize(
    "message",
    [
        struct.pack(">I", 2**32 - 1),
        struct.pack(">I", 0),
        struct.pack(">I", 4) + b"\x20\0\0\0",
        struct.pack(">I", 9) + b"\x20\0\0\0\1[1]]",
        struct.pack(">I", 7) + b"\x20\0\0\0\1{}",
        struct.pack(">I", 5) + b"\xff\0\0\0\1",
        struct.pack(">I", 7) + b"\x22\0\0\0\0{}",
        protocol.framed(b"\1\0\0\0\1" + json.dumps(request(1)).encode()),  # a guest's OPEN
        protocol.encode(VERDICT, 1, {"verdict": "allow"}),  # the broker's own
        protocol.framed(
            b"\x20\0\0\0\1"
            + json.dumps({"run": RUN, "request": {**request(1), "permit": "x"}}).encode()
        ),
        *(  # halves of surrogate pairs
            protocol.framed(
                b"\x20\0\0\0\1"
                + json.dumps({"run": "RUN", "request": request(1)}).encode().replace(b"RUN", half)
            )
            for half in (b"\\ud800", b"\\uDC00", b"\xed\xa0\x80")
        ),
    ],
)
async def test_attempt_42_what_is_no_frame_ends_the_connection(message: bytes) -> None:
    async with brokered() as (broker, client), raw(broker) as (frames, writer):
        writer.write(message)
        await frames.closed()
        assert (await client.health())["streams"] == 0  # others go on


async def test_attempt_42_a_number_is_not_used_twice_at_a_time() -> None:
    async with upstream() as server, brokered() as (broker, _), raw(broker) as (frames, writer):
        for _ in range(2):
            writer.write(protocol.encode(BEGIN, 1, {"run": RUN, "request": request(server.port)}))
        await frames.closed()
        assert broker.streams.total() == 0 or not server.received


async def test_attempt_42_half_a_frame_is_nothing() -> None:
    async with upstream() as server, brokered() as (broker, client):
        whole = protocol.encode(BEGIN, 1, {"run": RUN, "request": request(server.port)})
        async with raw(broker) as (frames, writer):
            await frames.next()
            writer.write(whole[:-1])
        assert (await client.health())["streams"] == 0
        assert not server.received


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_attempt_42_no_bytes_break_the_reading_of_frames(data: bytes) -> None:
    reader = protocol.Reader()
    try:
        for message in reader.feed(data):
            protocol.decode(message, TO_BROKER)
        for message in protocol.Reader().feed(protocol.framed(data)):
            protocol.decode(message, TO_BROKER)
    except Invalid:
        pass


async def test_attempt_42_a_worker_that_reads_nothing_is_not_written_to_for_ever() -> None:
    async def endless(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    async with upstream(endless) as server, brokered() as (broker, client):
        async with raw(broker) as (_, writer):
            for number in range(1, 33):
                opened = {"run": RUN, "request": request(server.port)}
                writer.write(protocol.encode(BEGIN, number, opened))
                writer.write(protocol.encode_at(END, number, 0))
                writer.write(protocol.encode_at(WINDOW, number, 2**40))
            await writer.drain()
            await until(lambda: len(server.received) == 32)
            (worker,) = [c for c in broker._connections if c._streams]
            for _ in range(1000):
                await asyncio.sleep(0)
            transport = worker._transport
            assert transport is not None
            assert transport.get_write_buffer_size() < 32 * 65536 + 2 * WINDOW_BYTES
        # Its connection is gone, and with it what it wanted.
        await until(lambda: not broker.streams.total())
        assert (await client.health())["streams"] == 0
