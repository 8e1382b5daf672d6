from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.guest.http1 import (
    BODY_BYTES_MAX,
    HEAD_BYTES_MAX,
    BadRequest,
    Parser,
    Request,
    response,
)

POST = b"POST /v1/x HTTP/1.1\r\n"


def parse(data: bytes, piece: int = 1 << 30) -> list[Request]:
    parser = Parser()
    found = []
    for start in range(0, len(data), piece):
        request = parser.feed(data[start : start + piece])
        while request is not None:
            found.append(request)
            request = parser.feed(b"")
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
    first, second, third = parse(data, piece)
    assert bytes(first.body) == bytes(third.body) == body
    assert (second.method, second.path, second.headers, bytes(second.body)) == (
        "GET",
        "/",
        {"a": "b, c"},
        b"",
    )


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
        (b"BREW / HTTP/1.1\r\n\r\n", 400),
        (b"GET http://elsewhere/ HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nname : value\r\n\r\n", 400),
        (POST + b"\r\n", 411),
        (POST + b"Content-Length: -1\r\n\r\n", 400),
        (POST + b"Content-Length: 1, 1\r\n\r\n", 400),
        (POST + b"Content-Length: %d\r\n\r\n" % (BODY_BYTES_MAX + 1), 413),
        (POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (BODY_BYTES_MAX + 1), 413),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 5000, 400),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * HEAD_BYTES_MAX, 431),
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
    (request,) = parse(f"GET / HTTP/{version}\r\n{connection}\r\n".encode())
    assert request.keep_alive is kept


def test_a_response_frames_its_body() -> None:
    made = response(200, [("x", "y")], b"hi", keep_alive=True)
    assert (
        made == b"HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nhi"
    )
    assert response(299, [], b"hi", keep_alive=False, head=True).endswith(b"close\r\n\r\n")
