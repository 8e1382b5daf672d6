"""Whatever comes from a client, or from the other side of a link, is refused at worst."""

from __future__ import annotations

import contextlib
import selectors
import socket
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from torpor.core.egress import Rule
from torpor.core.errors import Invalid
from torpor.guest.exchanges import Exchanges
from torpor.guest.flows import FROM_GATEWAY, Listener, Streams
from torpor.guest.gateway import Gateway, loopback, model_site
from torpor.guest.places import Places
from torpor.wire import streams

NUMBERS = st.integers(0, 3)
Fields = tuple[int, dict[str, Any]]
FIELDS: st.SearchStrategy[Fields] = st.sampled_from(
    [
        (streams.OPEN, {"scheme": "tcp", "host": "a", "port": 1}),
        (
            streams.OPEN,
            {
                "scheme": "https",
                "host": "a",
                "port": 443,
                "method": "GET",
                "target": "/",
                "headers": [["a", "b"]],
            },
        ),
        (streams.HEAD, {"status": 200, "headers": [["content-length", "3"]]}),
        (streams.HEAD, {"status": 101, "headers": []}),
        (streams.REFUSE, {"status": 403, "code": "x", "message": "y"}),
        (streams.RESET, {"code": "x", "message": "y"}),
        (streams.RECORD, {"kind": "http"}),
        (streams.RECORD, {"kind": "http", "ask": True}),
        (streams.NOTE, {"code": "x", "name": "y"}),
    ]
)
AT = st.tuples(
    st.sampled_from([streams.WINDOW, streams.DATA, streams.END]),
    st.integers(0, 20),
    st.binary(max_size=9),
)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    number = draw(NUMBERS)
    if draw(st.booleans()):
        kind, fields = draw(FIELDS)
        return streams.encode(kind, number, fields)
    kind, offset, data = draw(AT)
    return streams.encode_at(kind, number, offset, data if kind == streams.DATA else b"")


ANY = st.one_of(frames(), st.binary(max_size=40))


@given(st.lists(st.tuples(st.booleans(), ANY), max_size=30))
@settings(deadline=None)
def test_42_frames_in_any_order_are_taken_or_refused(came: list[tuple[bool, bytes]]) -> None:
    passed: list[bytes] = []
    given_: list[bytes] = []
    exchanges = Exchanges(lambda message: None, passed.append, given_.append)
    exchanges.open()
    for from_host, frame in came:
        with contextlib.suppress(Invalid):
            (exchanges.from_host if from_host else exchanges.from_gateway)(frame)
    exchanges.thawed()
    assert exchanges.busy >= exchanges.calls >= 0
    # What goes on is what the next one takes, too.
    for each in given_:
        kind, _ = streams.peek(each)
        assert kind in streams.TO_GUEST | FROM_GATEWAY


@given(st.lists(frames(), max_size=20))
@settings(deadline=None)
def test_a_gateway_takes_frames_in_any_order(came: list[bytes]) -> None:
    with selectors.DefaultSelector() as selector:
        sent: list[bytes] = []
        gateway = Gateway(selector, sent.append)
        ours, theirs = socket.socketpair()
        gateway.serve(theirs, model_site("", 0))
        ours.sendall(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi")
        _round(selector)
        for frame in came:
            with contextlib.suppress(Invalid):
                gateway.receive(frame)
        _round(selector)
        gateway.close()
        ours.close()


def _round(selector: selectors.BaseSelector) -> None:
    for key, mask in selector.select(0):
        if selector.get_map().get(key.fd) is key:
            key.data(mask)


@given(st.lists(st.binary(max_size=80), max_size=5))
@settings(deadline=None)
def test_a_client_may_send_anything(pieces: list[bytes]) -> None:
    with selectors.DefaultSelector() as selector:
        gateway = Gateway(selector, lambda frame: None)
        ours, theirs = socket.socketpair()
        gateway.serve(theirs, model_site("", 0))
        for piece in (b"GET / HTTP/1.1\r\n", *pieces):
            with contextlib.suppress(OSError):
                ours.sendall(piece)
            _round(selector)
        gateway.close()
        ours.close()


HEADS = st.sampled_from(
    [
        *(b"CONNECT a.example:443 HTTP/1.1\r\n\r\n", b"CONNECT a.example:99999 HTTP/1.1\r\n\r\n"),
        *(b"CONNECT b.example:443 HTTP/1.1\r\n\r\n", b"CONNECT [::1]:443 HTTP/1.1\r\n\r\n"),
        *(b"GET http://a.example/ HTTP/1.1\r\n", b"GET https://a.example/ HTTP/1.1\r\n"),
        *(b"GET http://[::1]/ HTTP/1.1\r\n", b"GET http://a.example:0/ HTTP/1.1\r\n"),
        *(b"Host: a.example\r\n\r\n", b"OPTIONS * HTTP/1.1\r\n\r\n", b"CONNECT a HTTP/1.1\r\n\r\n"),
    ]
)


@given(st.lists(st.one_of(HEADS, st.binary(max_size=80)), max_size=5))
@settings(deadline=None)
def test_a_client_of_a_proxy_may_send_anything(pieces: list[bytes]) -> None:
    with selectors.DefaultSelector() as selector:
        sent: list[bytes] = []
        gateway = Gateway(selector, sent.append)
        places = Places()
        places.obey([Rule("a.example", protocol="tcp").to_guest()])
        listener = loopback(0)
        gateway.listen_as_proxy(listener, model_site("", 0), places.find)
        with socket.create_connection(listener.getsockname()) as client:
            for piece in pieces:
                with contextlib.suppress(OSError):
                    client.sendall(piece)
                _round(selector)
            opened = [streams.decode(each, FROM_GATEWAY) for each in sent]
            hosts = {each.fields["host"] for each in opened if "host" in each.fields}
            assert hosts <= {"a.example", "model.torpor"} or b"://" in b"".join(pieces)
            gateway.close()


def test_streams_are_numbered_once() -> None:
    sent: list[bytes] = []
    table = Streams(sent.append)
    fields = {"scheme": "tcp", "host": "a", "port": 1}
    numbers = []
    for _ in range(3):
        stream = table.open(Listener(), fields)
        numbers.append(stream.number)
        stream.drop("gone", "")
    assert numbers == [1, 2, 3]
    assert len(table) == 0
