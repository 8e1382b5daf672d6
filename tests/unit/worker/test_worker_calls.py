"""Recorded exchanges: handed on as they come, recorded whole, made once whoever dies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.unit.worker.conftest import Stand

from torpor.contextlog import waits
from torpor.contextlog.waits import NewWait
from torpor.core import permissions
from torpor.core.ids import OpId
from torpor.core.replies import Reply, read_reply
from torpor.testing.fakes.broker import Reply as PlayedReply
from torpor.wire.streams import DATA, END, HEAD, OFFSET_MAX, RESET, WINDOW, WINDOW_BYTES, Frame
from torpor.worker.answers import Answer
from torpor.worker.calls import BEGUN, DIED

pytestmark = pytest.mark.anyio

OP = "model:x#1"


class Stream:
    """A model's answer, let go piece by piece."""

    def __init__(self, stand: Stand) -> None:
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        stand.upstream.pieces = self._come

    async def _come(self, request: object) -> AsyncIterator[bytes]:
        while (piece := await self._pieces.get()) is not None:
            yield piece

    def let(self, *pieces: bytes | None) -> None:
        for piece in pieces:
            self._pieces.put_nowait(piece)


def event(text: str) -> bytes:
    chunk = {"object": "chat.completion.chunk", "choices": [{"delta": {"content": text}}]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


async def test_an_answer_comes_as_it_streams_and_its_end_when_it_is_recorded(
    stand: Stand,
) -> None:
    model = Stream(stand)
    await stand.begin(OP)
    model.let(event("On"))
    await stand.guest.has(event("On"))
    assert (await stand.guest.until(HEAD)).fields["status"] == 200
    assert not await stand.entries("op.end") and not stand.outcomes
    model.let(event("ce"), None)
    outcome = await stand.outcome(OP)
    assert outcome["value"]["body"].encode() == event("On") + event("ce") == stand.guest.body()
    (end,) = await stand.entries("op.end")
    assert end.data["value"] == outcome["value"]
    assert end.data["egress"] == {
        "rule": "played",
        "ms": 1,
        "sent": 2,
        "received": len(event("On") + event("ce")),
        "used": {"requests": 1},
    }
    assert END not in stand.guest.kinds()
    assert (stand.run, OP) not in stand.broker.calls  # acknowledged


async def test_its_text_is_in_the_log_while_it_comes(stand: Stand) -> None:
    model = Stream(stand)
    await stand.begin(OP)
    model.let(event("On"), event("ce"))
    await stand.logged("op.part")
    model.let(event(" upon"), None)
    await stand.outcome(OP)
    log = await stand.entries("op.part", "op.end")
    assert log[-1].kind == "op.end" and {entry.op for entry in log} == {OP}
    assert "".join(entry.data["text"] for entry in log[:-1]) == "Once upon"


async def test_attempt_41_an_answers_text_may_be_what_no_text_of_the_log_is(stand: Stand) -> None:
    model = Stream(stand)
    await stand.begin(OP)
    model.let(event("a\0b"), event("\ud800"), None)
    await stand.outcome(OP)
    parts = await stand.entries("op.part")
    assert "".join(entry.data["text"] for entry in parts).startswith("a\ufffdb")


async def test_an_answer_that_is_whole_is_not_in_the_log_twice(stand: Stand) -> None:
    await stand.begin(OP)
    await stand.outcome(OP)
    assert not await stand.entries("op.part")


async def test_a_guest_that_does_not_read_gets_no_more_than_its_window(stand: Stand) -> None:
    model = Stream(stand)
    await stand.begin(OP)
    body = b"x" * (WINDOW_BYTES + 1000)
    model.let(body)
    await stand.guest.has(body[:WINDOW_BYTES])
    assert stand.calls.take(Frame(WINDOW, 1, {}, len(body)))
    await stand.guest.has(body)
    model.let(None)
    assert (await stand.outcome(OP))["value"]["body"].encode() == body


async def test_attempt_42_a_window_without_end_brings_no_more(stand: Stand) -> None:
    """Else all of the answer would wait here for a guest that reads nothing."""
    model = Stream(stand)
    await stand.begin(OP)
    body = b"x" * (3 * WINDOW_BYTES)
    model.let(body)
    await stand.guest.has(body[:WINDOW_BYTES])
    assert stand.calls.take(Frame(WINDOW, 1, {}, OFFSET_MAX))
    assert stand.guest.body() == body[: 2 * WINDOW_BYTES]
    model.let(None)
    assert len((await stand.outcome(OP))["value"]["body"]) == len(body)


@pytest.mark.parametrize("ended", [True, False])
async def test_a_run_that_has_ended_is_nobodys_at_the_broker(stand: Stand, ended: bool) -> None:
    await stand.broker.set_policy(stand.run, {"agent": "a"})
    await stand.begin(OP)
    await stand.outcome(OP)
    await stand.calls.leave(ended=ended)
    assert (stand.run in stand.broker.policies) is not ended


async def test_a_client_that_goes_away_does_not_end_the_call(stand: Stand) -> None:
    model = Stream(stand)
    await stand.begin(OP)
    model.let(b"some")
    await stand.guest.has(b"some")
    stand.calls.take(Frame(RESET, 1, {"code": "gone", "message": ""}))
    assert stand.calls.attach(7, OpId(OP), 0)  # an equal request
    model.let(b" more", None)
    assert (await stand.outcome(OP))["value"]["body"] == "some more"
    assert stand.guest.body(1) == b"some" and stand.guest.body(7) == b"some more"


@pytest.mark.parametrize("offset", [0, 2, 4])
async def test_another_driver_goes_on_where_the_guest_was(stand: Stand, offset: int) -> None:
    """The machine was frozen and thawed, or restored from an older snapshot; or the server died."""
    model = Stream(stand)
    await stand.begin(OP)
    model.let(event("some"))
    await stand.guest.has(event("some"))
    await stand.logged("op.part")
    await stand.calls.leave(ended=False)
    stand.guest.frames.clear()
    await stand.next_driver()
    stand.calls.take_up([OpId(OP)], [])
    stand.call(OP)
    assert stand.calls.attach(3, OpId(OP), offset)
    model.let(event(" more"), None)
    body = event("some") + event(" more")
    assert (await stand.outcome(OP))["value"]["body"].encode() == body
    data = [frame for frame in stand.guest.frames if frame.kind == DATA]
    assert data[0].offset == offset
    assert b"".join(frame.data for frame in data) == body[offset:]
    assert len(stand.upstream.requests) == 1
    parts = await stand.entries("op.part")
    assert "".join(entry.data["text"] for entry in parts) == "some more"
    assert (await _end(stand))["egress"]["rule"] == "played"


async def test_what_died_with_its_broker_is_never_sent_again(stand: Stand) -> None:
    async def never(request: object) -> Any:
        await asyncio.Event().wait()

    stand.upstream.answers = never
    await stand.begin(OP)
    await stand.upstream.came.wait()
    await stand.broker.die()
    value = (await stand.outcome(OP))["value"]
    assert value["status"] == 503 and DIED in value["body"]
    assert len(stand.upstream.requests) == 1
    assert not stand.guest.frames


async def test_an_answer_whose_broker_died_is_cut_off(stand: Stand) -> None:
    model = Stream(stand)
    await stand.begin(OP)
    model.let(b"some")
    await stand.guest.has(b"some")
    await stand.broker.die()
    value = (await stand.outcome(OP))["value"]
    assert (value["status"], value["body"], value["cut"]) == (200, "some", DIED)
    assert (await stand.guest.until(RESET)).fields["message"] == DIED
    assert len(stand.upstream.requests) == 1


async def test_what_died_with_broker_and_server_is_in_doubt(stand: Stand) -> None:
    model = Stream(stand)
    await stand.begin(OP)
    model.let(b"some")
    await stand.guest.has(b"some")
    await stand.calls.leave(ended=False)
    await stand.broker.die()
    await stand.next_driver()
    stand.calls.take_up([OpId(OP)], [])
    stand.call(OP)
    stand.calls.attach(1, OpId(OP), 4)
    value = (await stand.outcome(OP))["value"]
    assert value["status"] == 503 and BEGUN in value["body"]
    assert (await stand.guest.until(RESET)).fields["code"] == "cut"
    assert len(stand.upstream.requests) == 1


async def test_a_refusal_is_the_answer_and_in_the_log(stand: Stand) -> None:
    refusal = {"status": 403, "code": "not_allowed", "message": "no rule allows it"}
    stand.broker.verdicts = lambda request: ({"verdict": "deny", "rule": "none"}, refusal)
    await stand.begin("http:x#1", scheme="https", host="api.example.com", port=443)
    value = (await stand.outcome("http:x#1"))["value"]
    assert value["status"] == 403 and "no rule allows it" in value["body"]
    (refused,) = await stand.entries("egress.refused")
    assert refused.data == {
        "method": "POST",
        "url": "https://api.example.com/v1/x",
        "code": "not_allowed",
        "reason": "no rule allows it",
        "rule": "none",
        "op": "http:x#1",
    }
    (end,) = await stand.entries("op.end")
    why = {"code": "not_allowed", "reason": "no rule allows it"}
    assert end.data["egress"].items() >= why.items()


HTTP: dict[str, Any] = {"scheme": "https", "host": "api.example.com", "port": 443}
ACTION = {
    "request": {
        **HTTP,
        "method": "POST",
        "target": "/v1/x",
        "headers": [],
        "body": "{}",
    }
}
PERMISSION = OpId("permission:POST api.example.com/v1/x@00000000#1")


async def permission(stand: Stand, decision: str | None) -> None:
    def write(c: Any) -> None:
        name = PERMISSION.partition(":")[2].rpartition("#")[0]
        digest = permissions.digest(ACTION)[:32]
        new = NewWait(op=PERMISSION, kind="permission", name=name, digest=digest, data=ACTION)
        row = waits.create_wait(c, stand.run, stand.epoch, new, 1.0)
        if decision is not None:
            waits.complete_wait(c, row.id, value={"data": {"decision": decision}}, now=2.0)

    await stand.store.write(write)


@pytest.mark.parametrize(
    ("decision", "body", "words"),
    [
        ("once", "{}", ""),
        ("run", "{}", ""),
        ("deny", "{}", "denied"),
        (None, "{}", "nobody has decided"),
        ("once", '{"other": 1}', "not what"),
    ],
)
async def test_attempt_45_only_what_a_person_allowed(
    stand: Stand, decision: str | None, body: str, words: str
) -> None:
    await permission(stand, decision)
    await stand.begin("http:x#1", **HTTP, body=body, permission=PERMISSION)
    value = (await stand.outcome("http:x#1"))["value"]
    if words:
        assert value["status"] == 403 and words in value["body"]
        assert not stand.upstream.requests
        (refused,) = await stand.entries("egress.refused")
        assert refused.data["code"] == "not_permitted"
    else:
        assert value["status"] == 200


async def test_attempt_45_an_approval_is_used_once(stand: Stand) -> None:
    await permission(stand, "once")
    for n in (1, 2):
        await stand.begin(f"http:x#{n}", **HTTP, permission=PERMISSION)
        await stand.outcome(f"http:x#{n}")
    statuses = [stand.outcomes[OpId(f"http:x#{n}")]["value"]["status"] for n in (1, 2)]
    assert statuses == [200, 403]
    assert len(stand.upstream.requests) == 1


async def test_what_a_person_has_to_allow_says_so(stand: Stand) -> None:
    refusal = {"status": 403, "code": "ask", "message": "a person has to allow it"}
    stand.broker.verdicts = lambda request: ({"verdict": "ask", "rule": "ask"}, refusal)
    await stand.begin("http:x#1", **HTTP)
    value = (await stand.outcome("http:x#1"))["value"]
    assert value["ask"] is True and value["status"] == 403


def test_a_header_that_comes_twice_is_kept_twice() -> None:
    answer = Answer()
    answer.take(Frame(HEAD, 0, {"status": 200, "headers": [["a", "1"], ["b", "2"]]}))
    assert answer.value()["headers"] == {"a": "1", "b": "2"}
    answer.take(Frame(HEAD, 0, {"status": 200, "headers": [["a", "1"], ["a", "2"]]}))
    assert answer.value()["headers"] == [["a", "1"], ["a", "2"]]


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"text", {"body": "text"}),
        ("Grüße".encode(), {"body": "Grüße"}),
        (b"\xff", {"body_b64": "/w=="}),
        (b"a\0b", {"body_b64": "YQBi"}),
    ],
)
def test_bytes_are_kept_whatever_they_are(body: bytes, value: dict[str, str]) -> None:
    answer = Answer(status=200)
    answer.take(Frame(DATA, 0, {}, 0, body))
    assert answer.value() == {"status": 200, "headers": {}, **value}


async def read(stand: Stand, body: bytes, stream: int = 1) -> None:
    """The guest takes all of it, a window at a time."""
    at = len(stand.guest.body(stream))
    while at < len(body):
        at = min(at + WINDOW_BYTES, len(body))
        await stand.guest.has(body[:at], stream)
        frame = Frame(WINDOW, stream, {}, at + WINDOW_BYTES)
        assert stand.serving.take(frame) or at == len(body)


async def _end(stand: Stand) -> dict[str, Any]:
    (end,) = await stand.entries("op.end")
    return end.data


@pytest.mark.parametrize("kind", ["model", "http"])
@pytest.mark.parametrize("binary", [False, True])
async def test_an_answer_that_no_entry_has_room_for_is_kept_whole(
    stand: Stand, kind: str, binary: bool
) -> None:
    op, body = f"{kind}:x#1", (b"\xff\0" if binary else b"ab") * 2_000_000
    stand.upstream.answers = lambda request: _reply(body)
    await stand.begin(op)
    value = (await stand.outcome(op))["value"]
    assert value["status"] == 200 and not {"body", "body_b64"} & set(value)
    assert value["blob"]["bytes"] == len(body)
    assert (await _end(stand))["value"] == value
    # Its client has as much of it as its window takes, and asks for the rest.
    had = len(stand.guest.body())
    assert had == WINDOW_BYTES
    assert not stand.calls.attach(1, OpId(op), had)
    stand.serving.attach(1, OpId(op), had)
    assert stand.serving.stay() is not None
    await read(stand, body)
    # And another that replays it, on another machine, all of it.
    await stand.next_driver()
    stand.serving.attach(9, OpId(op), 0)
    await read(stand, body, 9)
    assert len(stand.upstream.requests) == 1


async def test_a_long_stream_is_kept_whole_and_what_it_says_beside_it(stand: Stand) -> None:
    model, words = Stream(stand), [f"word {n} " for n in range(12_000)]
    await stand.begin(OP)
    model.let(*map(event, words), None)
    value = (await stand.outcome(OP))["value"]
    assert value["blob"]["bytes"] == sum(len(event(word)) for word in words) > 1024 * 1024
    assert read_reply(value) == Reply(status=200, text="".join(words))
    parts = await stand.entries("op.part")
    assert "".join(entry.data["text"] for entry in parts) == "".join(words)


async def test_who_goes_away_in_the_middle_of_a_kept_answer_holds_nothing_up(stand: Stand) -> None:
    body = b"x" * 2_000_000
    stand.upstream.answers = lambda request: _reply(body)
    await stand.begin(OP)
    await stand.outcome(OP)
    stand.serving.attach(2, OpId(OP), 0)
    await stand.guest.has(body[:WINDOW_BYTES], 2)
    assert stand.serving.take(Frame(RESET, 2, {"code": "gone", "message": ""}))
    assert not stand.serving.take(Frame(WINDOW, 2, {}, len(body)))
    assert stand.serving.stay() is None
    stand.serving.attach(3, OpId("model:other#1"), 0)  # what never was


async def test_what_is_kept_and_damaged_resets_its_client(stand: Stand) -> None:
    stand.upstream.answers = lambda request: _reply(b"x" * 2_000_000)
    await stand.begin(OP)
    await stand.outcome(OP)
    (kept,) = (file for file in (stand.blobs.root / "values").rglob("*") if file.is_file())
    kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    stand.serving.attach(4, OpId(OP), 1_999_999)
    assert (await stand.guest.until(RESET, 4)).fields["code"] == "lost"


async def test_an_answer_that_was_cut_says_what_had_come(stand: Stand) -> None:
    model = Stream(stand)
    await stand.begin(OP)
    model.let(event("On"))
    await stand.guest.has(event("On"))
    await stand.broker.die()
    await stand.outcome(OP)
    out = (await _end(stand))["egress"]
    assert (out["sent"], out["received"]) == (2, len(event("On")))


async def _reply(body: bytes) -> PlayedReply:
    return PlayedReply(200, {"content-type": "application/octet-stream"}, body)
