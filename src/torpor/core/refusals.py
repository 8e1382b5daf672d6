"""What a model's client gets where torpor answers in the model's place: an error in the shape of
the API that was called, by its path, so that the client shows its words. Pure; it runs in the
machine, in the broker and in the server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# What a call gets that comes before there is a run. Its words are in what clients make of it,
# whatever they show: they are the status line's reason, and begin the body's message.
NOT_YET = "torpor: not yet"
# Nobody repeats a call for it: it is not among what clients take for passing.
NOT_YET_STATUS = 425

_ANTHROPIC = "/v1/messages"
# By status: OpenAI's type of error, and Anthropic's.
_TYPES: Mapping[int, tuple[str, str]] = {
    401: ("authentication_error", "authentication_error"),
    403: ("permission_error", "permission_error"),
    404: ("not_found_error", "not_found_error"),
    413: ("invalid_request_error", "request_too_large"),
    429: ("rate_limit_error", "rate_limit_error"),
    504: ("server_error", "timeout_error"),
}
_OF_CALLER = ("invalid_request_error", "invalid_request_error")
_OF_SERVER = ("server_error", "api_error")


def refusal(path: str, status: int, code: str, message: str) -> dict[str, Any]:
    """The body of an error response. `path` is that of the call; `code`, a word for programs."""
    openai, anthropic = _TYPES.get(status, _OF_CALLER if status < 500 else _OF_SERVER)
    if _speaks_anthropic(path):
        return {"type": "error", "error": {"type": anthropic, "message": message}}
    return {"error": {"message": message, "type": openai, "code": code, "param": None}}


def encoded(path: str, status: int, code: str, message: str) -> bytes:
    return json.dumps(refusal(path, status, code, message)).encode()


def headers(*, retry: bool = True) -> dict[str, str]:
    """Of an error response. Clients of both APIs repeat what they take for passing (409, 5xx),
    unless they are told that it is not."""
    return {"content-type": "application/json"} | ({} if retry else {"x-should-retry": "false"})


def _speaks_anthropic(path: str) -> bool:
    path = path.partition("?")[0]
    return path == _ANTHROPIC or path.startswith(f"{_ANTHROPIC}/")
