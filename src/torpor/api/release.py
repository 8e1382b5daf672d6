"""Every response names the release it comes from."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

import torpor
from torpor.core.release import HEADER

_HEADER = (HEADER.encode(), torpor.__version__.encode())


class Released:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), _HEADER]}
            await send(message)

        await self._app(scope, receive, stamped)
