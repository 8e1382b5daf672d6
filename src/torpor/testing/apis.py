"""What a model says, as an answer of the API that was called: OpenAI's chat completions and
responses, Anthropic's messages. Streams come in one piece, as torpor's do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torpor.sdk import values

Object = dict[str, Any]


@dataclass(frozen=True)
class ToolCall:
    """A tool that a model calls, with its arguments by name."""

    name: str
    arguments: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The arguments as the APIs have them: a text of JSON."""
        return json.dumps(values.pack(self.arguments))


@dataclass(frozen=True)
class Completion:
    """What a model says: text, or tools that it calls, each with its id."""

    model: str
    text: str
    calls: tuple[tuple[str, ToolCall], ...]


def answer(path: str, request: Mapping[str, Any], reply: str | list[ToolCall]) -> tuple[str, str]:
    """The media type and the body of what the API at `path` answers to `asked`."""
    for end, (whole, streamed) in _APIS.items():
        if path.endswith(end):
            completion = _complete(request, reply)
            if request.get("stream"):
                return "text/event-stream", streamed(completion)
            return "application/json", json.dumps(whole(completion))
    raise TypeError(f"a reply to {path} must be an object: text is not supported for that API")


def _complete(request: Mapping[str, Any], reply: str | list[ToolCall]) -> Completion:
    model = str(request.get("model", ""))
    if isinstance(reply, str):
        return Completion(model, reply, ())
    # The same in a replay, and another one for each request of a conversation.
    stem = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:8]
    return Completion(
        model, "", tuple((f"call_{stem}_{n}", call) for n, call in enumerate(reply, 1))
    )


def _events(events: Iterable[Object], *, named: bool = True) -> str:
    return "".join(
        (f"event: {each['type']}\n" if named else "") + f"data: {json.dumps(each)}\n\n"
        for each in events
    )


# ---- chat completions ----


def _completion(completion: Completion) -> Object:
    message: Object = {"role": "assistant", "content": completion.text or None}
    if completion.calls:
        message["tool_calls"] = [_function(*call) for call in completion.calls]
    choice = {"index": 0, "message": message, "finish_reason": _finish(completion)}
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    return {**_about(completion, "chat.completion"), "choices": [choice], "usage": usage}


def _completion_stream(completion: Completion) -> str:
    delta: Object = {"role": "assistant", "content": completion.text or None}
    if completion.calls:
        calls = enumerate(completion.calls)
        delta["tool_calls"] = [{"index": place, **_function(*call)} for place, call in calls]
    chunks = [
        {**_about(completion, "chat.completion.chunk"), "choices": [{"index": 0, **choice}]}
        for choice in (
            {"delta": delta, "finish_reason": None},
            {"delta": {}, "finish_reason": _finish(completion)},
        )
    ]
    return _events(chunks, named=False) + "data: [DONE]\n\n"


def _about(completion: Completion, kind: str) -> Object:
    return {"id": "chatcmpl-test", "object": kind, "created": 0, "model": completion.model}


def _function(of: str, call: ToolCall) -> Object:
    return {"id": of, "type": "function", "function": {"name": call.name, "arguments": call.text}}


def _finish(completion: Completion) -> str:
    return "tool_calls" if completion.calls else "stop"


# ---- messages ----


def _message(completion: Completion) -> Object:
    return {
        **_envelope(completion),
        "content": [{**start, **filled} for start, filled, _ in _blocks(completion)],
        "stop_reason": _stop(completion),
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def _message_stream(completion: Completion) -> str:
    usage = {"input_tokens": 0, "output_tokens": 0}
    begun = {**_envelope(completion), "content": [], "stop_reason": None, "usage": usage}
    events: list[Object] = [{"type": "message_start", "message": begun}]
    for place, (start, _, delta) in enumerate(_blocks(completion)):
        of = {"index": place}
        events += [
            {"type": "content_block_start", **of, "content_block": start},
            {"type": "content_block_delta", **of, "delta": delta},
            {"type": "content_block_stop", **of},
        ]
    ended = {"stop_reason": _stop(completion), "stop_sequence": None}
    events.append({"type": "message_delta", "delta": ended, "usage": {"output_tokens": 0}})
    return _events([*events, {"type": "message_stop"}])


def _envelope(completion: Completion) -> Object:
    named = {"id": "msg_test", "type": "message", "role": "assistant", "model": completion.model}
    return {**named, "stop_sequence": None}


def _blocks(completion: Completion) -> list[tuple[Object, Object, Object]]:
    """Each as it begins, what it has in the end, and the delta between."""
    if not completion.calls:
        delta = {"type": "text_delta", "text": completion.text}
        return [({"type": "text", "text": ""}, {"text": completion.text}, delta)]
    return [
        (
            {"type": "tool_use", "id": of, "name": call.name, "input": {}},
            {"input": json.loads(call.text)},
            {"type": "input_json_delta", "partial_json": call.text},
        )
        for of, call in completion.calls
    ]


def _stop(completion: Completion) -> str:
    return "tool_use" if completion.calls else "end_turn"


# ---- responses ----


def _response(completion: Completion) -> Object:
    return {
        "id": "resp_test",
        "object": "response",
        "created_at": 0,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": completion.model,
        "output": _items(completion),
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": {
            "input_tokens": 0,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 0,
        },
    }


def _response_stream(completion: Completion) -> str:
    whole = _response(completion)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    events: list[Object] = [{"type": "response.created", "response": begun}]
    for place, item in enumerate(_items(completion)):
        at = {"output_index": place}
        of = {**at, "item_id": item["id"]}
        events.append(
            {"type": "response.output_item.added", **at, "item": {**item, **_EMPTY[item["type"]]}}
        )
        if item["type"] == "message":
            [part] = item["content"]
            of = {**of, "content_index": 0}
            events += [
                {"type": "response.content_part.added", **of, "part": {**part, "text": ""}},
                {"type": "response.output_text.delta", **of, "delta": part["text"], "logprobs": []},
                {"type": "response.output_text.done", **of, "text": part["text"], "logprobs": []},
                {"type": "response.content_part.done", **of, "part": part},
            ]
        else:
            name, text = item["name"], item["arguments"]
            events += [
                {"type": "response.function_call_arguments.delta", **of, "delta": text},
                {
                    "type": "response.function_call_arguments.done",
                    **of,
                    "name": name,
                    "arguments": text,
                },
            ]
        events.append({"type": "response.output_item.done", **at, "item": item})
    events.append({"type": "response.completed", "response": whole})
    return _events({**each, "sequence_number": n} for n, each in enumerate(events))


_EMPTY: dict[str, Object] = {
    "message": {"content": [], "status": "in_progress"},
    "function_call": {"arguments": "", "status": "in_progress"},
}


def _items(completion: Completion) -> list[Object]:
    if not completion.calls:
        part = {"type": "output_text", "text": completion.text, "annotations": []}
        message = {"id": "msg_test", "type": "message", "role": "assistant"}
        return [{**message, "status": "completed", "content": [part]}]
    return [
        {
            "id": of.replace("call_", "fc_"),
            "type": "function_call",
            "call_id": of,
            "name": call.name,
            "arguments": call.text,
            "status": "completed",
        }
        for of, call in completion.calls
    ]


_APIS: dict[str, tuple[Callable[[Completion], Object], Callable[[Completion], str]]] = {
    "/chat/completions": (_completion, _completion_stream),
    "/messages": (_message, _message_stream),
    "/responses": (_response, _response_stream),
}
