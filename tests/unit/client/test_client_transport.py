"""The client's HTTP, against servers that do what servers do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from torpor.client.transport import Broken, Response, Transport

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Server:
    """Answers each request with the next of `answers`, and hangs up after those that say so."""

    def __init__(self, address: Path | tuple[str, int], answers: list[tuple[bytes, bool]]) -> None:
        """At a Unix socket or a TCP port."""
        self.requests: list[bytes] = []
        self.connections = 0
        self.hung_up = threading.Event()
        self._answers = iter(answers)
        if isinstance(address, Path):
            self._listening = socket.socket(socket.AF_UNIX)
            self._listening.bind(str(address))
        else:
            self._listening = socket.socket(socket.AF_INET)
            self._listening.bind(address)
        self._listening.listen()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self.thread.join(10)
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                stays = True
                while stays and (request := self._read(connection)):
                    self.requests.append(request)
                    answer, stays = next(self._answers)
                    connection.sendall(answer)
            self.hung_up.set()

    def _read(self, connection: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := connection.recv(1 << 16)):
                return data
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length: "):
                while len(body) < int(line[16:]):
                    body += connection.recv(1 << 16)
        return head + b"\r\n\r\n" + body


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., tuple[Server, Transport]]]:
    servers: list[Server] = []

    def make(*answers: tuple[bytes, bool]) -> tuple[Server, Transport]:
        path = tmp_path / "s"
        servers.append(Server(path, list(answers)))
        return servers[-1], Transport(path, {"x-key": "k"})

    yield make
    for server in servers:
        server.close()


Serve = Callable[..., tuple[Server, Transport]]


def ask(
    transport: Transport, method: str = "GET", path: str = "/v1/x", **options: object
) -> object:
    with transport.stream(method, path, timeout_s=10, **options) as response:  # type: ignore[arg-type]
        return response.json()


def test_a_connection_is_used_again(serve: Serve) -> None:
    server, transport = serve((WHOLE, True), (WHOLE, True))
    assert ask(transport, params={"a": "b c", "n": 1}) == {}
    ask(transport, "POST", body=b'{"x": 1}', headers={"content-type": "application/json"})
    first, second = server.requests
    assert first.startswith(b"GET /v1/x?a=b+c&n=1 HTTP/1.1\r\nHost: torpor\r\n")
    assert b"x-key: k\r\n" in first
    assert second.endswith(b'\r\n\r\n{"x": 1}')
    assert server.connections == 1


def test_one_that_the_server_has_closed_is_not(serve: Serve) -> None:
    server, transport = serve((WHOLE, False), (WHOLE, True))
    assert ask(transport) == {}
    assert server.hung_up.wait(10)
    assert ask(transport) == {}
    assert (len(server.requests), server.connections) == (2, 2)


def test_nor_is_one_whose_response_was_left(serve: Serve) -> None:
    server, transport = serve((CHUNKED + b"2\r\nab\r\n", False), (WHOLE, True))
    with transport.stream("GET", "/", timeout_s=10) as response:
        assert next(response.chunks()) == b"ab"
    assert ask(transport) == {}
    assert server.connections == 2


def test_lines_come_whole_however_they_were_sent(serve: Serve) -> None:
    parts = ("event: a\r\nda", "ta: \u00e9"[:-1], "\u00e9\n", "\nlast")
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(p.encode()), p.encode()) for p in parts)
    _, transport = serve((CHUNKED + chunks + b"0\r\n\r\n", True))
    with transport.stream("GET", "/", timeout_s=10) as response:
        assert list(response.lines()) == ["event: a", "data: \u00e9", "", "last"]


def read_chunks(response: Response) -> object:
    return b"".join(response.chunks())


@pytest.mark.parametrize("read", [Response.json, read_chunks])
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        CHUNKED + b"5\r\nab",
        CHUNKED + b"2\r\n{}\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
    ],
)
def test_half_a_response_is_none(
    serve: Serve, answer: bytes, read: Callable[[Response], object]
) -> None:
    _, transport = serve((answer, False))
    with (
        pytest.raises(Broken, match="it went away while answering"),
        transport.stream("GET", "/", timeout_s=10) as response,
    ):
        read(response)


def test_a_body_that_is_not_wanted_gets_its_answer(tmp_path: Path) -> None:
    """The server answers and hangs up while the body is still being sent."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "s"))
    listening.listen()

    def refuse() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(1)
            connection.sendall(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\n{}")
            connection.shutdown(socket.SHUT_RD)

    thread = threading.Thread(target=refuse, daemon=True)
    thread.start()
    transport = Transport(tmp_path / "s", {})
    with transport.stream("POST", "/", body=b"x" * (1 << 24), timeout_s=10) as response:
        assert (response.status, response.ok, response.json()) == (413, False, {})
    thread.join(10)
    listening.close()


def test_who_is_not_there_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(Broken, match="it is not running"):
        ask(Transport(tmp_path / "nowhere", {}))
    with pytest.raises(Broken, match="there is no host of that name"):
        ask(Transport("http://nowhere.invalid", {}))


def test_an_address_may_have_a_path(serve: Serve) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    asked: list[bytes] = []

    def answer() -> None:
        connection, _ = listening.accept()
        with connection:
            asked.append(connection.recv(1 << 16))
            connection.sendall(WHOLE)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    port = listening.getsockname()[1]
    assert ask(Transport(f"http://127.0.0.1:{port}/behind/a/proxy", {})) == {}
    assert asked[0].startswith(b"GET /behind/a/proxy/v1/x HTTP/1.1\r\n")
    thread.join(10)
    listening.close()


def test_what_only_reads_is_asked_again_where_a_connection_that_was_kept_is_gone(
    serve: Serve,
) -> None:
    server, transport = serve((WHOLE, True), (b"", False), (WHOLE, True), (b"", False))
    for _ in range(2):
        with transport.stream("GET", "/v1/x", timeout_s=5) as response:
            assert response.json() == {}
    assert (server.connections, len(server.requests)) == (2, 3)
    with pytest.raises(Broken), transport.stream("POST", "/v1/x", body=b"{}", timeout_s=5):
        pass
    assert len(server.requests) == 4
