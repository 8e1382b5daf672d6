"""What a model's answer says, in each form that it comes in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.core.replies import Reply, ToolCall, read_reply


def answer(body: Any, status: int = 200) -> dict[str, Any]:
    text = body if isinstance(body, str) else json.dumps(body)
    return {"status": status, "headers": {}, "body": text}


def streamed(*pieces: Any) -> str:
    return "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces) + "data: [DONE]\n\n"


USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 4},
}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}


def test_a_chat_completion() -> None:
    message = {"role": "assistant", "content": "Hi", "tool_calls": [CALL]}
    choices = [{"index": 0, "message": message, "finish_reason": "tool_calls"}]
    assert read_reply(answer({"model": "m", "choices": choices, "usage": USAGE})) == Reply(
        200, "m", 10, 4, 5, "tool_calls", "Hi", (ToolCall("c1", "f", '{"a":1}'),)
    )


def test_a_chat_completion_in_pieces() -> None:
    def piece(**delta: Any) -> dict[str, Any]:
        return {"model": "m", "choices": [{"index": 0, "delta": delta}]}

    call = [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": '{"a"'}}]
    rest = [{"index": 0, "function": {"arguments": ":1}"}}]
    end = {"model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    other = {"model": "m", "choices": [{"index": 1, "delta": {"content": "no"}}]}
    body = streamed(
        piece(role="assistant", content="H"),
        other,
        piece(content="i", tool_calls=call),
        piece(tool_calls=rest),
        end,
        {"model": "m", "choices": [], "usage": USAGE},
    )
    assert read_reply(answer(body)) == Reply(
        200, "m", 10, 4, 5, "tool_calls", "Hi", (ToolCall("c1", "f", '{"a":1}'),)
    )


def response() -> dict[str, Any]:
    return {
        "model": "m",
        "status": "completed",
        "output": [
            {"type": "reasoning", "summary": []},
            {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'},
        ],
        "usage": {
            "input_tokens": 10,
            "output_tokens": 5,
            "input_tokens_details": {"cached_tokens": 4},
        },
    }


def test_what_does_not_say_what_it_took_is_not_measured() -> None:
    piece = {"model": "m", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}
    stream = read_reply(answer(streamed(piece)))
    assert (stream.model, stream.input_tokens, stream.output_tokens) == ("m", None, None)
    assert not stream.measured
    assert read_reply(answer({"error": {"message": "slow down"}}, 429)).measured
    listed = read_reply(answer({"object": "list", "data": [{"id": "m", "object": "model"}]}))
    assert (listed.input_tokens, listed.output_tokens) == (0, 0)  # it takes none


@pytest.mark.parametrize(
    "body",
    [
        response(),
        "event: response.created\n"
        + streamed({"response": {"model": "m"}})[:-14]
        + "event: response.completed\n"
        + streamed({"response": response()}),
    ],
    ids=["whole", "in pieces"],
)
def test_a_response(body: Any) -> None:
    assert read_reply(answer(body)) == Reply(
        200, "m", 10, 4, 5, "completed", "Hi", (ToolCall("c1", "f", '{"a":1}'),)
    )


def test_a_completion_and_embeddings() -> None:
    told = {"model": "m", "choices": [{"text": "Hi", "finish_reason": "length"}]}
    assert read_reply(answer(told)) == Reply(200, "m", finish="length", text="Hi")
    embedded = {"model": "m", "data": [], "usage": {"prompt_tokens": 3, "total_tokens": 3}}
    assert read_reply(answer(embedded)) == Reply(200, "m", input_tokens=3)


WORDS = """status body model usage choices message delta content tool_calls function name arguments
output type id index prompt_tokens prompt_tokens_details cached_tokens response"""
KEYS = st.sampled_from(WORDS.split())
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)


@given(json_values, st.booleans())
def test_whatever_it_is_is_no_failure(value: Any, in_pieces: bool) -> None:
    read_reply(value)
    text = json.dumps(value)
    read_reply(answer(f"data: {text}\n\n" if in_pieces else text))
    read_reply(answer({"choices": value, "usage": value, "model": value, "output": value}))
