"""What a test's `models` say to model calls: a function of the request, or replies one by one.

A reply is text, made into an answer of the API that was called; an object, which is the answer's
body as it is; or a status with one: `(429, {...})`. An answer to a client that asks for a stream
comes as one, in one piece, as torpor's do.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from torpor.sdk.errors import said
from torpor.testing.script import ModelRequest, Unanswered, Unused

Models: TypeAlias = Callable[[ModelRequest], Any] | Iterable[Any] | str


class Replies:
    """`given` is used up by all executions of a run together: a replay has what was recorded."""

    def __init__(self, given: Models | None) -> None:
        self._function = given if callable(given) else None
        self._one = given if isinstance(given, str) else None
        several = None if given is None or callable(given) or self._one is not None else given
        self._left: Iterator[Any] = iter(several) if isinstance(several, Iterable) else iter(())

    def check_used(self) -> None:
        """Raises Unused."""
        if left := list(self._left):
            raise Unused(f"{len(left)} replies of models= were never asked for: {left!r:.200}")

    def to(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The response to the call whose `begin` has this data, as the log has it."""
        request = _request(data)
        if self._function is not None:
            reply = self._function(request)
        else:
            reply = self._one if self._one is not None else next(self._left, ...)
        if reply is ...:
            shown = request.body.decode(errors="replace")[:300]
            raise Unanswered(
                f"the agent calls a model, and nothing answers: {request.method} {request.path}\n"
                f"  {shown}\nSay what does: run(agent, …, models=[REPLY, …]), or a function of the "
                "request."
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
    kind = "application/json"
    if isinstance(body, str):
        asked = request.json if isinstance(request.json, dict) else {}
        kind, body = _of_text(request.path.partition("?")[0], asked, body)
    text = body if isinstance(body, str) else json.dumps(body)
    return {"status": status, "headers": {"content-type": kind}, "body": text}


def refusal(error: BaseException) -> dict[str, Any]:
    """The response to a call that the test has no reply to: one that no client tries again."""
    return _response(
        ModelRequest("", "", {}, b"", None), (400, {"error": {"message": said(error)}})
    )


def _of_text(path: str, asked: Mapping[str, Any], text: str) -> tuple[str, Any]:
    """The type and the body of the answer `text`."""
    for end, (whole, streamed) in _APIS.items():
        if path.endswith(end):
            if asked.get("stream"):
                return "text/event-stream", streamed(str(asked.get("model", "")), text)
            return "application/json", whole(str(asked.get("model", "")), text)
    raise TypeError(
        f"a reply to {path} must be an object: of text no answer of that API is made here"
    )


def _completion(model: str, text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {**_about(model, "chat.completion"), "choices": [choice], "usage": _USAGE}


def _completion_stream(model: str, text: str) -> str:
    chunks = [{"role": "assistant", "content": text}], [{}, "stop"]
    lines = []
    for delta, *finish in chunks:
        choice = {"index": 0, "delta": delta, "finish_reason": finish[0] if finish else None}
        lines.append({**_about(model, "chat.completion.chunk"), "choices": [choice]})
    return "".join(f"data: {json.dumps(each)}\n\n" for each in lines) + "data: [DONE]\n\n"


def _about(model: str, kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-test", "object": kind, "created": 0, "model": model}


def _message(model: str, text: str) -> dict[str, Any]:
    return {
        "id": "msg_test",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def _message_stream(model: str, text: str) -> str:
    whole = _message(model, "") | {"content": [], "stop_reason": None}
    delta = {"type": "text_delta", "text": text}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": whole},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 0},
        },
        {"type": "message_stop"},
    ]
    return "".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in events)


_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
_APIS: dict[str, tuple[Callable[[str, str], Any], Callable[[str, str], str]]] = {
    "/chat/completions": (_completion, _completion_stream),
    "/messages": (_message, _message_stream),
}
