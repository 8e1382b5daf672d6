"""How large a body may be, counted while it arrives: a client need not tell its length."""

from __future__ import annotations

import math

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from torpor.model.agentfile import FILES_BYTES_MAX

BODY_BYTES_MAX = 2 * 1024 * 1024
# As many bytes of files as an agent may have, in base64 (4 characters for 3 bytes).
DEPLOY_BYTES_MAX = FILES_BYTES_MAX * 4 // 3 + BODY_BYTES_MAX
DEPLOY_PATH, IMPORT_PATH = "/v1/agents", "/v1/imports"
# An import is taken as it comes, none of it in memory.
_MOST = {DEPLOY_PATH: float(DEPLOY_BYTES_MAX), IMPORT_PATH: math.inf}


class BodyLimit:
    """ASGI middleware: a body beyond its limit is refused with 413 (rule 13)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = _MOST.get(scope["path"], BODY_BYTES_MAX)
        told = dict(scope["headers"]).get(b"content-length", b"0")
        length = int(told) if told.isdigit() else 0
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            # The told length refuses a large body before its first byte is read.
            if length > most:
                raise HTTPException(413, f"the body is larger than {most:,} bytes")
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:
                raise HTTPException(413, f"the body is larger than {most:,} bytes")
            return message

        await self._app(scope, counted, send)
