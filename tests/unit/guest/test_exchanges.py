"""Which request joins which call, without the sockets."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import pytest

from torpor.core import permissions
from torpor.core.egress import MODEL_HOST
from torpor.guest.exchanges import Exchanges
from torpor.replay.journal import Recorded
from torpor.wire import streams


class Asker:
    """A client, on a stream of its own."""

    def __init__(self, host: Host, stream: int) -> None:
        self._host, self.stream = host, stream

    def leave(self) -> None:
        gone = {"code": "client_gone", "message": ""}
        self._host.exchanges.from_gateway(streams.encode(streams.RESET, self.stream, gone))

    @property
    def heard(self) -> bytes:
        return self._host.body(self.stream)


class Host:
    """Both of its neighbours: the gateway, and what is beyond the link."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.given: list[streams.Frame] = []
        self.passed: list[streams.Frame] = []
        self.exchanges = Exchanges(
            lambda message: self.said.append(json.loads(message)),
            lambda frame: self.passed.append(streams.decode(frame, streams.FROM_GUEST)),
            lambda frame: self.given.append(streams.decode(frame, streams.TO_GUEST)),
        )
        self.exchanges.open()
        self.opened = 0

    @property
    def begun(self) -> list[str]:
        return [each["op"] for each in self.said if each["t"] == "begin"]

    def body(self, stream: int) -> bytes:
        return b"".join(each.data for each in self.given if each.stream == stream)

    def kinds(self, stream: int) -> list[int]:
        return [each.kind for each in self.given if each.stream == stream]

    def ask(
        self,
        body: str = "a",
        path: str = "/v1/x",
        host: str = MODEL_HOST,
        record: dict[str, Any] | None = None,
    ) -> Asker:
        self.opened += 1
        number = self.opened
        scheme, port = ("http", 80) if host == MODEL_HOST else ("https", 443)
        fields = {"scheme": scheme, "host": host, "port": port, "method": "POST", "target": path}
        fields["headers"] = [["content-length", str(len(body))], ["authorization", "Bearer x"]]
        take = self.exchanges.from_gateway
        take(streams.encode(streams.RECORD, number, record or {"kind": "model"}))
        take(streams.encode(streams.OPEN, number, fields))
        for at in range(0, len(body), streams.DATA_BYTES):
            piece = body[at : at + streams.DATA_BYTES].encode()
            take(streams.encode_at(streams.DATA, number, at, piece))
        take(streams.encode_at(streams.END, number, len(body)))
        return Asker(self, number)

    def answer(self, op: str, body: str = "yes", status: int = 200) -> None:
        value: dict[str, Any] = {"status": status, "headers": {}, "body": body}
        self.exchanges.result({"op": op, "ok": True, "value": value})


def test_a_pending_call_is_joined_once_its_client_has_gone() -> None:
    host = Host()
    first = host.ask()
    assert len(host.begun) == 1
    host.ask()
    assert len(set(host.begun)) == 2  # both are there
    first.leave()
    third = host.ask()
    assert len(host.begun) == 2
    host.answer(host.begun[0], "for the third")
    assert first.heard == b""
    assert third.heard == b"for the third"


def test_only_an_equal_request_joins() -> None:
    host = Host()
    host.ask("a").leave()
    for other in (host.ask("b"), host.ask("a", "/v1/y"), host.ask("a", "/v1/x?z")):
        assert not other.heard
    assert len(set(host.begun)) == 4


def test_each_answer_that_nobody_heard_serves_one_request() -> None:
    host = Host()
    askers = [host.ask() for _ in range(2)]
    lost = list(host.begun)
    for asker in askers:
        asker.leave()
    for op in lost:
        host.answer(op)
    for _ in range(3):
        host.ask()
    assert host.begun[2:4] == lost
    assert host.begun[4] not in lost


def test_who_joins_may_go_as_well() -> None:
    host = Host()
    for _ in range(5):
        host.ask().leave()
    last = host.ask()
    assert len(host.begun) == 1
    host.answer(host.begun[0])
    assert last.heard == b"yes"


def test_a_recorded_call_comes_before_one_that_nobody_heard() -> None:
    """What the log holds is used up in its order, whoever gave up meanwhile."""
    host = Host()
    host.ask().leave()
    (op,) = host.begun
    host.answer(op)
    recorded: Any = {
        "op": op.replace("#1", "#2"),
        "kind": "model",
        "side": True,
        "name": op.partition(":")[2].rpartition("#")[0],
        "digest": host.exchanges._unheard[0][1].digest,
        "ok": True,
        "value": {"status": 200, "headers": {}, "body": "recorded"},
    }
    host.exchanges.extend_journal([recorded])
    assert host.ask().heard == b"recorded"
    assert host.begun == [op]


@pytest.mark.parametrize("reloaded", [False, True])
def test_that_other_code_asks_for_something_else_is_no_wonder(reloaded: bool) -> None:
    host = Host()
    if reloaded:
        host.exchanges.expect_others()
    value = {"status": 200, "headers": {}, "body": "yes"}
    known = {"op": "model:/v1/x@0#1", "kind": "model", "name": "/v1/x@0", "digest": "0" * 32}
    host.exchanges.extend_journal([Recorded(**known, ok=True, value=value, seq=3)])  # type: ignore[typeddict-item]
    host.ask("b")
    host.answer(host.begun[0])
    warnings = [each for each in host.said if each["t"] == "note"]
    assert len(warnings) == (0 if reloaded else 1)


def head(number: int, *headers: list[str]) -> bytes:
    return streams.encode(streams.HEAD, number, {"status": 200, "headers": list(headers)})


def test_an_answer_streams_and_its_result_adds_what_is_lacking() -> None:
    host = Host()
    asker = host.ask()
    (begin,) = host.said
    assert begin["stream"] == asker.stream
    host.exchanges.from_host(head(asker.stream))
    host.exchanges.from_host(streams.encode_at(streams.DATA, asker.stream, 0, b"one "))
    host.exchanges.from_host(streams.encode_at(streams.DATA, asker.stream, 2, b"e two "))
    assert asker.heard == b"one two "
    # A gap is not filled by guessing: the value, which is whole, has what is lacking.
    host.exchanges.from_host(streams.encode_at(streams.DATA, asker.stream, 20, b"far"))
    host.answer(begin["op"], "one two three")
    assert asker.heard == b"one two three"
    kinds = host.kinds(asker.stream)
    assert [kinds.count(kind) for kind in (streams.HEAD, streams.END)] == [1, 1]


def test_after_a_thaw_each_answer_goes_on_where_it_was_and_what_is_plain_is_lost() -> None:
    host = Host()
    asker = host.ask()
    host.exchanges.from_host(head(asker.stream))
    host.exchanges.from_host(streams.encode_at(streams.DATA, asker.stream, 0, b"half"))
    fields = {"scheme": "tcp", "host": "db.example.com", "port": 5432}
    host.exchanges.from_gateway(streams.encode(streams.OPEN, 99, fields))
    assert host.exchanges.busy == 2
    host.exchanges.thawed()
    assert host.kinds(99) == [streams.RESET]
    assert host.passed[-1].fields == {"op": host.begun[0], "offset": 4}
    assert (host.exchanges.busy, host.exchanges.calls) == (1, 1)
    host.answer(host.begun[0], "half and half")
    assert asker.heard == b"half and half"


def test_who_takes_a_call_over_has_its_answer_from_the_start() -> None:
    host = Host()
    first = host.ask()
    host.exchanges.from_host(head(first.stream))
    host.exchanges.from_host(streams.encode_at(streams.DATA, first.stream, 0, b"half"))
    first.leave()
    second = host.ask()
    assert len(host.begun) == 1
    assert (host.passed[-1].kind, host.passed[-1].stream) == (streams.ATTACH, second.stream)
    assert host.passed[-1].fields["offset"] == 0
    host.answer(host.begun[0], "half and half")
    assert second.heard == b"half and half"


def test_an_answer_that_was_given_and_not_taken_serves_the_next() -> None:
    host = Host()
    first = host.ask()
    host.answer(host.begun[0])
    first.leave()
    host.ask()
    assert host.begun == [host.begun[0]] * 2


@pytest.mark.parametrize("secret", [False, True])
def test_where_the_host_has_a_secret_the_log_has_none_of_the_client_s(secret: bool) -> None:
    host = Host()
    record = {"kind": "http", "ask": True} | ({"secret": True} if secret else {})
    host.ask(host="api.example.com", record=record, path="/x?api_key=mine&page=2")
    (wait,) = (each["data"]["request"] for each in host.said)
    assert wait["target"] == ("/x?page=2" if secret else "/x?api_key=mine&page=2")
    assert ("authorization" in wait["headers"]) is not secret
    allowed = {"status": "completed", "data": {"decision": "once"}, "by": "ana"}
    host.exchanges.result({"op": host.begun[0], "ok": True, "value": allowed})
    call = host.said[-1]["data"]
    assert (call["path"], call["headers"]) == (wait["target"], wait["headers"])


def test_one_that_had_no_body_is_recorded_as_it_is() -> None:
    host = Host()
    fields = {"scheme": "https", "host": "a.example.com", "port": 443, "method": "GET"}
    host.exchanges.from_gateway(
        streams.encode(streams.OPEN, 1, fields | {"target": "/x", "headers": []})
    )
    host.exchanges.from_gateway(streams.encode_at(streams.END, 1, 0))
    host.exchanges.from_host(streams.encode(streams.RECORD, 1, {"kind": "http"}))
    assert host.kinds(1) == []
    (begin,) = host.said
    assert (begin["kind"], begin["data"]["body"]) == ("http", "")


def test_a_plain_exchange_passes_through_and_the_host_may_want_it_recorded() -> None:
    host = Host()
    fields = {"scheme": "https", "host": "a.example.com", "port": 443, "method": "POST"}
    fields |= {"target": "/x?y", "headers": [["content-length", "2"]]}
    opening = streams.encode(streams.OPEN, 1, fields)
    host.exchanges.from_gateway(opening)
    assert host.passed[-1].fields == fields
    assert (host.exchanges.busy, host.exchanges.calls) == (1, 0)
    host.exchanges.from_host(streams.encode(streams.RECORD, 1, {"kind": "http"}))
    assert host.kinds(1) == [streams.WINDOW]
    host.exchanges.from_gateway(streams.encode_at(streams.DATA, 1, 0, b"hi"))
    host.exchanges.from_gateway(streams.encode_at(streams.END, 1, 2))
    (begin,) = host.said
    assert begin["kind"] == "http"
    assert begin["name"].startswith("a.example.com/x@")
    data = begin["data"]
    assert (data["scheme"], data["host"], data["port"], data["path"], data["body"]) == (
        *("https", "a.example.com", 443, "/x?y"),
        "hi",
    )


def permission_wanted() -> tuple[Host, Any, dict[str, Any]]:
    host = Host()
    asker = host.ask(host="a.example.com", record={"kind": "http", "ask": True})
    (wait,) = host.said
    return host, asker, wait


@pytest.mark.parametrize("decision", ["once", "run"])
def test_who_must_be_asked_is_asked_before(decision: str) -> None:
    host, asker, wait = permission_wanted()
    assert wait["kind"] == "permission"
    assert wait["name"].startswith("POST a.example.com/v1/x@")
    assert wait["data"]["request"]["body"] == "a"
    assert (host.exchanges.asking, host.exchanges.busy) == (1, 0)
    value = {"status": "completed", "data": {"decision": decision}, "by": "ana"}
    host.exchanges.result({"op": wait["op"], "ok": True, "value": value})
    sent = host.said[-1]["data"]
    assert sent["permission"] == wait["op"]
    # What goes out is to the last byte what was shown.
    request = {**sent, "target": sent["path"]}
    assert permissions.digest({"request": request}) == permissions.digest(wait["data"])
    host.answer(host.begun[-1])
    assert asker.heard == b"yes"


@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        (
            {"status": "completed", "data": {"decision": "deny", "reason": "no"}, "by": "ana"},
            "this request was denied by ana: no",
        ),
        ({"status": "timeout"}, "this request was denied: nobody decided about it in time"),
        ({"status": "completed", "data": None, "approved": True}, "does not decide"),
        ({"decision": "once"}, "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_what_nobody_allowed_is_refused_with_the_reason(outcome: Any, why: str) -> None:
    host, _, wait = permission_wanted()
    host.exchanges.result({"op": wait["op"], "ok": True, "value": outcome})
    refused = host.given[-1]
    assert (refused.kind, refused.fields["status"]) == (streams.REFUSE, 403)
    assert why in refused.fields["message"] and not refused.fields["retry"]
    assert len(host.said) == 1, "nothing went out"


def test_what_could_not_be_asked_is_refused() -> None:
    host, _, wait = permission_wanted()
    error = {"type": "Invalid", "message": "its body is not base64"}
    host.exchanges.result({"op": wait["op"], "ok": False, "error": error})
    assert "its body is not base64" in host.given[-1].fields["message"]


def test_while_there_is_no_run_nothing_leaves() -> None:
    host = Host()
    host.exchanges = Exchanges(
        host.said.append,  # type: ignore[arg-type]
        lambda frame: host.passed.append(streams.decode(frame, streams.FROM_GUEST)),
        lambda frame: host.given.append(streams.decode(frame, streams.TO_GUEST)),
    )
    fields = {"scheme": "https", "host": "a.example.com", "port": 443, "method": "GET"}
    fields |= {"target": "/", "headers": []}
    host.exchanges.from_gateway(streams.encode(streams.OPEN, 1, fields))
    note = {"code": "unknown_name", "name": "x"}
    host.exchanges.from_gateway(streams.encode(streams.NOTE, 0, note))
    assert not host.passed
    assert host.given[0].fields["status"] == 425


def large(status: int = 200, size: int = 6, **more: Any) -> dict[str, Any]:
    blob = {"digest": "0" * 64, "bytes": size}
    return {"ok": True, "value": {"status": status, "headers": {}, "blob": blob, **more}}


def came(host: Host, stream: int, at: int, data: bytes) -> None:
    host.exchanges.from_host(streams.encode_at(streams.DATA, stream, at, data))


def test_an_answer_that_is_kept_apart_is_fetched_as_frames() -> None:
    host = Host()
    asker = host.ask()
    (op,) = host.begun
    host.exchanges.from_host(head(asker.stream))
    came(host, asker.stream, 0, b"one")
    host.exchanges.result({"op": op, **large()})
    assert host.passed[-1].fields == {"op": op, "offset": 3}
    assert (host.exchanges.busy, host.exchanges.calls) == (1, 0)
    window = streams.encode_at(streams.WINDOW, asker.stream, 99)
    host.exchanges.from_gateway(window)
    assert host.passed[-1] == streams.decode(window, streams.FROM_GUEST)
    came(host, asker.stream, 2, b"et")
    assert host.exchanges.busy == 0
    host.exchanges.thawed()  # on another host, perhaps
    assert host.passed[-1].fields == {"op": op, "offset": 4}
    came(host, asker.stream, 4, b"wo")
    assert asker.heard == b"onetwo"
    kinds = host.kinds(asker.stream)
    assert [kinds.count(kind) for kind in (streams.HEAD, streams.END)] == [1, 1]
    assert kinds[-1] == streams.END and host.exchanges.busy == 0


@pytest.mark.parametrize(
    ("more", "end"), [({}, streams.END), ({"cut": "it broke off"}, streams.RESET)]
)
def test_a_replay_has_an_answer_that_is_kept_apart_from_the_host(
    more: dict[str, Any], end: int
) -> None:
    first = Host()
    first.ask()
    begin = first.said[0]
    known = {key: begin[key] for key in ("op", "kind", "name", "digest")}
    host = Host()
    host.exchanges.extend_journal([Recorded(**known, side=True, seq=3, **large(**more))])  # type: ignore[typeddict-item]
    asker = host.ask()
    assert not host.begun and host.passed[-1].fields == {"op": begin["op"], "offset": 0}
    came(host, asker.stream, 0, b"onetwo")
    assert asker.heard == b"onetwo" and host.kinds(asker.stream)[-1] == end


def test_who_leaves_in_the_middle_of_a_kept_answer_leaves_it_to_the_next() -> None:
    host = Host()
    first = host.ask()
    (op,) = host.begun
    host.exchanges.result({"op": op, **large()})
    came(host, first.stream, 0, b"one")
    first.leave()
    assert (host.passed[-1].kind, host.passed[-1].stream) == (streams.RESET, first.stream)
    assert host.exchanges.busy == 0
    second = host.ask()
    assert host.begun == [op, op]
    host.exchanges.result({"op": op, **large()})
    came(host, second.stream, 0, b"onetwo")
    assert second.heard == b"onetwo"


def test_a_kept_answer_that_cannot_be_read_resets_its_client() -> None:
    host = Host()
    asker = host.ask()
    host.exchanges.result({"op": host.begun[0], **large()})
    lost = {"code": "lost", "message": "it is damaged"}
    host.exchanges.from_host(streams.encode(streams.RESET, asker.stream, lost))
    came(host, asker.stream, 0, b"onetwo")
    assert host.kinds(asker.stream)[-1] == streams.RESET and not asker.heard


@pytest.mark.parametrize("body", ["a\0b", "\0"])
def test_text_that_no_log_takes_travels_as_bytes(body: str) -> None:
    host = Host()
    host.ask(body)
    data = host.said[0]["data"]
    assert "body" not in data and b64decode(data["body_b64"]) == body.encode()


def test_what_nobody_could_be_shown_is_refused_and_not_asked() -> None:
    host = Host()
    asker = host.ask("x" * 1_100_000, host="a.example.com", record={"kind": "http", "ask": True})
    assert not host.said
    refused = host.given[-1]
    assert (refused.stream, refused.fields["status"]) == (asker.stream, 413)
    assert "a person has to allow this request" in refused.fields["message"]
