"""A prompt for a model, as a turn of a conversation: what was new in it, what was sent again.

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
class Message:
    role: str
    text: str


@dataclass(frozen=True)
class Prompt:
    """`new`: the messages since the model last spoke; `earlier`: how many more were sent."""

    model: str = ""
    new: list[Message] = field(default_factory=list)
    earlier: int = 0


def read_prompt(body: object) -> Prompt | None:
    """The prompt in a request's body; None if that is no conversation."""
    data = _object(body)
    sent = _first(data, "messages", "input", "prompt")
    if isinstance(sent, str):
        sent = [{"role": "user", "content": sent}]
    if not isinstance(sent, list):
        return None
    before = _text(_first(data, "system", "instructions"))
    messages = [Message("system", before)] if before else []
    messages += [message for each in sent for message in _messages(each)]
    spoke = [at for at, message in enumerate(messages) if message.role == "assistant"]
    since = spoke[-1] + 1 if spoke else 0
    return Prompt(str(data.get("model") or ""), messages[since:], since)


def _messages(message: object, role: str = "user") -> Iterator[Message]:
    """A message, and the tools that it calls."""
    if not isinstance(message, Mapping):
        return
    role = str(message.get("role") or role)
    text = _text(message.get("content"))
    if text:
        yield Message(role, text)
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            yield Message(role, _call(function))
    if message.get("type") == "function_call":
        yield Message(role, _call(message))
    if message.get("type") == "function_call_output":
        yield Message("tool", _text(message.get("output")))


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
