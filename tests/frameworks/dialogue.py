"""What OpenAI's API takes, read as strictly as the API reads it.

Both forms of a conversation, chat completions and Responses, become the same list of `Said`;
what the API would refuse raises `Refused`. The rules are those that durable agents break when they
repeat or lose something: each tool call has its answer, no answer is without its call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Object = Mapping[str, Any]

_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ROLES = ("system", "developer", "user", "assistant", "tool")
_CHAT_PARAMETERS = frozenset(
    (
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "modalities",
        "model",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    )
)
_RESPONSES_PARAMETERS = frozenset(
    (
        "background",
        "conversation",
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "model",
        "parallel_tool_calls",
        "previous_response_id",
        "prompt",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "truncation",
        "user",
    )
)


class Refused(Exception):
    """The API's answer to a request that it does not take."""

    def __init__(self, message: str, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "error": {
                "message": message,
                "type": "invalid_request_error",
                "param": param,
                "code": None,
            }
        }


@dataclass(frozen=True)
class Said:
    """One turn of a conversation: of the model (`assistant`, `calls`), or to it."""

    by: Literal["instructions", "user", "assistant", "calls", "tool"]
    text: str = ""
    calls: tuple[str, ...] = ()  # ids: of the calls made, or of the one answered


def read_chat(body: Object) -> list[Said]:
    """The conversation of a request for a chat completion. Raises Refused."""
    _check_parameters(body, _CHAT_PARAMETERS, "messages")
    if "stream_options" in body and not body.get("stream"):
        raise Refused("The 'stream_options' parameter is only allowed when 'stream' is enabled.")
    for tool in body.get("tools") or ():
        if tool.get("type") != "function":
            raise Refused(f"Invalid value: {tool.get('type')!r}.", "tools[0].type")
        _check_tool(tool.get("function") or {})
    messages = body["messages"]
    if not isinstance(messages, list) or not messages:
        raise Refused("Invalid 'messages': expected a non-empty array.", "messages")
    said = [_message(message, f"messages.[{n}]") for n, message in enumerate(messages)]
    _check_answered(said)
    return said


def _message(message: Object, where: str) -> Said:
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        raise Refused(f"Invalid value: {role!r}. Supported values are: {_ROLES}.", f"{where}.role")
    calls = message.get("tool_calls")
    if role == "assistant" and calls is not None:
        if not calls:
            raise Refused(f"Invalid '{where}.tool_calls': empty array.", f"{where}.tool_calls")
        for call in calls:
            if call.get("type") != "function" or not isinstance(
                call["function"].get("arguments"), str
            ):
                raise Refused("Invalid type: expected a function call.", f"{where}.tool_calls")
        return Said("calls", calls=tuple(call["id"] for call in calls))
    if content is None:
        raise Refused("Invalid value for 'content': expected a string, got null.", where)
    text = _text(content, where)
    if role == "tool":
        if not message.get("tool_call_id"):
            raise Refused(f"Missing parameter '{where}.tool_call_id'.", where)
        return Said("tool", text, (message["tool_call_id"],))
    if role in ("system", "developer"):
        return Said("instructions", text)
    return Said("assistant" if role == "assistant" else "user", text)


def read_responses(body: Object, earlier: Sequence[Said]) -> list[Said]:
    """The conversation of a request for a response; `earlier` is what it continues."""
    _check_parameters(body, _RESPONSES_PARAMETERS, "input")
    for tool in body.get("tools") or ():
        if tool.get("type") == "function":
            _check_tool(tool)
    given = body["input"]
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(items, list) or not items:
        raise Refused("Invalid type for 'input': expected a string or an array.", "input")
    new = _joined(_item(item, f"input[{n}]") for n, item in enumerate(items))
    if body.get("instructions"):
        new.insert(0, Said("instructions", body["instructions"]))
    said = [*earlier, *new]
    _check_answered(said)
    return said


def _item(item: Object, where: str) -> Said | None:
    kind = item.get("type", "message")
    if kind == "message":
        return _message(item, where)
    if kind == "function_call":
        return Said("calls", calls=(item["call_id"],))
    if kind == "function_call_output":
        return Said("tool", _text(item["output"], where), (item["call_id"],))
    if kind == "reasoning":
        return None
    raise Refused(f"Invalid value: {kind!r}.", f"{where}.type")


def _joined(items: Iterable[Said | None]) -> list[Said]:
    """Calls that stand side by side were made in one turn of the model."""
    joined: list[Said] = []
    for each in items:
        if each is None:
            continue
        if each.by == "calls" and joined and joined[-1].by == "calls":
            joined[-1] = Said("calls", calls=joined[-1].calls + each.calls)
        else:
            joined.append(each)
    return joined


def _check_parameters(body: Object, known: frozenset[str], needed: str) -> None:
    for name in body:
        if name not in known:
            raise Refused(f"Unrecognized request argument supplied: {name}")
    for name in ("model", needed):
        if name not in body:
            raise Refused(f"Missing required parameter: '{name}'.", name)


def _check_tool(function: Object) -> None:
    name, parameters = function.get("name", ""), function.get("parameters")
    if not _TOOL_NAME.fullmatch(name):
        raise Refused(f"Invalid tool name {name!r}: expected {_TOOL_NAME.pattern}.", "tools")
    if parameters is not None and parameters.get("type") != "object":
        raise Refused(f"Invalid schema for function {name!r}: type must be 'object'.", "tools")


def _check_answered(said: Sequence[Said]) -> None:
    """Each call is answered once, before anything else is said."""
    open_calls: set[str] = set()
    for each in said:
        if each.by == "tool":
            if not open_calls.issuperset(each.calls):
                raise Refused(f"No tool call found for the tool output with id {each.calls[0]}.")
            open_calls.difference_update(each.calls)
        elif open_calls:
            raise Refused(f"No tool output found for the tool calls {sorted(open_calls)}.")
        elif each.by == "calls":
            open_calls.update(each.calls)
    if open_calls:
        raise Refused(f"No tool output found for the tool calls {sorted(open_calls)}.")


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise Refused("Invalid type for 'content': expected a string or an array.", where)
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise Refused("Invalid content: this model takes text only.", where)
    return "".join(part["text"] for part in content)
