"""Which request joins which call, without the sockets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from torpor.guest.http1 import Request
from torpor.guest.models import Models
from torpor.replay.journal import Recorded


class Asker:
    """A client that waits until it is `gone`."""

    def __init__(self) -> None:
        self.gone = False
        self.heard: list[bytes] = []

    def respond(self, whole: bytes) -> None:
        self.heard.append(whole)


class Host:
    def __init__(self) -> None:
        self.begun: list[str] = []
        self.models = Models(lambda message: self.begun.append(json.loads(message)["op"]))
        self.models.open()

    def ask(self, body: str = "a", path: str = "/v1/x") -> Asker:
        asker = Asker()
        request = Request("POST", path, {}, keep_alive=True, body=bytearray(body.encode()))
        self.models.request(request, asker)
        return asker

    def answer(self, op: str, body: str = "yes", status: int = 200) -> None:
        value: dict[str, Any] = {"status": status, "headers": {}, "body": body}
        self.models.result({"op": op, "ok": True, "value": value})


def test_a_pending_call_is_joined_once_its_client_has_gone() -> None:
    host = Host()
    first = host.ask()
    assert len(host.begun) == 1
    host.ask()
    assert len(set(host.begun)) == 2  # both are there
    first.gone = True
    third = host.ask()
    assert len(host.begun) == 2
    host.answer(host.begun[0], "for the third")
    assert (len(third.heard), first.heard) == (1, [])
    assert b"for the third" in third.heard[0]


def test_only_an_equal_request_joins() -> None:
    host = Host()
    host.ask("a").gone = True
    for other in (host.ask("b"), host.ask("a", "/v1/y"), host.ask("a", "/v1/x?z")):
        assert not other.heard
    assert len(set(host.begun)) == 4


def test_each_answer_that_nobody_heard_serves_one_request() -> None:
    host = Host()
    for _ in range(2):
        host.ask()
    lost = list(host.begun)
    for asker in host.models._pending.values():
        assert isinstance(asker.client, Asker)
        asker.client.gone = True
    for op in lost:
        host.answer(op)
    for _ in range(3):
        host.ask()
    assert host.begun[2:4] == lost
    assert host.begun[4] not in lost


def test_who_joins_may_go_as_well() -> None:
    host = Host()
    for _ in range(5):
        host.ask().gone = True
    last = host.ask()
    assert len(host.begun) == 1
    host.answer(host.begun[0])
    assert len(last.heard) == 1


def test_a_recorded_call_comes_before_one_that_nobody_heard() -> None:
    """What the log holds is used up in its order, whoever gave up meanwhile."""
    host = Host()
    host.ask().gone = True
    (op,) = host.begun
    host.answer(op)
    recorded: Any = {
        "op": op.replace("#1", "#2"),
        "kind": "model",
        "side": True,
        "name": op.partition(":")[2].rpartition("#")[0],
        "digest": host.models._unheard[0][1].digest,
        "ok": True,
        "value": {"status": 200, "headers": {}, "body": "recorded"},
    }
    host.models.extend_journal([recorded])
    assert b"recorded" in host.ask().heard[0]
    assert host.begun == [op]


@pytest.mark.parametrize("reloaded", [False, True])
def test_that_other_code_asks_for_something_else_is_no_wonder(reloaded: bool) -> None:
    said: list[dict[str, Any]] = []
    models = Models(lambda message: said.append(json.loads(message)))
    if reloaded:
        models.expect_others()
    value = {"status": 200, "headers": {}, "body": "yes"}
    known = {"op": "model:/v1/x@0#1", "kind": "model", "name": "/v1/x@0", "digest": "0" * 32}
    models.extend_journal([Recorded(**known, ok=True, value=value, seq=3)])  # type: ignore[typeddict-item]
    models.open()
    models.request(Request("POST", "/v1/x", {}, keep_alive=True, body=bytearray(b"b")), Asker())
    models.result({"op": said[0]["op"], "ok": True, "value": value})
    warnings = [each for each in said if each["t"] == "note"]
    assert len(warnings) == (0 if reloaded else 1)
