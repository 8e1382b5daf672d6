"""What a model's answer says, in whichever of the protocols it came: who answered, what it took,
how it ended, which tools it asks for. Pure, and never a failure: what cannot be read is unknown.

Read are chat completions, completions, embeddings and responses, whole or as a stream of events.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_TEXT_MAX = 500  # of a name: it becomes a column
_COUNT_MAX = 2**53
HTTP_ERROR = 400


@dataclass(frozen=True)
class ToolCall:
    id: str | None
    name: str
    arguments: str  # JSON, as the model wrote it


@dataclass(frozen=True)
class Reply:
    """Tokens are None where the answer does not say. `input_tokens` has the cached ones in it."""

    status: int | None = None
    model: str | None = None
    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    finish: str | None = None
    text: str | None = None
    tools: tuple[ToolCall, ...] = field(default=())

    @property
    def failed(self) -> bool:
        return self.status is not None and self.status >= HTTP_ERROR

    @property
    def measured(self) -> bool:
        """It says what it took, or has failed. A stream says so only if it is asked to."""
        return self.failed or (self.input_tokens, self.output_tokens) != (None, None)


def read_reply(value: Any) -> Reply:
    """`value` is a model operation's result: {status, headers, body}."""
    if not isinstance(value, Mapping):
        return Reply()
    status, body = value.get("status"), value.get("body")
    known = Reply(status=status if type(status) is int else None)
    if not isinstance(body, str):
        return known
    try:
        return _read(known.status, _whole(body))
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        return known


def _whole(body: str) -> Mapping[str, Any]:
    """The answer as one object, put together if it came in pieces."""
    if not body.lstrip().startswith(("data:", "event:", ":")):
        found = json.loads(body)
        return found if isinstance(found, dict) else {}
    pieces = list(_events(body.splitlines()))
    for piece in reversed(pieces):  # of the responses protocol: the last one has all
        if isinstance(piece.get("response"), dict):
            return dict(piece["response"])
    return _joined(pieces)


def _events(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith("data:") and line[5:].strip() != "[DONE]":
            piece = json.loads(line[5:])
            if isinstance(piece, dict):
                yield piece


def _joined(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """Pieces of a chat completion as if it had come whole: the first of its choices."""
    text, finish, tools = "", None, dict[int, dict[str, Any]]()
    whole: dict[str, Any] = {}
    for piece in pieces:
        whole |= {key: piece[key] for key in ("model", "usage") if piece.get(key)}
        for choice in piece.get("choices") or ():
            if choice.get("index", 0) != 0:
                continue
            finish = choice.get("finish_reason") or finish
            delta = choice.get("delta") or {}
            text += delta.get("content") or choice.get("text") or ""
            for part in delta.get("tool_calls") or ():
                call = tools.setdefault(part.get("index", 0), {"name": "", "arguments": ""})
                call["id"] = part.get("id") or call.get("id")
                for key in ("name", "arguments"):
                    call[key] += (part.get("function") or {}).get(key) or ""
    calls = [{"id": call["id"], "function": call} for _, call in sorted(tools.items())]
    message = {"content": text, "tool_calls": calls}
    return whole | {"choices": [{"message": message, "finish_reason": finish}]}


def _read(status: int | None, whole: Mapping[str, Any]) -> Reply:
    usage = whole.get("usage")
    if usage is None and _lists_models(whole):
        usage = {"input_tokens": 0, "output_tokens": 0}
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    text, finish, tools = _answer(whole)
    return Reply(
        status=status,
        model=_text(whole.get("model")),
        input_tokens=_count(usage.get("prompt_tokens", usage.get("input_tokens"))),
        cached_tokens=_count(details.get("cached_tokens") if isinstance(details, dict) else None),
        output_tokens=_count(usage.get("completion_tokens", usage.get("output_tokens"))),
        finish=_text(finish),
        text=text,
        tools=tuple(tools),
    )


def _lists_models(whole: Mapping[str, Any]) -> bool:
    listed = whole.get("data")
    kinds = {each.get("object") for each in listed} if isinstance(listed, list) else set()
    return whole.get("object") == "list" and kinds <= {"model"}


def _answer(whole: Mapping[str, Any]) -> tuple[str | None, Any, list[ToolCall]]:
    """Text, why it ended there, and the tools asked for."""
    if isinstance(whole.get("output"), list):
        items = [item for item in whole["output"] if isinstance(item, dict)]
        texts = [
            part["text"]
            for item in items
            if item.get("type") == "message"
            for part in item.get("content") or ()
            if isinstance(part, dict) and isinstance(part.get("text"), str)
        ]
        tools = [
            _tool(item.get("call_id"), item)
            for item in items
            if item.get("type") == "function_call"
        ]
        return "".join(texts) if texts else None, whole.get("status"), tools
    choices = whole.get("choices")
    if not isinstance(choices, list) or not choices:
        return None, None, []
    message = choices[0].get("message") or {}
    text = message.get("content", choices[0].get("text"))
    tools = [_tool(call.get("id"), call["function"]) for call in message.get("tool_calls") or ()]
    return text if isinstance(text, str) else None, choices[0].get("finish_reason"), tools


def _tool(id: Any, named: Mapping[str, Any]) -> ToolCall:
    arguments = named.get("arguments")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return ToolCall(_text(id), _text(named.get("name")) or "", text)


def _text(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    return value[:_TEXT_MAX].encode(errors="replace").decode()  # no halves of surrogate pairs


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= _COUNT_MAX else None
