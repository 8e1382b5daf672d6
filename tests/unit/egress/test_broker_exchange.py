"""Exchanges through the broker, with a real server on loopback at the other end."""

from __future__ import annotations

import asyncio
import gzip
import logging
from pathlib import Path

import pytest
import websockets.asyncio.server as ws_server
from tests.unit.egress.brokers import (
    RUN,
    Collected,
    Lenient,
    brokered,
    collect,
    exchange,
    request,
    until,
    upload,
)
from tests.unit.egress.upstreams import Authority, Received, answer, upstream

from torpor.core.ids import OpId
from torpor.egress.admission import Admission, Outgoing, Refusal
from torpor.egress.connection import Lost
from torpor.wire.streams import DATA, HEAD, WINDOW, WINDOW_BYTES

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def respond_with(raw: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(raw)


@pytest.mark.parametrize(
    "target",
    ["/", "/a/../b", "/%2e%2E/%2f", "//x", "/a;b=c?q=%20&r=[1]&s=a+b'", "/?", "/a?b?c", "/a:b@c"],
)
async def test_a_target_goes_out_as_it_was_judged(target: str) -> None:
    async with upstream() as server, brokered() as (_, client):
        found = await exchange(client, request(server.port, target))
        if target.endswith("?"):
            assert server.received[0].line == f"GET {target[:-1]} HTTP/1.1"
        else:
            assert server.received[0].line == f"GET {target} HTTP/1.1"
        assert (found.status, found.whole) == (200, True)
        assert server.received[0].values("host") == [f"upstream.test:{server.port}"]


async def test_each_piece_of_an_answer_comes_at_once() -> None:
    go = asyncio.Event()

    async def slowly(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for word in (b"one", b"two", b"three"):
            writer.write(b"%x\r\n%s\r\n" % (len(word), word))
            await writer.drain()
            await go.wait()
            go.clear()
        writer.write(b"0\r\nx-trailer: dropped\r\n\r\n")

    async with upstream(slowly) as server, brokered() as (_, client):
        stream = await client.open(RUN, request(server.port))
        stream.end(0)
        words = []
        async for frame in stream:
            if frame.kind == DATA:
                words.append(frame.data)  # what comes next is held until this is here
                go.set()
            assert "x-trailer" not in dict(frame.fields.get("headers", ()))
        assert words == [b"one", b"two", b"three"]


async def test_a_body_goes_out_as_it_comes_and_no_faster_than_it_is_taken() -> None:
    taking = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await taking.wait()
        while not (await reader.readuntil(b"\r\n")).startswith(b"0"):
            pass
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=1 << 26)
    async with server, brokered() as (broker, client):
        port = server.sockets[0].getsockname()[1]
        stream = await client.open(RUN, request(port, method="POST"))
        body = b"x\n" * (8 << 20)
        uploading = asyncio.create_task(upload(stream, body))
        await until(lambda: broker.room.bytes >= WINDOW_BYTES // 2)  # nobody reads: it fills
        assert not uploading.done()
        assert broker.room.bytes <= WINDOW_BYTES
        uploading.cancel()
        await asyncio.wait([uploading])
        stream.reset("enough", "enough")
        found = await collect(stream)
        assert found.done["sent"] < len(body)
        assert broker.room.bytes == 0


async def test_a_large_body_and_its_echo_arrive_whole() -> None:
    async def echo(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(received.body))
        writer.write(received.body)

    body = bytes(range(256)) * 20_000
    async with upstream(echo) as server, brokered() as (_, client):
        for headers in ({}, {"content-length": str(len(body))}):
            opened = request(server.port, method="PUT", headers=headers)
            found = await exchange(client, opened, body)
            assert (found.body, found.whole) == (body, True)
            assert (found.done["sent"], found.done["received"]) == (len(body), len(body))
            assert found.done["address"] == "127.0.0.1"
        assert [bool(r.values("content-length")) for r in server.received] == [False, True]


async def test_connections_are_kept() -> None:
    async with upstream() as server, brokered() as (_, client):
        for _ in range(5):
            await exchange(client, request(server.port))
        assert (server.connections, len(server.received)) == (1, 5)


@pytest.mark.parametrize(
    ("method", "raw"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 No\r\ncontent-length: 7\r\n\r\n"),
    ],
)
async def test_answers_without_a_body_end_at_once(method: str, raw: bytes) -> None:
    async with upstream(lambda _, w: respond_with(raw, w)) as server, brokered() as (_, client):
        for _ in range(2):
            found = await exchange(client, request(server.port, method=method))
            assert (found.body, found.whole) == (b"", True)
        assert server.connections == 1


async def test_answers_before_the_answer_are_passed_over() -> None:
    raw = b"HTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    async with upstream(lambda _, w: respond_with(raw, w)) as server, brokered() as (_, client):
        found = await exchange(client, request(server.port))
        assert (found.status, found.body) == (200, b"ok")


async def test_what_is_compressed_redirected_or_a_cookie_is_the_clients_business() -> None:
    packed = gzip.compress(b"hello")
    raw = (
        b"HTTP/1.1 302 Found\r\nlocation: http://other.test/\r\nset-cookie: a=1\r\n"
        b"set-cookie: b=2\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%s"
        % (len(packed), packed)
    )
    async with upstream(lambda _, w: respond_with(raw, w)) as server, brokered() as (_, client):
        for _ in range(2):
            found = await exchange(client, request(server.port))
            assert (found.status, found.body) == (302, packed)
            assert found.headers["location"] == "http://other.test/"
            assert [v for n, v in found.pairs if n == "set-cookie"] == ["a=1", "b=2"]
        assert not any(received.values("cookie") for received in server.received)
        assert len(server.received) == 2


async def test_nothing_is_added_to_what_a_client_said() -> None:
    async with upstream() as server, brokered() as (_, client):
        headers = [["accept", "a/b"], ["x-one", "1"], ["x-one", "2"]]
        await exchange(client, request(server.port, headers=headers))
        lines = server.received[0].head.decode().lower().split("\r\n")[1:-2]
        assert sorted(lines) == sorted(
            [f"host: upstream.test:{server.port}", "accept: a/b", "x-one: 1", "x-one: 2"]
        )


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with upstream() as server, brokered() as (_, client):
        assert (await exchange(client, request(server.port))).status == 200


async def test_an_upstream_that_is_not_there_dies_or_is_silent_is_said() -> None:
    async def die(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async def half(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        await writer.drain()
        writer.close()

    async def silent(_: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async def nonsense(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")

    async with brokered(answer_s=0.2) as (_, client):
        async with upstream() as gone:
            pass
        found = await exchange(client, request(gone.port))
        assert (found.status, found.refusal["code"]) == (502, "upstream_unreachable")
        for respond, status, code in (
            (die, 502, "upstream_broken"),
            (silent, 504, "upstream_timed_out"),
            (nonsense, 502, "upstream_broken"),
        ):
            async with upstream(respond) as server:
                found = await exchange(client, request(server.port))
                assert (found.status, found.refusal["code"]) == (status, code)
                assert found.done["received"] == 0
        async with upstream(half) as server:
            found = await exchange(client, request(server.port))
            assert (found.status, found.body, found.whole) == (200, b"half", False)
            assert found.reset["code"] == "upstream_broken"


async def test_a_request_is_sent_once_though_its_kept_connection_died() -> None:
    """Whether a server that hangs up has heard of a request, nobody knows."""

    async def once(received: Received, writer: asyncio.StreamWriter) -> None:
        await answer(received, writer)
        if len(server.received) == 2:
            writer.transport.abort()

    async with upstream(once) as server, brokered() as (_, client):
        assert (await exchange(client, request(server.port))).status == 200
        found = await exchange(client, request(server.port))
        assert len(server.received) == 2
        assert found.status in (200, 502)


async def test_tls_verifies_the_name_and_offers_no_http_2(tmp_path: Path) -> None:
    authority, other = Authority(), Authority()
    good = authority.serving(tmp_path, "upstream.test")
    judge = Lenient(tls=authority.trusting())

    async def https(tls: object, name: str = "upstream.test") -> Collected:
        async with upstream(tls=tls) as server:  # type: ignore[arg-type]
            found = await exchange(client, request(server.port, scheme="https", host=name))
            assert bool(server.received) == (found.status == 200)
            return found

    async with brokered(judge=judge) as (_, client):
        assert (await https(good)).status == 200
        for tls, name in (
            (other.serving(tmp_path, "upstream.test"), "upstream.test"),  # attempt 31
            (authority.serving(tmp_path, "elsewhere.test"), "upstream.test"),
            (authority.serving(tmp_path, "upstream.test", days=-1), "upstream.test"),
            (good, "else.test"),
        ):
            found = await https(tls, name)
            assert (found.status, found.refusal["code"]) == (502, "upstream_certificate")


async def test_a_websocket_goes_both_ways(caplog: pytest.LogCaptureFixture) -> None:
    async def echo(connection: ws_server.ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with ws_server.serve(echo, "127.0.0.1", 0, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with brokered() as (_, client):
            headers = {
                "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
                "sec-websocket-version": "13",
            }
            stream = await client.open(RUN, request(port, headers=headers, upgrade="websocket"))
            frames = aiter(stream)
            kinds = {}
            while HEAD not in kinds:
                frame = await anext(frames)
                kinds[frame.kind] = frame
            head = kinds[HEAD].fields
            assert head["status"] == 101
            assert dict(head["headers"])["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
            masked = b"\x81\x82\0\0\0\0hi"
            stream.send(0, masked)
            while (frame := await anext(frames)).kind != DATA:
                pass
            assert frame.data == b"\x81\x02hi"
            close = b"\x88\x82\0\0\0\0\x03\xe8"
            stream.send(len(masked), close)
            stream.end(len(masked) + len(close))
            found = await collect(stream)
            assert found.whole and found.done["status"] == 101
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


async def test_a_connection_goes_both_ways_and_ends_by_halves() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"greeting;")
        whole = await reader.read(-1)  # until the other half has ended
        writer.write(whole.upper())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, brokered() as (_, client):
        port = server.sockets[0].getsockname()[1]
        found = await exchange(client, request(port, scheme="tcp"), b"abc" * 100_000)
        assert found.body == b"greeting;" + b"ABC" * 100_000
        assert found.whole and found.done["sent"] == 300_000
        gone = await exchange(client, request(1, scheme="tcp"))
        assert gone.refusal["code"] == "upstream_unreachable"


async def test_a_recorded_call_goes_on_without_its_listener_and_is_sent_once() -> None:
    go = asyncio.Event()

    async def slowly(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 400000\r\n\r\n")
        writer.write(b"a" * 300_000)
        await writer.drain()
        await go.wait()
        writer.write(b"b" * 100_000)

    op = OpId("http:upstream.test/@0a1b2c3d#1")
    async with upstream(slowly) as server, brokered() as (broker, client):
        opened = request(server.port, "/", "POST")
        stream, verdict = await client.call(RUN, op, "http", opened, b"{}")
        assert verdict.fields == {"verdict": "allow"}
        while (frame := await stream.next()) is not None and frame.kind != DATA:
            pass
        stream.leave()  # as when a machine dies
        again, joined = await client.call(RUN, op, "http", opened, b"{}", offset=1000)
        assert joined.fields["joined"]
        go.set()
        found = await collect(again)
        assert (len(found.body), found.body[-1:], found.whole) == (399_000, b"b", True)
        late = await client.attach(RUN, op, 399_999)
        assert late is not None and late[1].fields == {"verdict": "allow", "joined": True}
        assert (await collect(late[0])).body == b"b"
        assert len(server.received) == 1
        assert broker.calls.bytes >= 400_000
        await client.acknowledge(RUN, op)
        assert await client.attach(RUN, op) is None
        assert broker.calls.bytes == 0


async def test_who_goes_before_a_verdict_has_come_leaves_no_stream_behind() -> None:
    async def never(_: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    op = OpId("http:upstream.test/@0a1b2c3d#1")
    async with upstream(never) as server, brokered() as (broker, client):
        opened = request(server.port, "/", "POST")
        stream, _ = await client.call(RUN, op, "http", opened, b"{}")
        for again in (client.attach(RUN, op), client.call(RUN, op, "http", opened, b"{}")):
            joining = asyncio.create_task(again)
            await asyncio.sleep(0)  # it has begun its stream
            joining.cancel()
            await asyncio.wait([joining])
            await client.health()  # the broker has read all of that
            await until(lambda: broker.streams.total() == 1)
        stream.leave()


async def test_a_call_whose_body_is_not_whole_is_never_sent() -> None:
    op = OpId("http:upstream.test/@0a1b2c3d#1")
    async with upstream() as server, brokered() as (broker, client):
        connection = await client.connect()
        fields = {"run": RUN, "op": op, "kind": "http", "length": 4}
        opened = {"request": request(server.port, "/", "POST"), **fields}
        stream = connection.stream(32, opened)
        while (frame := await stream.next()) is not None and frame.kind != WINDOW:
            pass
        stream.send(0, b"ab")
        await broker.close()
        with pytest.raises(Lost) as lost:
            await collect(stream)
        assert not lost.value.sent  # so it may be asked for again
        assert not server.received


async def test_a_broker_that_dies_tells_that_a_call_may_have_been_sent() -> None:
    held = asyncio.Event()

    async def hold(_: Received, writer: asyncio.StreamWriter) -> None:
        held.set()
        await asyncio.Event().wait()

    op = OpId("http:upstream.test/@0a1b2c3d#1")
    async with upstream(hold) as server, brokered() as (broker, client):
        stream, _ = await client.call(RUN, op, "http", request(server.port, "/", "POST"), b"{}")
        await held.wait()
        await broker.close()
        with pytest.raises(Lost) as lost:
            await collect(stream)
        assert lost.value.sent
        assert len(server.received) == 1


async def test_policies_and_secrets_are_said_again_to_the_next_broker() -> None:
    class Noting(Lenient):
        def set_policy(self, run: str, policy: object) -> None:
            noted.append((run, policy))

        def set_secrets(self, entries: object) -> None:
            noted.append(entries)

    noted: list[object] = []
    async with brokered(judge=Noting()) as (_, client):
        await client.set_policy(RUN, {"agent": "a"})
        await client.set_secrets([{"name": "S"}])
        (await client.connect()).close()
        await client.health()
        secrets, policy = [{"name": "S"}], (RUN, {"agent": "a"})
        assert noted == [policy, secrets, secrets, policy]
        await client.drop_policy(RUN)
        assert noted[-1] == (RUN, None)


async def test_a_policy_that_nobody_waits_for_comes_before_what_is_asked_for_later() -> None:
    class Noting(Lenient):
        def set_policy(self, run: str, policy: object) -> None:
            noted.append(policy)

        async def admit(self, outgoing: Outgoing) -> Admission | Refusal:
            noted.append(outgoing.request.target)
            return await super().admit(outgoing)

    noted: list[object] = []
    async with brokered(judge=Noting()) as (_, client), upstream() as server:
        client.post_policy(RUN, {"agent": "a"})  # there is no connection yet
        await exchange(client, request(server.port, "/1"))
        client.post_policy(RUN, {"agent": "b"})
        await exchange(client, request(server.port, "/2"))
    assert noted == [{"agent": "a"}, "/1", {"agent": "b"}, "/2"]


class Uncountable:
    """A charge that fails over the answer."""

    asks = False

    def sent(self, data: bytes) -> str:
        return ""

    def received(self, data: bytes) -> str:
        return ""

    def settle(self, status: int | None, headers: object) -> dict[str, object]:
        raise RecursionError

    def cancel(self) -> None: ...


@pytest.mark.parametrize("recorded", [False, True])
async def test_an_exchange_ends_though_it_cannot_be_counted(recorded: bool) -> None:
    async with brokered(judge=Lenient(charge=Uncountable())) as (_, client), upstream() as server:
        opened = request(server.port, "/")
        if recorded:
            stream, _ = await client.call(RUN, OpId("http:x#1"), "http", opened, b"")
            found = await collect(stream)
        else:
            found = await exchange(client, opened)
        assert (found.status, found.whole, "usage" in found.done) == (200, True, False)
