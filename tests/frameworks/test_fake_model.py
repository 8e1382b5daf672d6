"""The fake model keeps to OpenAI's protocol: what it takes, what it says, what it counts."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.frameworks.fake_model import Ask, FakeModel, Hold, When

PAY = {"call": [["pay", {"amount": 5}], ["pay", {"amount": 6}]]}
Object = dict[str, Any]


def prompt(*turns: Object, **more: str) -> str:
    return f"Please. [[SCRIPT {json.dumps({'id': 's', 'turns': turns} | more)}]]"


SCRIPT = prompt(PAY, {"text": "done: $LAST"})


@pytest.fixture
def model() -> Iterator[FakeModel]:
    model = FakeModel()
    yield model
    model.close()


@pytest.fixture
def http(model: FakeModel) -> Iterator[httpx.Client]:
    headers = {"authorization": "Bearer sk-1"}
    with httpx.Client(base_url=model.url, headers=headers, timeout=60) as client:
        yield client


def chat(http: httpx.Client, *messages: Object, **more: Any) -> httpx.Response:
    body = {"model": "gpt-fake", "messages": list(messages)} | more
    return http.post("/chat/completions", json=body)


def message_of(response: httpx.Response) -> Object:
    message: Object = response.json()["choices"][0]["message"]
    return message


def events(response: httpx.Response) -> list[Object]:
    data = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    return [json.loads(each) for each in data if each != "[DONE]"]


def answered(calls: Object) -> list[Object]:
    return [
        {"role": "tool", "tool_call_id": call["id"], "content": f"paid {call['function']['name']}"}
        for call in calls["tool_calls"]
    ]


USER = {"role": "user", "content": SCRIPT}


def test_a_conversation_follows_its_script(http: httpx.Client, model: FakeModel) -> None:
    first = chat(http, USER)
    calls = message_of(first)
    assert [json.loads(c["function"]["arguments"])["amount"] for c in calls["tool_calls"]] == [5, 6]
    assert first.json()["choices"][0]["finish_reason"] == "tool_calls"
    assert first.json()["usage"]["total_tokens"] > 0
    last = chat(http, USER, calls, *answered(calls))
    assert message_of(last)["content"] == "done: paid pay"
    assert model.payments("s") == {1: 1, 2: 1}
    # Who asks again gets the same turn, and pays again.
    assert message_of(chat(http, USER, calls, *answered(calls)))["content"] == "done: paid pay"
    assert model.payments("s") == {1: 1, 2: 2}


@pytest.mark.parametrize("turn", [PAY, {"text": "a  few words\n"}])
def test_a_stream_says_what_a_whole_answer_does(http: httpx.Client, turn: Object) -> None:
    whole = message_of(chat(http, {"role": "user", "content": prompt(turn)}))
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = events(chat(http, {"role": "user", "content": prompt(turn)}, **options))
    deltas = [each["choices"][0]["delta"] for each in chunks if each["choices"]]
    assert "".join(d.get("content") or "" for d in deltas) == (whole["content"] or "")
    pieces = [call for delta in deltas for call in delta.get("tool_calls", ())]
    for index, call in enumerate(whole.get("tool_calls", ())):
        mine = [piece["function"] for piece in pieces if piece["index"] == index]
        assert "".join(piece["arguments"] for piece in mine) == call["function"]["arguments"]
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] > 0


def test_responses_continue_what_was_said_before(http: httpx.Client, model: FakeModel) -> None:
    first = http.post("/responses", json={"model": "m", "input": SCRIPT}).json()
    outputs = [
        {"type": "function_call_output", "call_id": each["call_id"], "output": "paid"}
        for each in first["output"]
    ]
    body = {"model": "m", "input": outputs, "previous_response_id": first["id"], "stream": True}
    streamed = events(http.post("/responses", json=body))
    assert [each["sequence_number"] for each in streamed] == list(range(len(streamed)))
    final = streamed[-1]["response"]
    assert streamed[-1]["type"] == "response.completed"
    assert final["output"][0]["content"][0]["text"] == "done: paid"
    deltas = [e["delta"] for e in streamed if e["type"] == "response.output_text.delta"]
    assert "".join(deltas) == "done: paid"
    assert model.payments("s") == {1: 1, 2: 1}


def test_what_a_framework_reports_in_text_counts_as_turns(http: httpx.Client) -> None:
    text = prompt({"text": "one"}, {"text": "two"}, mark="[seen]")
    for over, said in ((0, "one"), (1, "two")):
        message = message_of(chat(http, {"role": "user", "content": text + "[seen]" * over}))
        assert message["content"] == said


CALLS = {
    "role": "assistant",
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "1"}


@pytest.mark.parametrize(
    ("messages", "more", "why"),
    [
        ([USER, RESULT], {}, "No tool call found"),
        ([USER, CALLS], {}, "No tool output found"),
        ([USER, CALLS, USER], {}, "No tool output found"),
        ([USER, CALLS, RESULT, RESULT], {}, "No tool call found"),
        ([USER, {"role": "assistant", "content": None}], {}, "got null"),
        ([USER, {"role": "robot", "content": "x"}], {}, "robot"),
        ([], {}, "non-empty"),
        ([USER], {"colour": 1}, "colour"),
        ([USER], {"stream_options": {}}, "stream_options"),
        ([USER], {"tools": [{"type": "function", "function": {"name": "a b"}}]}, "a b"),
        ([{"role": "user", "content": "hello"}], {}, "SCRIPT"),
        ([USER, *[{"role": "assistant", "content": "x"}] * 2], {}, "2 turns"),
    ],
)
def test_what_the_api_refuses_is_refused(
    http: httpx.Client, model: FakeModel, messages: list[Object], more: Object, why: str
) -> None:
    refused = chat(http, *messages, **more)
    assert refused.status_code == 400 and why in refused.json()["error"]["message"]
    assert len(model.refused) == 1 and not model.requests


def test_who_has_no_key_is_refused(http: httpx.Client, model: FakeModel) -> None:
    http.headers["authorization"] = "Bearer none"
    assert chat(http, USER).status_code == 401 and not model.requests


def test_failures_are_not_paid(http: httpx.Client, model: FakeModel) -> None:
    user = {"role": "user", "content": prompt({"text": "at last", "fail": [429, 500]})}
    assert [chat(http, user).status_code for _ in range(3)] == [429, 500, 200]
    assert model.payments("s") == {1: 1} and not model.refused


@pytest.mark.parametrize("when", ["asked", "answering"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_held(http: httpx.Client, model: FakeModel, when: When, stream: bool) -> None:
    hold = Hold(Ask("s", 1), when)
    model.hold(hold)
    got: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: got.append(chat(http, USER, stream=stream)))
    asking.start()
    model.wait_held(hold)
    # Another request for the same is not held.
    assert chat(http, USER, stream=stream).status_code == 200 and not got
    model.release(hold)
    asking.join()
    assert got[0].status_code == 200 and model.payments("s") == {1: 2}
