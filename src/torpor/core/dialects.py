"""What the objects of a model's answer say, in the protocols that models are spoken to in: chat
completions (with completions and embeddings), responses, Anthropic's messages, Gemini's.

Each is read from an answer that came whole; one that came in pieces is first joined to such a one.
Pure. What is not as the protocol says raises, and the caller takes it for unknown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torpor.core.pieces import Piece

_TEXT_MAX = 500  # of a name: it becomes a column
COUNT_MAX = 2**53

HTTP_ERROR = 400

Whole = Mapping[str, Any]


@dataclass(frozen=True)
class ToolCall:
    id: str | None
    name: str
    arguments: str  # JSON, as the model wrote it


@dataclass(frozen=True)
class Reply:
    """Tokens are None where the answer does not say. `input_tokens` has in it the cached ones, and
    those that were written to a cache."""

    status: int | None = None
    model: str | None = None
    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    finish: str | None = None
    text: str | None = None
    tools: tuple[ToolCall, ...] = field(default=())
    written_tokens: int | None = None

    @property
    def failed(self) -> bool:
        return self.status is not None and self.status >= HTTP_ERROR

    @property
    def measured(self) -> bool:
        """It says what it took, or has failed. A stream says so only if it is asked to."""
        return self.failed or (self.input_tokens, self.output_tokens) != (None, None)


@dataclass(frozen=True)
class Dialect:
    knows: Callable[[Piece], bool]
    new_text: Callable[[Piece], str]  # that a piece of a stream, or a whole answer, adds
    join: Callable[[list[Piece]], Whole]
    read: Callable[[Whole], Reply]


def dialect_of(piece: Piece) -> Dialect | None:
    return next((each for each in DIALECTS if each.knows(piece)), None)


# Chat completions, completions, embeddings


def _chat_text(piece: Piece) -> str:
    first = _first(piece.get("choices"))
    message = first.get("message") or first.get("delta") or {}
    content = message.get("content")
    return _texts(content if content is not None else first.get("text"))


def _join_chat(pieces: list[Piece]) -> Whole:
    """The first of its choices."""
    finish, calls = None, dict[int, dict[str, Any]]()
    whole: dict[str, Any] = {}
    for piece in pieces:
        whole |= {key: piece[key] for key in ("model", "usage") if piece.get(key)}
        choice = _first(piece.get("choices"))
        finish = choice.get("finish_reason") or finish
        for part in (choice.get("delta") or {}).get("tool_calls") or ():
            call = calls.setdefault(part.get("index", 0), {"name": "", "arguments": ""})
            call["id"] = part.get("id") or call.get("id")
            for key in ("name", "arguments"):
                call[key] += (part.get("function") or {}).get(key) or ""
    tools = [{"id": call["id"], "function": call} for _, call in sorted(calls.items())]
    message = {"content": _joined_text(_chat_text, pieces), "tool_calls": tools}
    return whole | {"choices": [{"message": message, "finish_reason": finish}]}


def _read_chat(whole: Whole) -> Reply:
    usage = whole.get("usage")
    if usage is None and _is_free(whole):
        usage = {"prompt_tokens": 0, "completion_tokens": 0}
    usage = _table(usage)
    first = _first(whole.get("choices"))
    calls = (first.get("message") or {}).get("tool_calls") or ()
    return Reply(
        model=_name(whole.get("model")),
        input_tokens=_count(usage.get("prompt_tokens", usage.get("input_tokens"))),
        cached_tokens=_count(_table(usage.get("prompt_tokens_details")).get("cached_tokens")),
        output_tokens=_count(usage.get("completion_tokens", usage.get("output_tokens"))),
        finish=_name(first.get("finish_reason")),
        text=_chat_text(dict(whole)) or None,
        tools=tuple(_tool(call.get("id"), call["function"]) for call in calls),
    )


def _is_free(whole: Whole) -> bool:
    """Lists of models, and counts of tokens, take none."""
    listed = whole.get("data", whole.get("models"))
    if isinstance(listed, list):
        kinds = {_table(each).get("object", _table(each).get("type")) for each in listed}
        return "models" in whole or kinds == {"model"} or (not kinds and "object" in whole)
    return (
        bool({"input_tokens", "totalTokens"} & whole.keys())
        and not {"type", "usage"} & whole.keys()
    )


# Responses


def _response_text(piece: Piece) -> str:
    if piece.get("type") == "response.output_text.delta":
        return _texts(piece.get("delta"))
    messages = (item for item in _tables(piece.get("output")) if item.get("type") == "message")
    return "".join(_texts(item.get("content")) for item in messages)


def _join_response(pieces: list[Piece]) -> Whole:
    """The last one has all of it, unless the stream was cut off."""
    wholes = [piece["response"] for piece in pieces if isinstance(piece.get("response"), dict)]
    last: dict[str, Any] = dict(wholes[-1]) if wholes else {}
    if not last.get("output"):
        items = [_table(p.get("item")) for p in pieces if p.get("type") == _ITEM_DONE]
        text = {"type": "output_text", "text": _joined_text(_response_text, pieces)}
        items = [item for item in items if item.get("type") != "message"]
        last["output"] = [{"type": "message", "content": [text]}, *items]
    return last


_ITEM_DONE = "response.output_item.done"


def _read_response(whole: Whole) -> Reply:
    usage = _table(whole.get("usage"))
    calls = (item for item in _tables(whole["output"]) if item.get("type") == "function_call")
    return Reply(
        model=_name(whole.get("model")),
        input_tokens=_count(usage.get("input_tokens")),
        cached_tokens=_count(_table(usage.get("input_tokens_details")).get("cached_tokens")),
        output_tokens=_count(usage.get("output_tokens")),
        finish=_name(whole.get("status")),
        text=_response_text(dict(whole)) or None,
        tools=tuple(_tool(call.get("call_id"), call) for call in calls),
    )


# Anthropic's messages


def _message_text(piece: Piece) -> str:
    if piece.get("type") == "content_block_delta":
        delta = _table(piece.get("delta"))
        return _texts(delta.get("text")) if delta.get("type") == "text_delta" else ""
    if piece.get("type") == "content_block_start":
        return _texts([piece.get("content_block")])
    return _texts(piece.get("content"))


def _join_message(pieces: list[Piece]) -> Whole:
    whole: dict[str, Any] = {"type": "message"}
    usage: dict[str, Any] = {}
    blocks: dict[int, dict[str, Any]] = {}
    written: dict[int, str] = {}  # of the tools' inputs, as JSON
    for piece in pieces:
        message, delta = _table(piece.get("message")), _table(piece.get("delta"))
        given = {**_table(message.get("usage")), **_table(piece.get("usage"))}
        usage |= {key: value for key, value in given.items() if value is not None}
        whole |= {k: v for k, v in {**message, **delta}.items() if k in _OF_MESSAGE and v}
        if piece.get("type") == "content_block_start":
            blocks[piece["index"]] = dict(_table(piece.get("content_block")))
        elif delta.get("type") == "input_json_delta":
            index = piece["index"]
            written[index] = written.get(index, "") + delta["partial_json"]
    for index, json_text in written.items():
        if index in blocks and json_text:
            blocks[index]["input"] = json_text
    tools = [block for _, block in sorted(blocks.items()) if block.get("type") == "tool_use"]
    text = {"type": "text", "text": _joined_text(_message_text, pieces)}
    return whole | {"usage": usage, "content": [text, *tools]}


_OF_MESSAGE = ("model", "stop_reason")


def _read_message(whole: Whole) -> Reply:
    usage = _table(whole.get("usage"))
    fresh = _count(usage.get("input_tokens"))
    cached = _count(usage.get("cache_read_input_tokens"))
    written = _count(usage.get("cache_creation_input_tokens"))
    calls = (block for block in _tables(whole.get("content")) if block.get("type") == "tool_use")
    return Reply(
        model=_name(whole.get("model")),
        input_tokens=None if fresh is None else fresh + (cached or 0) + (written or 0),
        cached_tokens=cached,
        output_tokens=_count(usage.get("output_tokens")),
        finish=_name(whole.get("stop_reason")),
        text=_message_text(dict(whole)) or None,
        tools=tuple(_tool(block.get("id"), block, "input") for block in calls),
        written_tokens=written,
    )


# Gemini


def _gemini_text(piece: Piece) -> str:
    return _texts([part for part in _gemini_parts(piece) if not part.get("thought")])


def _gemini_parts(piece: Whole) -> list[dict[str, Any]]:
    return list(_tables(_table(_first(piece.get("candidates")).get("content")).get("parts")))


def _join_gemini(pieces: list[Piece]) -> Whole:
    whole: dict[str, Any] = {}
    candidate: dict[str, Any] = {"content": {"parts": []}}
    for piece in pieces:
        # Usage grows from piece to piece; the last one counts.
        whole |= {k: v for k, v in piece.items() if k != "candidates" and v}
        candidate["content"]["parts"] += _gemini_parts(piece)
        finish = _first(piece.get("candidates")).get("finishReason")
        candidate |= {"finishReason": finish} if finish else {}
    return whole | {"candidates": [candidate]}


def _read_gemini(whole: Whole) -> Reply:
    usage = _table(whole.get("usageMetadata"))
    blocked = _table(whole.get("promptFeedback")).get("blockReason")
    calls = [part["functionCall"] for part in _gemini_parts(whole) if "functionCall" in part]
    return Reply(
        model=_name(whole.get("modelVersion")),
        input_tokens=_sum(usage, "promptTokenCount", "toolUsePromptTokenCount"),
        cached_tokens=_count(usage.get("cachedContentTokenCount")),
        # What it thought is paid as what it wrote.
        output_tokens=_sum(usage, "candidatesTokenCount", "thoughtsTokenCount"),
        finish=_name(_first(whole.get("candidates")).get("finishReason") or blocked),
        text=_gemini_text(dict(whole)) or None,
        tools=tuple(_tool(call.get("id"), call, "args") for call in calls),
    )


_MESSAGE_EVENTS = (
    "message",
    *("message_start", "message_delta", "message_stop"),
    *("content_block_start", "content_block_delta", "content_block_stop"),
)
_GEMINI_KEYS = {"candidates", "usageMetadata", "promptFeedback"}

DIALECTS = (
    Dialect(
        lambda p: p.get("type") in _MESSAGE_EVENTS, _message_text, _join_message, _read_message
    ),
    Dialect(lambda p: bool(_GEMINI_KEYS & p.keys()), _gemini_text, _join_gemini, _read_gemini),
    Dialect(
        lambda p: isinstance(p.get("output"), list) or isinstance(p.get("response"), dict),
        _response_text,
        _join_response,
        _read_response,
    ),
    Dialect(
        lambda p: isinstance(p.get("choices"), list) or "usage" in p or _is_free(p),
        _chat_text,
        _join_chat,
        _read_chat,
    ),
)


# What is common


def _joined_text(new_text: Callable[[Piece], str], pieces: Iterable[Piece]) -> str:
    return "".join(map(new_text, pieces))


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _tables(value: Any) -> Iterable[dict[str, Any]]:
    return (each for each in value if isinstance(each, dict)) if isinstance(value, list) else ()


def _first(choices: Any) -> dict[str, Any]:
    """Of several answers to one question."""
    return next((each for each in _tables(choices) if each.get("index", 0) == 0), {})


def _texts(content: Any) -> str:
    """A text, or that of the parts which are text."""
    if isinstance(content, str):
        return content
    texts = (part.get("text") for part in _tables(content))
    return "".join(text for text in texts if isinstance(text, str))


def _tool(id: Any, named: Mapping[str, Any], key: str = "arguments") -> ToolCall:
    arguments = named.get(key)
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return ToolCall(_name(id), _name(named.get("name")) or "", text)


def _name(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    return value[:_TEXT_MAX].encode(errors="replace").decode()  # no halves of surrogate pairs


def _sum(usage: Mapping[str, Any], first: str, second: str) -> int | None:
    counts = [_count(usage.get(first)), _count(usage.get(second))]
    return None if counts == [None, None] else sum(each or 0 for each in counts)


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= COUNT_MAX else None
