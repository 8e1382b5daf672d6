"""How the server's sockets are served: by uvicorn, as a part of a process that has more to do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp


class Uvicorn(uvicorn.Server):
    def __init__(self, app: ASGIApp, drain_s: int, **more: Any) -> None:
        config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            access_log=False,  # paths may be secrets
            log_config=None,
            log_level="warning",
            timeout_graceful_shutdown=drain_s,
            **more,
        )
        super().__init__(config)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are `torpor.api.server`'s: uvicorn raises a signal again when it is done, which
        would end the process before the service has stopped."""
        yield

    async def serve_until(self, closing: asyncio.Event, bound: socket.socket) -> None:
        serving = asyncio.create_task(self.serve(sockets=[bound]))
        await closing.wait()
        self.should_exit = True
        await serving
