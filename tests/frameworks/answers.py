"""What OpenAI's API answers, whole and as a stream, for a turn of a script.

An answer is a list of parts: the chunks of a stream, or the two halves of a body, so that whoever
serves it can stop in its middle.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_ARGUMENT_CHARS = 8  # of a call's arguments, in a chunk


@dataclass(frozen=True)
class Turn:
    """What the model says when it is its turn: it calls tools, or says its text."""

    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    text: str = ""
    ids: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(_new("call") for _ in self.calls))

    @property
    def words(self) -> list[str]:
        return re.findall(r"\S+\s*|\s+", self.text) or [""]

    @property
    def tokens(self) -> int:
        return len(self.words) + sum(len(json.dumps(arguments)) // 4 for _, arguments in self.calls)


@dataclass(frozen=True)
class Answer:
    content_type: str
    parts: list[bytes]


def _new(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex[:24]}"


def _halves(body: dict[str, Any]) -> Answer:
    encoded = json.dumps(body).encode()
    middle = len(encoded) // 2
    return Answer("application/json", [encoded[:middle], encoded[middle:]])


def chat(body: dict[str, Any], turn: Turn, input_tokens: int) -> Answer:
    base = {"id": _new("chatcmpl"), "created": 1_790_000_000, "model": body["model"]}
    finish = "tool_calls" if turn.calls else "stop"
    usage = {
        "prompt_tokens": input_tokens,
        "completion_tokens": turn.tokens,
        "total_tokens": input_tokens + turn.tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
    if body.get("stream"):
        with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        shown = base | {"object": "chat.completion.chunk"} | ({"usage": None} if with_usage else {})
        chunks = [
            shown | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
            for delta, reason in [*((d, None) for d in _deltas(turn)), ({}, finish)]
        ]
        if with_usage:
            chunks.append(shown | {"choices": [], "usage": usage})
        lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        return Answer("text/event-stream", [x.encode() for x in [*lines, "data: [DONE]\n\n"]])
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if turn.calls else turn.text,
        "refusal": None,
        "annotations": [],
    }
    if turn.calls:
        message["tool_calls"] = [
            {
                "id": id,
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for id, (name, arguments) in zip(turn.ids, turn.calls, strict=True)
        ]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    return _halves(base | {"object": "chat.completion", "choices": [choice], "usage": usage})


def _deltas(turn: Turn) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": None if turn.calls else "", "refusal": None}
    for index, (id, (name, arguments)) in enumerate(zip(turn.ids, turn.calls, strict=True)):
        begin = {"name": name, "arguments": ""}
        yield {"tool_calls": [{"index": index, "id": id, "type": "function", "function": begin}]}
        for piece in _pieces(json.dumps(arguments)):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
    if not turn.calls:
        yield from ({"content": word} for word in turn.words)


def _pieces(text: str) -> Iterator[str]:
    return (text[at : at + _ARGUMENT_CHARS] for at in range(0, len(text), _ARGUMENT_CHARS))


def response(body: dict[str, Any], turn: Turn, input_tokens: int, id: str) -> Answer:
    output = [*_calls(turn)] if turn.calls else [_output_message(turn)]
    usage = {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": turn.tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + turn.tokens,
    }
    whole = {
        "id": id,
        "object": "response",
        "created_at": 1_790_000_000,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": None,
        "model": body["model"],
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None},
        "store": body.get("store", True),
        "temperature": 1.0,
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage,
        "metadata": {},
    }
    if not body.get("stream"):
        return _halves(whole)
    events = [
        (kind, json.dumps({"type": kind, "sequence_number": number} | data))
        for number, (kind, data) in enumerate(_events(whole, turn))
    ]
    lines = [f"event: {kind}\ndata: {data}\n\n".encode() for kind, data in events]
    return Answer("text/event-stream", lines)


def _calls(turn: Turn) -> Iterator[dict[str, Any]]:
    for id, (name, arguments) in zip(turn.ids, turn.calls, strict=True):
        yield {
            "id": _new("fc"),
            "type": "function_call",
            "status": "completed",
            "call_id": id,
            "name": name,
            "arguments": json.dumps(arguments),
        }


def _output_message(turn: Turn) -> dict[str, Any]:
    part = {"type": "output_text", "annotations": [], "logprobs": [], "text": turn.text}
    return {
        "id": _new("msg"),
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [part],
    }


def _events(whole: dict[str, Any], turn: Turn) -> Iterator[tuple[str, dict[str, Any]]]:
    begun = whole | {"status": "in_progress", "output": [], "usage": None}
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    for index, item in enumerate(whole["output"]):
        at = {"item_id": item["id"], "output_index": index}
        if item["type"] == "function_call":
            empty = item | {"status": "in_progress", "arguments": ""}
            yield "response.output_item.added", {"output_index": index, "item": empty}
            for piece in _pieces(item["arguments"]):
                yield "response.function_call_arguments.delta", at | {"delta": piece}
            done = {"arguments": item["arguments"], "name": item["name"]}
            yield "response.function_call_arguments.done", at | done
        else:
            (part,) = item["content"]
            at |= {"content_index": 0}
            empty = item | {"status": "in_progress", "content": []}
            yield "response.output_item.added", {"output_index": index, "item": empty}
            yield "response.content_part.added", at | {"part": part | {"text": ""}}
            for word in turn.words:
                yield "response.output_text.delta", at | {"delta": word, "logprobs": []}
            yield "response.output_text.done", at | {"text": part["text"], "logprobs": []}
            yield "response.content_part.done", at | {"part": part}
        yield "response.output_item.done", {"output_index": index, "item": item}
    yield "response.completed", {"response": whole}
