"""What a test's `models` say to model calls: a function of the request, or replies one by one.

A reply is text or calls of tools, made into an answer of the API that was called; an object, which
is the answer's body as it is; or a status with one: `(429, {...})`.

Which response a call has got is kept by its operation: in a replay it has the same one.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from torpor.sdk.errors import text_of
from torpor.testing import apis
from torpor.testing.apis import ToolCall
from torpor.testing.script import ModelRequest, Unanswered, Unused

Models: TypeAlias = Callable[[ModelRequest], Any] | Iterable[Any] | str


class Replies:
    """`given` is used up by all executions of a run together: what one has got, its replays get."""

    def __init__(self, given: Models | None) -> None:
        self._first: dict[tuple[str, str], dict[str, Any]] = {}
        self._function = given if callable(given) else None
        self._one = given if isinstance(given, str) else None
        several = None if given is None or callable(given) or self._one is not None else given
        self._left: Iterator[Any] = iter(several) if isinstance(several, Iterable) else iter(())

    def check_used(self) -> None:
        """Raises Unused."""
        if left := list(self._left):
            raise Unused(f"{len(left)} replies of models= were never used: {left!r:.200}")

    def to(self, run: str, op: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """The response to the call `op`, whose `begin` has this data, as the log has it."""
        if (run, op) not in self._first:
            self._first[run, op] = self._next(_request(data))
        return self._first[run, op]

    def _next(self, request: ModelRequest) -> dict[str, Any]:
        if self._function is not None:
            reply = self._function(request)
        else:
            reply = self._one if self._one is not None else next(self._left, ...)
        if reply is ...:
            shown = request.body.decode(errors="replace")[:300]
            raise Unanswered(
                f"the agent calls a model, and no reply is given: {request.method} "
                f"{request.path}\n  {shown}\nGive one: run(agent, …, models=[REPLY, "
                "…]), or a function of the request."
            )
        return _response(request, reply)


def _request(data: Mapping[str, Any]) -> ModelRequest:
    body = data["body"].encode() if "body" in data else base64.b64decode(data["body_b64"])
    try:
        parsed = json.loads(body)
    except ValueError:
        parsed = None
    return ModelRequest(data["method"], data["path"], data["headers"], body, parsed)


def _response(request: ModelRequest, reply: Any) -> dict[str, Any]:
    status, body = reply if isinstance(reply, tuple) else (200, reply)
    kind, text = _written(request, [body] if isinstance(body, ToolCall) else body)
    return {"status": status, "headers": {"content-type": kind}, "body": text}


def _written(request: ModelRequest, reply: Any) -> tuple[str, str]:
    calls = isinstance(reply, list) and reply and all(isinstance(e, ToolCall) for e in reply)
    if not (calls or isinstance(reply, str)):
        return "application/json", json.dumps(reply)
    fields = request.json if isinstance(request.json, dict) else {}
    return apis.answer(request.path.partition("?")[0], fields, reply)


def refusal(error: BaseException) -> dict[str, Any]:
    """The response to a call that the test has no reply to: one that no client tries again."""
    return _response(
        ModelRequest("", "", {}, b"", None), (400, {"error": {"message": text_of(error)}})
    )
