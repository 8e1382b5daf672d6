"""Answers in the bytes that each model API sends, as their references show them: read whole, and
their text as it comes, however the bytes are cut."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.core.pieces import Pieces
from torpor.core.replies import Reply, TextDeltas, ToolCall, read_reply


def events(*pieces: dict[str, Any], named: bool = False, end: str = "\n") -> str:
    return "".join(
        (f"event: {piece['type']}{end}" if named else "") + f"data: {json.dumps(piece)}{end}{end}"
        for piece in pieces
    )


def chat(**delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    return {
        "id": "chatcmpl-123",
        "object": "chat.completion.chunk",
        "created": 1694268190,
        "model": "gpt-4o-mini",
        "choices": [choice],
    }


CHAT = (
    events(
        chat(role="assistant", content=""),
        chat(content="Grüß"),
        chat(content=' "Gott" {'),
        chat(content="\U0001f44b"),
        {**chat(), "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {**chat(), "choices": [], "usage": {"prompt_tokens": 19, "completion_tokens": 10}},
    )
    + "data: [DONE]\n\n"
)

RESPONSES = events(
    {
        "type": "response.created",
        "response": {"id": "resp_67c9", "status": "in_progress", "model": "gpt-4.1", "output": []},
    },
    {
        "type": "response.output_item.added",
        "output_index": 0,
        "item": {"id": "msg_67c9", "type": "message", "role": "assistant", "content": []},
    },
    {"type": "response.output_text.delta", "item_id": "msg_67c9", "delta": "Hi"},
    {"type": "response.output_text.delta", "item_id": "msg_67c9", "delta": " there!"},
    {"type": "response.output_text.done", "item_id": "msg_67c9", "text": "Hi there!"},
    {
        "type": "response.completed",
        "response": {
            "id": "resp_67c9",
            "status": "completed",
            "model": "gpt-4.1-2025-04-14",
            "output": [
                {"type": "message", "content": [{"type": "output_text", "text": "Hi there!"}]}
            ],
            "usage": {
                "input_tokens": 37,
                "input_tokens_details": {"cached_tokens": 30},
                "output_tokens": 11,
            },
        },
    },
    named=True,
)


def block(index: int, **delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


MESSAGES = events(
    {
        "type": "message_start",
        "message": {
            "id": "msg_01",
            "type": "message",
            "role": "assistant",
            "model": "claude-sonnet-4-5-20250929",
            "content": [],
            "stop_reason": None,
            "usage": {
                "input_tokens": 472,
                "cache_creation_input_tokens": 100,
                "cache_read_input_tokens": 2000,
                "output_tokens": 2,
            },
        },
    },
    {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "thinking", "thinking": "", "signature": ""},
    },
    {"type": "ping"},
    block(0, type="thinking_delta", thinking="They want the weather."),
    block(0, type="signature_delta", signature="EqQB"),
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    block(1, type="text_delta", text="Okay, let's"),
    block(1, type="text_delta", text=" check"),
    {"type": "content_block_stop", "index": 1},
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "toolu_01", "name": "weather", "input": {}},
    },
    block(2, type="input_json_delta", partial_json=""),
    block(2, type="input_json_delta", partial_json='{"location": "San'),
    block(2, type="input_json_delta", partial_json=' Francisco"}'),
    {"type": "content_block_stop", "index": 2},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use", "stop_sequence": None},
        "usage": {"output_tokens": 89},
    },
    {"type": "message_stop"},
    named=True,
)

MESSAGE = json.dumps(
    {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5-20250929",
        "content": [
            {"type": "thinking", "thinking": "They want the weather.", "signature": "EqQB"},
            {"type": "text", "text": "Okay, let's check"},
            {
                "type": "tool_use",
                "id": "toolu_01",
                "name": "weather",
                "input": {"location": "San Francisco"},
            },
        ],
        "stop_reason": "tool_use",
        "usage": {
            "input_tokens": 472,
            "cache_creation_input_tokens": 100,
            "cache_read_input_tokens": 2000,
            "output_tokens": 89,
        },
    },
    indent=2,
)


def candidate(*parts: dict[str, Any], tokens: int = 0, **also: Any) -> dict[str, Any]:
    content = {"parts": list(parts), "role": "model"}
    usage = {"promptTokenCount": 8, "thoughtsTokenCount": 20, "totalTokenCount": 28 + tokens}
    if tokens:
        usage |= {"candidatesTokenCount": tokens, "cachedContentTokenCount": 3}
    return {
        "candidates": [{"content": content, "index": 0, **also}],
        "usageMetadata": usage,
        "modelVersion": "gemini-2.5-flash",
        "responseId": "mAitaLmk",
    }


GEMINI_PIECES = [
    candidate({"text": "**Thinking**", "thought": True}),
    candidate({"text": "AI learns "}, tokens=3),
    candidate({"text": "patterns."}, tokens=6),
    candidate({"functionCall": {"name": "look", "args": {"q": 1}}}, tokens=9, finishReason="STOP"),
]
GEMINI = events(*GEMINI_PIECES, end="\r\n")
GEMINI_ARRAY = "[" + "\n,\r\n".join(json.dumps(each, indent=2) for each in GEMINI_PIECES) + "\n]"

CHAT_REPLY = Reply(200, "gpt-4o-mini", 19, None, 10, "stop", 'Grüß "Gott" {\U0001f44b')
RESPONSES_REPLY = Reply(200, "gpt-4.1-2025-04-14", 37, 30, 11, "completed", "Hi there!")
MESSAGE_REPLY = Reply(
    200,
    "claude-sonnet-4-5-20250929",
    2572,
    2000,
    89,
    "tool_use",
    "Okay, let's check",
    (ToolCall("toolu_01", "weather", '{"location": "San Francisco"}'),),
    100,
)
GEMINI_REPLY = Reply(
    200,
    "gemini-2.5-flash",
    8,
    3,
    29,
    "STOP",
    "AI learns patterns.",
    (ToolCall(None, "look", '{"q": 1}'),),
)


class Case(NamedTuple):
    body: str
    reply: Reply


CASES = {
    "chat completion": Case(CHAT, CHAT_REPLY),
    "chat completion, CRLF": Case(CHAT.replace("\n", "\r\n"), CHAT_REPLY),
    "chat completion, CR": Case(CHAT.replace("\n", "\r"), CHAT_REPLY),
    "chat completion, no blank lines": Case(CHAT.replace("\n\n", "\n"), CHAT_REPLY),
    "chat completion, not ended": Case(CHAT.rstrip(), CHAT_REPLY),
    "response": Case(RESPONSES, RESPONSES_REPLY),
    "messages": Case(MESSAGES, MESSAGE_REPLY),
    "message, whole": Case(MESSAGE, MESSAGE_REPLY),
    "gemini": Case(GEMINI, GEMINI_REPLY),
    "gemini, as an array": Case(GEMINI_ARRAY, GEMINI_REPLY),
    "gemini, whole": Case(
        json.dumps(GEMINI_PIECES[1]), Reply(200, "gemini-2.5-flash", 8, 3, 23, None, "AI learns ")
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_answer_as_its_api_sends_it(case: Case) -> None:
    assert read_reply({"status": 200, "headers": {}, "body": case.body}) == case.reply


def portions(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@given(cuts=st.lists(st.integers(0, 10_000), max_size=30))
def test_its_text_comes_the_same_however_it_is_cut(case: Case, cuts: list[int]) -> None:
    deltas = TextDeltas()
    texts = [deltas.feed(portion) for portion in portions(case.body.encode(), cuts)]
    assert "".join(texts) + deltas.end() == case.reply.text


def test_text_comes_with_the_byte_that_completes_its_event() -> None:
    deltas = TextDeltas()
    body = CHAT.encode()
    texts = [text for text in (deltas.feed(body[i : i + 1]) for i in range(len(body))) if text]
    assert texts == ["Grüß", ' "Gott" {', "\U0001f44b"]


def test_a_response_that_was_cut_off_has_the_text_that_came() -> None:
    body = RESPONSES.partition("event: response.output_text.done")[0]
    reply = read_reply({"status": 200, "body": body})
    assert (reply.text, reply.finish) == ("Hi there!", "in_progress")


def test_what_takes_no_tokens() -> None:
    for body in (
        {"input_tokens": 2095},  # Anthropic's count of tokens
        {"totalTokens": 31},  # Gemini's
        {"data": [{"type": "model", "id": "claude-sonnet-4-5"}], "has_more": False},
        {"models": [{"name": "models/gemini-2.5-flash"}]},
    ):
        reply = read_reply({"status": 200, "body": json.dumps(body)})
        assert (reply.input_tokens, reply.output_tokens) == (0, 0), body


def test_of_a_prompt_that_was_blocked_it_is_known_why() -> None:
    body = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4}}
    reply = read_reply({"status": 200, "body": json.dumps(body)})
    assert (reply.finish, reply.input_tokens, reply.text) == ("SAFETY", 4, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "index",
                    "delta",
                    "text",
                    "content",
                    "parts",
                    "candidates",
                    "message",
                    "usage",
                    "usageMetadata",
                    "promptFeedback",
                    "output",
                    "response",
                    "item",
                    "content_block",
                    "partial_json",
                    "choices",
                    "functionCall",
                    "input",
                    "models",
                    "data",
                ]
            )
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
TYPES = st.sampled_from(
    [
        "message",
        "message_start",
        "message_delta",
        "content_block_start",
        "content_block_delta",
        "response.output_text.delta",
    ]
)
OBJECTS = st.dictionaries(st.text(max_size=3), JSON, max_size=4)
PIECE = st.builds(
    lambda piece, kind: {**piece, "type": kind},
    JSON.filter(lambda value: isinstance(value, dict)),
    TYPES,
)


@given(st.lists(PIECE, max_size=4), st.booleans())
def test_what_no_api_would_send_is_no_failure(pieces: list[Any], in_events: bool) -> None:
    body = events(*pieces) if in_events else json.dumps(pieces)
    read_reply({"status": 200, "body": body})
    TextDeltas().feed(body.encode())


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_nor_are_bytes_that_are_none_of_it(portions: list[bytes]) -> None:
    deltas = TextDeltas()
    for portion in portions:
        deltas.feed(portion)
    deltas.end()


@given(st.lists(OBJECTS, max_size=5), st.lists(st.integers(0, 10_000), max_size=10))
def test_objects_in_an_array_or_in_lines_are_those_that_json_reads(
    objects: list[Any], cuts: list[int]
) -> None:
    for body in (json.dumps(objects), "\n".join(map(json.dumps, objects))):
        reader = Pieces()
        found = [piece for part in portions(body.encode(), cuts) for piece in reader.feed(part)]
        assert found == objects
