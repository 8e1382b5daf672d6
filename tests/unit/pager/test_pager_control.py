"""The request socket, from a client that does not behave."""

from __future__ import annotations

import json
import socket
import stat
from typing import Any

import pytest

from torpor.core.errors import Invalid
from torpor.pager.control import FIELDS, LINE_BYTES_MAX, parse


def connected(pager: Any) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(pager.home.socket("pager")))
    return client


def answers(client: socket.socket, sent: bytes) -> list[Any]:
    """What the pager answers to `sent`, until it or we end the connection."""
    client.sendall(sent)
    client.shutdown(socket.SHUT_WR)
    with client, client.makefile("rb") as lines:
        return [json.loads(line) for line in lines]


def test_requests_of_a_connection_are_answered_in_order_whatever_they_are(pager: Any) -> None:
    sent = [
        b'{"op": "ping"}',
        b"not json",
        b"[1, 2]",
        b'{"op": ["ping"]}',
        b'{"op": "explode"}',
        b'{"op": "create", "slot": 7, "memory": 4096, "disk": 0}',
        b'{"op": "create", "slot": "x", "memory": true, "disk": 0}',
        b'{"op": "create", "slot": "x", "memory": 4096}',
        b'{"op": "ping", "extra": 1}',
        b"\xff\xfe",
        b"",
        b'{"op": "stats"}',
    ]
    got = answers(connected(pager), b"\n".join(sent) + b"\n")
    assert [answer.get("error", {}).get("code") for answer in got] == [
        None,
        *["invalid"] * 10,
        None,
    ]
    assert got[0]["mount"] == str(pager.home.mount)
    assert got[-1].keys() >= {"reads", "bytes", "frames", "hits", "misses", "pushed", "damaged"}


def test_an_endless_line_ends_the_connection_and_nothing_else(pager: Any) -> None:
    client = connected(pager)
    (answer,) = answers(client, b"x" * (LINE_BYTES_MAX + 1))
    assert answer["error"]["code"] == "invalid"
    assert pager.ask("ping")


def test_a_client_that_leaves_early_harms_nobody(pager: Any) -> None:
    for sent in (b"", b'{"op"', b'{"op": "ping"}\n' * 1000, b"x" * (LINE_BYTES_MAX + 1)):
        with connected(pager) as client:
            client.sendall(sent)
    assert pager.ask("ping")


def test_only_this_user_may_connect(pager: Any) -> None:
    assert stat.S_IMODE(pager.home.socket("pager").stat().st_mode) == 0o600


@pytest.mark.parametrize("op", FIELDS)
def test_every_operation_takes_exactly_its_fields(op: str) -> None:
    values = {str: "s", int: 1, bool: False}
    request = {"op": op} | {name: values[kind] for name, kind in FIELDS[op].items()}
    assert parse(json.dumps(request).encode()) == request
    with pytest.raises(Invalid, match="no field 'surplus'"):
        parse(json.dumps({**request, "surplus": 1}).encode())
    for name in FIELDS[op]:
        with pytest.raises(Invalid, match=name):
            parse(json.dumps({**request, name: None}).encode())
