"""Plain streams between guest and broker: what is let out, what the log has of it, and what a guest
may not do."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

import pytest
from tests.unit.worker.conftest import Stand

from torpor.core.errors import GuestError, Invalid
from torpor.egress.protocol import DONE
from torpor.policy.freeze import Stay
from torpor.wire.streams import (
    DATA,
    END,
    FROM_GUEST,
    HEAD,
    NOTE,
    OPEN,
    RECORD,
    REFUSE,
    RESET,
    WINDOW,
    WINDOW_BYTES,
    Frame,
    decode,
)
from torpor.worker.network import REFUSALS_MAX, STREAMS_MAX

pytestmark = pytest.mark.anyio

REQUEST: dict[str, Any] = {
    "scheme": "https",
    "host": "api.example.com",
    "port": 443,
    "method": "POST",
    "target": "/v1/x?key=1",
    "headers": [["accept", "*/*"]],
}
URL = "https://api.example.com/v1/x?key=1"
DENIED = {"verdict": "deny", "rule": "host **.example.net"}
REFUSAL = {"status": 403, "code": "not_allowed", "message": "no rule allows it"}


def opened(number: int = 1, **fields: Any) -> Frame:
    return Frame(OPEN, number, REQUEST | fields)


async def admitted(stand: Stand, number: int = 1) -> None:
    stand.network.take(opened(number))
    await stand.guest.until(WINDOW, number)


async def test_an_exchange_and_what_the_log_has_of_it(stand: Stand) -> None:
    await admitted(stand)
    assert not stand.upstream.requests
    stand.network.take(Frame(DATA, 1, {}, 0, b"bo"))
    stand.network.take(Frame(DATA, 1, {}, 2, b"dy"))
    stand.network.take(Frame(END, 1, {}, 4))
    await stand.guest.until(END)
    assert stand.guest.body() == b"answer to body"
    assert (await stand.guest.until(HEAD)).fields["status"] == 200
    ends = await stand.logged("egress.end")
    (began,) = await stand.entries("egress.request")
    assert began.data == {"id": "1.1", "method": "POST", "url": URL, "rule": "played"}
    assert ends[0].data | {"ms": 0} == {
        "id": "1.1",
        "status": 200,
        "sent": 4,
        "received": 14,
        "ms": 0,
    }
    assert stand.network.stay() is None


async def test_nothing_of_an_answer_before_the_log_has_its_request(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, pen = asyncio.Event(), stand.network._way.pen
    write = pen.write

    async def later(*writes: Any) -> Any:
        await written.wait()
        return await write(*writes)

    monkeypatch.setattr(pen, "write", later)
    await admitted(stand)
    stand.network.take(Frame(END, 1, {}, 0))
    await stand.upstream.came.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert set(stand.guest.kinds()) == {WINDOW}
    written.set()
    await stand.guest.until(END)


async def test_what_is_denied_is_in_the_log_once_and_then_counted(stand: Stand) -> None:
    stand.broker.verdicts = lambda request: (DENIED, REFUSAL)
    for number in range(1, 13):
        stand.network.take(opened(number))
        assert (await stand.guest.until(REFUSE, number)).fields == REFUSAL
    found = [entry.data for entry in await stand.entries("egress.refused")]
    first = {"method": "POST", "url": URL, "code": "not_allowed", "reason": "no rule allows it"}
    first["rule"] = "host **.example.net"
    assert found == [first, first | {"times": 10}]
    assert not await stand.entries("egress.request")


async def test_notes_of_the_guest_cannot_flood_the_log(stand: Stand) -> None:
    for n in range(REFUSALS_MAX + 100):
        stand.network.take(Frame(NOTE, 0, {"code": "unknown_name", "name": f"{n}.example.com"}))
    found = await stand.logged("egress.refused", REFUSALS_MAX + 1)
    assert found[0].data["name"] == "0.example.com"
    # It says what line is missing: the agent's client has only seen that there is no such name.
    assert '[[tool.torpor.egress]] host = "0.example.com"' in found[0].data["reason"]
    assert found[-1].data["code"] == "more" and len(found) == REFUSALS_MAX + 1


async def test_a_note_of_a_host_that_a_preset_knows_names_the_preset(stand: Stand) -> None:
    stand.network.take(Frame(NOTE, 0, {"code": "unknown_name", "name": "api.anthropic.com"}))
    (found,) = await stand.logged("egress.refused", 1)
    assert '[[tool.torpor.egress]] preset = "anthropic"' in found.data["reason"]


async def test_what_is_to_be_an_operation_is_no_stream_any_more(stand: Stand) -> None:
    stand.broker.verdicts = lambda request: (
        {"verdict": "ask", "record": "http"},
        {"kind": "http", "ask": True},
    )
    stand.network.take(opened())
    assert (await stand.guest.until(RECORD)).fields == {"kind": "http", "ask": True}
    assert not await stand.entries("egress.request", "egress.refused")
    assert stand.network.stay() is None


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([Frame(DATA, 1, {}, 1, b"x")], "went on at 1, having sent 0"),
        ([Frame(DATA, 1, {}, 0, b"x"), Frame(END, 1, {}, 9)], "went on at 9, having sent 1"),
        ([Frame(END, 1, {}, 0), Frame(DATA, 1, {}, 0, b"x")], "sent more after its end"),
        ([Frame(END, 1, {}, 0), Frame(END, 1, {}, 0)], "sent more after its end"),
        (
            [Frame(DATA, 1, {}, at, bytes(32768)) for at in range(0, WINDOW_BYTES + 1, 32768)],
            "beyond its window",
        ),
        ([Frame(WINDOW, 1, {}, WINDOW_BYTES), Frame(WINDOW, 1, {}, WINDOW_BYTES + 1)], "granted"),
    ],
)
async def test_attempt_42_lying_offsets_and_data_after_the_end(
    stand: Stand, frames: list[Frame], words: str
) -> None:
    await admitted(stand)
    for frame in frames:
        stand.network.take(frame)
    reset = await stand.guest.until(RESET)
    assert reset.fields["code"] == "protocol" and words in reset.fields["message"]
    assert stand.broker.plain[0].left
    ends = await stand.logged("egress.end")
    assert words in ends[0].data["problem"]


async def test_what_has_no_body_ends_before_it_was_admitted(stand: Stand) -> None:
    stand.network.take(opened())
    stand.network.take(Frame(END, 1, {}, 0))
    await stand.guest.until(END)
    assert [frame.kind for frame in stand.broker.plain[0].forwarded] == [END]
    assert stand.guest.body() == b"answer to "


async def test_attempt_42_a_body_before_it_was_admitted(stand: Stand) -> None:
    stand.network.take(opened())
    stand.network.take(Frame(DATA, 1, {}, 0, b"x"))
    assert "before it was admitted" in (await stand.guest.until(RESET)).fields["message"]


async def test_attempt_42_forged_streams(stand: Stand) -> None:
    await admitted(stand)
    with pytest.raises(GuestError, match="stream 1 twice"):
        stand.network.take(opened())
    with pytest.raises(GuestError, match="stream 0 twice"):
        stand.network.take(opened(0))
    stand.network.take(Frame(DATA, 77, {}, 0, b"x"))
    assert (await stand.guest.until(RESET, 77)).fields["code"] == "unknown_stream"
    assert not stand.broker.plain[0].forwarded


async def test_attempt_41_a_million_streams(stand: Stand) -> None:
    for number in range(1, STREAMS_MAX + 50):
        stand.network.take(opened(number))
    refused = await stand.guest.until(REFUSE, STREAMS_MAX + 1)
    assert (refused.fields["status"], refused.fields["code"]) == (429, "too_many_streams")
    await stand.guest.until(WINDOW, STREAMS_MAX)
    assert len(stand.broker.plain) == STREAMS_MAX


async def test_attempt_41_windows_before_there_is_a_stream_are_not_kept(stand: Stand) -> None:
    stand.network.take(opened())
    for _ in range(1000):
        stand.network.take(Frame(WINDOW, 1, {}, WINDOW_BYTES))
    await stand.guest.until(WINDOW)
    assert len(stand.network._exchanges) == 1


async def test_bytes_that_come_twice_after_a_thaw_are_taken_once(stand: Stand) -> None:
    await admitted(stand)
    stand.network.take(Frame(DATA, 1, {}, 0, b"body"))
    stand.network.take(Frame(DATA, 1, {}, 2, b"dy and more"))
    stand.network.take(Frame(END, 1, {}, 13))
    await stand.guest.until(END)
    assert stand.guest.body() == b"answer to body and more"


@pytest.mark.parametrize("begun", [False, True])
async def test_a_broker_that_dies(stand: Stand, begun: bool) -> None:
    async def pieces(request: object) -> Any:
        yield b"some"
        await asyncio.Event().wait()

    stand.upstream.pieces = pieces
    await admitted(stand)
    if begun:
        stand.network.take(Frame(END, 1, {}, 0))
        await stand.guest.until(DATA)
    await stand.broker.die()
    if begun:
        assert (await stand.guest.until(RESET)).fields["code"] == "broker_gone"
    else:
        assert (await stand.guest.until(REFUSE)).fields["status"] == 503
    ends = await stand.logged("egress.end")
    assert "broker_gone" in ends[0].data["problem"]


@pytest.mark.parametrize("begun", [False, True])
async def test_attempt_28_the_log_says_why_an_answer_was_cut(stand: Stand, begun: bool) -> None:
    """It was let out, so this is no refusal of the request."""
    await admitted(stand)
    stream, why = stand.broker.plain[0], {"code": "secret_in_answer", "message": "KEY is in it"}
    done = Frame(DONE, 0, {"sent": 0, "received": 9, "ms": 1})
    if begun:
        stream.give(Frame(HEAD, 0, {"status": 200, "headers": []}), Frame(RESET, 0, why), done)
    else:
        stream.give(Frame(REFUSE, 0, {"status": 502, **why}), done)
    (end,) = await stand.logged("egress.end")
    assert end.data["problem"] == "secret_in_answer: KEY is in it"


async def test_a_client_that_goes_away(stand: Stand) -> None:
    await admitted(stand)
    stand.network.take(Frame(RESET, 1, {"code": "gone", "message": "its client closed it"}))
    assert stand.broker.plain[0].left
    assert stand.network.stay() is None


async def test_a_request_keeps_a_machine_awake_and_an_idle_connection_does_not(
    stand: Stand,
) -> None:
    await admitted(stand)
    assert stand.network.stay() == Stay("a request is under way", None)
    connection = {"scheme": "tcp", "host": "db.example.com", "port": 5432}
    stand.network.take(Frame(RESET, 1, {"code": "gone", "message": ""}))
    stand.network.take(Frame(OPEN, 2, connection))
    await stand.guest.until(WINDOW, 2)
    stay = stand.network.stay()
    assert stay is not None and stay.again_s is not None
    for exchange in stand.network._exchanges.values():
        exchange.moved -= stay.again_s
    assert stand.network.stay() is None


async def test_what_is_under_way_ends_with_its_driver(stand: Stand) -> None:
    await admitted(stand)
    await stand.logged("egress.request")
    await stand.network.leave("its machine died")
    (end,) = await stand.entries("egress.end")
    assert end.data["problem"] == "its machine died"
    assert stand.broker.plain[0].left


async def test_attempt_43_the_stream_of_a_driver_that_lost_its_run(stand: Stand) -> None:
    """Another has claimed the run: nothing of the answer reaches the old machine."""
    before = stand.network
    await stand.next_driver()
    before.take(opened())
    await stand.guest.until(WINDOW)
    before.take(Frame(END, 1, {}, 0))
    await stand.failed.wait()
    assert type(stand.trouble.pop()).__name__ == "StaleEpoch"
    assert HEAD not in stand.guest.kinds() and DATA not in stand.guest.kinds()
    await before.leave("its epoch is lost")
    stand.trouble.clear()


@pytest.mark.parametrize(
    "field", ["run", "op", "kind", "permit", "secret", "address", "offset", "length", "rule"]
)
def test_attempt_36_what_only_the_worker_may_say_is_no_frame_of_a_guest(field: str) -> None:
    frame = struct.pack(">BI", OPEN, 1) + json.dumps(REQUEST | {field: "x"}).encode()
    with pytest.raises(Invalid, match=field):
        decode(frame, FROM_GUEST)


async def test_attempt_36_the_broker_hears_of_a_request_what_the_guest_may_say_and_no_more(
    stand: Stand,
) -> None:
    """Fields of an operation that its agent made up are not the worker's."""
    asked: list[dict[str, Any]] = []
    call = stand.broker.call

    async def listen(*given: Any, **named: Any) -> Any:
        asked.append({"given": given[:3], "request": given[3], **named})
        return await call(*given, **named)

    stand.broker.call = listen  # type: ignore[method-assign]
    forged: dict[str, Any] = {"permit": "f" * 64, "run": "run_other", "kind": "model", "length": 1}
    await stand.begin("http:x#1", **forged, secret="KEY", address="127.0.0.1", offset=9)
    await stand.outcome("http:x#1")
    (seen,) = asked
    assert seen["given"] == (stand.run, "http:x#1", "http") and seen["permit"] == ""
    assert set(seen["request"]) == {"scheme", "host", "port", "method", "target", "headers"}


async def test_attempt_15_a_nul_in_what_is_logged_ends_nothing(stand: Stand) -> None:
    """No text in the log has one (`contextlog.codecs`); a machine may send it all the same."""
    stand.network.take(Frame(NOTE, 0, {"code": "unknown\0name", "name": "evil.com\0.example.com"}))
    await admitted(stand)
    stand.network.take(Frame(RESET, 1, {"code": "gone\0", "message": "\0\ud800"}))
    stand.broker.verdicts = lambda request: (DENIED, REFUSAL)
    stand.network.take(opened(2, host="a\0b", method="G\0T"))
    await stand.guest.until(REFUSE, 2)
    found = await stand.logged("egress.refused", 2)
    assert found[0].data["name"] == "evil.com\ufffd.example.com"
    assert found[1].data["url"].startswith("https://a\ufffdb/")
    (end,) = await stand.entries("egress.end")
    assert end.data["problem"].startswith("gone\ufffd: by its client")
