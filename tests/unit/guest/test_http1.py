from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.guest.http1 import (
    END,
    HEAD_BYTES_MAX,
    BadRequest,
    Head,
    Parser,
    answer_head,
    response,
)

POST = b"POST /v1/x HTTP/1.1\r\n"


def parse(data: bytes, piece: int = 1 << 30) -> list[tuple[Head, bytes]]:
    """The requests that have come whole."""
    parser = Parser()
    found: list[tuple[Head, bytes]] = []
    head: Head | None = None
    body = b""
    for start in range(0, len(data), piece):
        parser.feed(data[start : start + piece])
        while (event := parser.next(7)) is not None:
            if isinstance(event, Head):
                head, body = event, b""
            elif isinstance(event, bytes):
                body += event
            else:
                assert event is END
                assert head is not None
                found.append((head, body))
    return found


def chunked(chunks: list[bytes]) -> bytes:
    body = b"".join(b"%x;note=1\r\n%b\r\n" % (len(each), each) for each in chunks if each)
    return POST + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\nTrailer: x\r\n\r\n"


def plain(body: bytes) -> bytes:
    return POST + b"Content-Length: %d\r\n\r\n" % len(body) + body


@given(st.lists(st.binary(max_size=50), max_size=5), st.integers(1, 40))
def test_bodies_arrive_whole_however_they_are_cut(chunks: list[bytes], piece: int) -> None:
    body = b"".join(chunks)
    data = chunked(chunks) + b"GET / HTTP/1.1\r\nA: b\r\nA: c\r\n\r\n" + plain(body)
    (_, one), (second, none), (_, three) = parse(data, piece)
    assert (one, none, three) == (body, b"", body)
    assert (second.method, second.target) == ("GET", "/")
    assert second.headers == [("a", "b"), ("a", "c")]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_nothing_yet_or_refused(data: bytes) -> None:
    for start in (b"", POST, POST + b"Transfer-Encoding: chunked\r\n\r\n"):
        try:
            parse(start + data)
        except BadRequest as error:
            assert 400 <= error.status < 500


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/2\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\n\r\n", 400),
        (b"get / HTTP/1.1\r\n\r\n", 400),
        (b"GET /\x80 HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nname : value\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        # 14: what another parser could take for two requests.
        (POST + b"Content-Length: -1\r\n\r\n", 400),
        (POST + b"Content-Length: +1\r\n\r\n", 400),
        (POST + b"Content-Length: 1, 1\r\n\r\n", 400),
        (POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
        (POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked, identity\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 5000, 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\n", 400),
        # 15: what would be a line of its own for somebody.
        (b"GET / HTTP/1.1\r\nA: b\rX: c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\nX: c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\0c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * HEAD_BYTES_MAX, 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 201 + b"\r\n", 431),
    ],
)
def test_what_is_refused(data: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as refused:
        parse(data)
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: close\r\n", False),
        ("1.0", "", False),
        ("1.0", "Connection: keep-alive\r\n", True),
    ],
)
def test_keep_alive(version: str, connection: str, kept: bool) -> None:
    ((request, _),) = parse(f"GET / HTTP/{version}\r\n{connection}\r\n".encode())
    assert request.keep_alive is kept


def test_a_response_frames_its_body() -> None:
    made = response(200, [("x", "y")], b"hi", keep_alive=True)
    assert (
        made == b"HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nhi"
    )
    assert response(299, [], b"hi", keep_alive=False, head=True).endswith(b"close\r\n\r\n")


@pytest.mark.parametrize(
    ("method", "version", "status", "headers", "ends"),
    [
        ("GET", "1.1", 200, [("Content-Length", "2")], b"hi"),
        ("GET", "1.1", 200, [], b"2\r\nhi\r\n0\r\n\r\n"),
        ("GET", "1.1", 200, [("content-length", "2"), ("content-length", "3")], b"0\r\n\r\n"),
        ("GET", "1.0", 200, [], b"hi"),
        ("HEAD", "1.1", 200, [("content-length", "2")], b"content-length: 2"),
        ("GET", "1.1", 304, [("content-length", "2")], b""),
    ],
)
def test_an_answer_is_framed_as_its_client_reads_it(
    method: str, version: str, status: int, headers: list[tuple[str, str]], ends: bytes
) -> None:
    ((request, _),) = parse(f"{method} / HTTP/{version}\r\n\r\n".encode())
    dropped = [("Transfer-Encoding", "gzip"), ("Keep-Alive", "timeout=5")]
    head, framing = answer_head(request, status, [*headers, *dropped])
    assert b"gzip" not in head
    assert b"timeout" not in head
    whole = head + framing.piece(b"hi") + framing.last
    assert whole.endswith(ends) or ends in head
    assert framing.keep_alive is (version == "1.1")
