"""What a person is shown of a permission: made of the exact action, never of the agent's words.

All of it is a stranger's (rule 13), and must look like what it is: what steers a terminal, turns
text around or cannot be seen is written as an escape, JSON is laid out token by token and not read
and written anew (of a key that comes twice readers differ in which they see), and what is long is
cut, with its size and digest. Of headers that may carry a credential only the length is shown.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torpor.core import permissions
from torpor.core.jsonvalues import DEPTH_MAX
from torpor.core.permissions import Action, escaped

SHOWN_CHARS = 16_000
_URL_CHARS = 2_000
_LAID_OUT_CHARS = 256 * 1024
_COMPARED_LINES = 2_000
_COMPARED_CHARS = 128 * 1024
_CREDENTIAL = re.compile(r"auth|token|secret|key|passw|signature|credential|cookie|session", re.I)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_OPENS, _CLOSES = "{[", "}]"


def shown(action: Action, before: Action | None = None) -> dict[str, Any]:
    """`action` for people, beside `before`, the last of its kind that was allowed."""
    head = _request_shown(action["request"]) if "request" in action else _action_shown(action)
    digest = {"digest": permissions.digest(action)}
    if action.get("reason"):
        head["the agent says"] = cut(visible(action["reason"]))
    if before is not None:
        head["changes"] = _changes(before, action)
    return {**head, **digest}


def whole(action: Action) -> str:
    """All of it as text, for a download."""
    return "\n".join(_lines(action)) + "\n"


def visible(text: str) -> str:
    """Text, of which lines and tabs are kept, and all else that has no shape of its own is
    escaped."""
    if text.isprintable():
        return text
    return "".join(each if each in "\n\t" or each.isprintable() else escaped(each) for each in text)


def _on_one_line(text: str) -> str:
    return "".join(each if each.isprintable() else escaped(each) for each in text)


def cut(text: str, most: int = SHOWN_CHARS) -> str:
    left = len(text) - most
    return text if left <= 0 else f"{text[:most]}\n… {left:,} more characters"


def laid_out(text: str) -> str | None:
    """JSON with a line for each of its parts, every token as it is; None for what is no JSON, or
    too large or deep for it."""
    if len(text) > _LAID_OUT_CHARS:
        return None
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return None
    lines, depth, line = list[str](), 0, ""
    tokens = _TOKEN.findall(text)
    for place, token in enumerate(tokens):
        if token in _OPENS:
            depth += 1
            if depth > DEPTH_MAX:
                return None
            line += token
            if tokens[place + 1] not in _CLOSES:
                lines.append(line)
                line = "  " * depth
        elif token in _CLOSES:
            depth -= 1
            if tokens[place - 1] not in _OPENS:
                lines.append(line)
                line = "  " * depth
            line += token
        elif token == ",":
            lines.append(line + ",")
            line = "  " * depth
        else:
            line += ": " if token == ":" else token
    return "\n".join([*lines, line])


def _request_shown(request: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        "method": _on_one_line(request["method"]),
        "url": cut(_on_one_line(permissions.url(request)), _URL_CHARS),
        "headers": cut("\n".join(_headers(request))),
    }
    body = permissions.body_of(request)
    if body:
        found["body"] = cut(_body_text(body))
        found["body_size"] = f"{len(body):,} bytes, SHA-256 {hashlib.sha256(body).hexdigest()}"
    return found


def _action_shown(action: Action) -> dict[str, Any]:
    name, arguments = _called(action)
    return {"action": name, "arguments": cut(arguments)}


def _called(action: Action) -> tuple[str, str]:
    """Its name, and its arguments as text."""
    called = action["action"]
    arguments = json.dumps(called["arguments"], ensure_ascii=False)
    return _on_one_line(called["name"]), visible(laid_out(arguments) or arguments)


def _headers(request: Mapping[str, Any]) -> Iterator[str]:
    for name, value in permissions.header_pairs(request):
        if _CREDENTIAL.search(name):
            digest = hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()
            value = f"(not shown: {len(value):,} characters, SHA-256 {digest[:16]}…)"
        yield _on_one_line(f"{name}: {value}")


def _body_text(body: bytes) -> str:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return f"(binary: {len(body):,} bytes, SHA-256 {hashlib.sha256(body).hexdigest()})"
    return visible(laid_out(text) or text)


def _lines(action: Action) -> list[str]:
    if "request" not in action:
        name, arguments = _called(action)
        return [name, *arguments.split("\n")]
    request = action["request"]
    line = _on_one_line(f"{request['method']} {permissions.url(request)}")
    body = _body_text(permissions.body_of(request)).split("\n")
    return [line, *_headers(request), "", *body]


def _changes(before: Action, action: Action) -> str:
    """A unified diff, by line."""
    old, new = _lines(before), _lines(action)
    if old == new:
        return "none: it is what was allowed last"
    if _too_large(old) or _too_large(new):
        return "too large to be compared with what was allowed last"
    lines = difflib.unified_diff(old, new, "allowed last", "now", lineterm="")
    return cut("\n".join(lines))


def _too_large(lines: Iterable[str]) -> bool:
    lines = list(lines)
    return len(lines) > _COMPARED_LINES or sum(map(len, lines)) > _COMPARED_CHARS
