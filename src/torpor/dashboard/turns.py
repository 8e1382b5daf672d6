"""A model call as a turn of a conversation: what was new in it, what came back, how many tokens.

Known are OpenAI's chat completions and responses, whose shape most servers speak, and Anthropic's
messages. What is not known is shown as it is. Pure; takes whatever an agent or a server wrote.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Said:
    role: str
    text: str


@dataclass(frozen=True)
class Asked:
    """`new`: the messages since the model last spoke; `earlier`: how many more were sent."""

    model: str = ""
    new: list[Said] = field(default_factory=list)
    earlier: int = 0


@dataclass(frozen=True)
class Answered:
    """`tokens_in` includes `tokens_cached`, those that the server had already."""

    model: str = ""
    said: list[Said] = field(default_factory=list)
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_cached: int | None = None
    status: int = 200
    stopped: str = ""


def asked(body: object) -> Asked | None:
    """What a request's body asks; None if it is no conversation."""
    data = _object(body)
    sent = _first(data, "messages", "input", "prompt")
    if isinstance(sent, str):
        sent = [{"role": "user", "content": sent}]
    if not isinstance(sent, list):
        return None
    before = _text(_first(data, "system", "instructions"))
    messages = [Said("system", before)] if before else []
    messages += [said for each in sent for said in _said(each)]
    spoke = [at for at, said in enumerate(messages) if said.role == "assistant"]
    since = spoke[-1] + 1 if spoke else 0
    return Asked(str(data.get("model") or ""), messages[since:], since)


def answered(value: object) -> Answered:
    """What a model operation's value, {status, headers, body}, says."""
    whole = value if isinstance(value, Mapping) else {}
    status = whole.get("status")
    status = status if isinstance(status, int) else 200
    data = _object(whole.get("body"))
    usage = data.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    cached = _first(usage, "prompt_tokens_details", "input_tokens_details")
    cached = _count(cached, "cached_tokens") if isinstance(cached, Mapping) else None
    tokens_in = _count(usage, "prompt_tokens", "input_tokens")
    if (read := _count(usage, "cache_read_input_tokens")) is not None:
        # Anthropic counts them apart.
        tokens_in, cached = (tokens_in or 0) + read, read
    return Answered(
        model=str(data.get("model") or ""),
        said=list(_outcome(data)),
        tokens_in=tokens_in,
        tokens_out=_count(usage, "completion_tokens", "output_tokens"),
        tokens_cached=cached,
        status=status,
        stopped=_stopped(data),
    )


def _outcome(data: Object) -> Iterator[Said]:
    choices = data.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, Mapping):
            yield from _said(choice.get("message") or {"content": choice.get("text")}, "assistant")
    output = data.get("output")  # responses
    for item in output if isinstance(output, list) else ():
        yield from _said(item, "assistant")
    if isinstance(data.get("content"), list):  # messages
        yield from _said(data, "assistant")
    error = data.get("error")
    if isinstance(error, Mapping):
        yield Said("error", str(error.get("message") or error))
    elif error:
        yield Said("error", str(error))


def _stopped(data: Object) -> str:
    choices = data.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else {}
    why = first.get("finish_reason") if isinstance(first, Mapping) else None
    return str(why or data.get("stop_reason") or "")


def _said(message: object, role: str = "user") -> Iterator[Said]:
    """A message, and the tools that it calls."""
    if not isinstance(message, Mapping):
        return
    role = str(message.get("role") or role)
    text = _text(message.get("content"))
    if text:
        yield Said(role, text)
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            yield Said(role, _call(function))
    if message.get("type") == "function_call":
        yield Said(role, _call(message))
    if message.get("type") == "function_call_output":
        yield Said("tool", _text(message.get("output")))


def _call(function: Object) -> str:
    return f"→ {function.get('name')}({_text(function.get('arguments'))})"


def _text(content: object) -> str:
    """A message's content: text, or a list of parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(filter(None, map(_part, content)))
    return json.dumps(content, ensure_ascii=False)


def _part(part: object) -> str:
    if not isinstance(part, Mapping):
        return _text(part)
    match part.get("type"):
        case "text" | "input_text" | "output_text":
            return str(part.get("text") or "")
        case "tool_use":
            return _call({"name": part.get("name"), "arguments": part.get("input")})
        case "tool_result":
            return _text(part.get("content"))
        case kind:
            return f"[{kind}]" if kind else json.dumps(dict(part), ensure_ascii=False)


def _object(body: object) -> Object:
    if not isinstance(body, str):
        return {}
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _first(data: Object, *keys: str) -> Any:
    return next((data[key] for key in keys if data.get(key) is not None), None)


def _count(data: Object, *keys: str) -> int | None:
    value = _first(data, *keys)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
