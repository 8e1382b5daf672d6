"""ETags: who has read something and asks again is told in a few bytes that it is as it was.

For what is read (GET) as JSON: its tag is a digest of what is said, so that it holds for anybody,
after restarts, and for whatever route there will be. Streams have none.
"""

from __future__ import annotations

from hashlib import blake2b

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_JSON = "application/json"


class Tagged:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        known = Headers(scope=scope).get("if-none-match", "")
        began: Message | None = None

        async def tagging(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                if message["status"] == 200 and Headers(raw=message["headers"]).get(
                    "content-type", ""
                ).startswith(_JSON):
                    began = message  # held back: the body, which comes whole, gives the tag
                    return
            elif began is not None:
                start, began = began, None
                if not message.get("more_body", False):
                    start, message = _tagged(start, message, known)
                await send(start)
            await send(message)

        await self._app(scope, receive, tagging)


def _tagged(start: Message, body: Message, known: str) -> tuple[Message, Message]:
    tag = f'"{blake2b(body.get("body", b""), digest_size=12).hexdigest()}"'
    headers = MutableHeaders(raw=list(start["headers"]))
    headers["etag"] = tag
    headers["cache-control"] = "no-cache"  # ask each time
    if tag not in [each.strip().removeprefix("W/") for each in known.split(",")]:
        return {**start, "headers": headers.raw}, body
    for name in ("content-length", "content-type"):
        del headers[name]
    return {**start, "status": 304, "headers": headers.raw}, {**body, "body": b""}
