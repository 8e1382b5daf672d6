"""How large a body may be, counted while it arrives: a client need not state its length."""

from __future__ import annotations

import math
import re

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from torpor.core.agentfile import FILES_BYTES_MAX
from torpor.core.errors import Invalid
from torpor.core.runfiles import FILE_BYTES_MAX

BODY_BYTES_MAX = 2 * 1024 * 1024
# As many bytes of files as an agent may have, in base64 (4 characters for 3 bytes).
DEPLOY_BYTES_MAX = FILES_BYTES_MAX * 4 // 3 + BODY_BYTES_MAX
DEPLOY_PATH, IMPORT_PATH = "/v1/agents", "/v1/imports"
RUNS_PATH, FILES_PATH = "/v1/runs", "/v1/files"
# Imports and files are taken as they come, none of them in memory.
_MOST = {
    DEPLOY_PATH: float(DEPLOY_BYTES_MAX),
    IMPORT_PATH: math.inf,
    FILES_PATH: float(FILE_BYTES_MAX),
}
# What to do instead.
_HINTS = {
    DEPLOY_PATH: "Leave out what is no code, and give data to each run: torpor run --file DATA.",
    RUNS_PATH: "Upload what is large, POST /v1/files, and name it in `files`: torpor run --file.",
    FILES_PATH: "Split the file, or have the agent fetch it.",
}
_HINT = "Put what is large where the agent can fetch it, and send its address."
_STDIN = re.compile(r"/v1/runs/[^/]+/execs/[^/]+/stdin")  # what a command reads, as it comes


def forget_body(request: Request) -> None:
    """It was read. Kept, as it is for whoever reads it again, it would be there, twice, until the
    answer has ended."""
    for each in ("_body", "_json"):
        vars(request).pop(each, None)


class BodyLimit:
    """ASGI middleware: a body beyond its limit is refused with 413 (rule 13)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = _MOST.get(scope["path"], BODY_BYTES_MAX)
        if _STDIN.fullmatch(scope["path"]):
            most = math.inf
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        length = int(stated) if stated.isdigit() else 0
        taken = 0

        def refused() -> HTTPException:
            words = f"the body is larger than {most:,.0f} bytes; that is the limit"
            error = HTTPException(413, words)
            error.__cause__ = Invalid(words, hint=_HINTS.get(scope["path"], _HINT))
            return error

        async def counted() -> Message:
            nonlocal taken
            # The stated length refuses a large body before its first byte is read.
            if length > most:
                raise refused()
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:
                raise refused()
            return message

        await self._app(scope, counted, send)
