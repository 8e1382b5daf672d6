"""A TCP port for what is public, where the server was told to have one.

    TORPOR_LISTEN=HOST:PORT      torpor up --listen: where; nothing is opened without it
    TORPOR_PUBLIC_URL=URL        torpor up --public-url: what others reach it by, if not by that, as
                                 behind a proxy that speaks TLS; links begin with it

The port is bound before the server does anything, so that one that cannot be had is said at once.
It speaks plain HTTP: whoever should not read along must be kept out by a proxy before it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.types import ASGIApp

from torpor.api.serving import Uvicorn
from torpor.core.errors import HostError, Invalid
from torpor.core.limits import DRAIN_S

LISTEN, PUBLIC_URL = "TORPOR_LISTEN", "TORPOR_PUBLIC_URL"
_BACKLOG = 128
_KEEP_ALIVE_S = 10
_MANY = 256  # connections at once


@dataclass(frozen=True)
class Listener:
    """`bound` is None where only a URL was told: a proxy leads from there to the Unix socket."""

    url: str
    bound: socket.socket | None

    async def serve(self, app: ASGIApp, closing: asyncio.Event) -> None:
        """Until `closing`."""
        if self.bound is None:
            return
        server = Uvicorn(
            app,
            DRAIN_S,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            limit_concurrency=_MANY,
        )
        await server.serve_until(closing, self.bound)

    @property
    def ports(self) -> list[int]:
        return [] if self.bound is None else [self.bound.getsockname()[1]]

    def close(self) -> None:
        if self.bound is not None:
            self.bound.close()


def listener(environment: Mapping[str, str] = os.environ) -> Listener | None:
    """What the environment asks for, bound. Raises Invalid, HostError."""
    listen, url = environment.get(LISTEN, ""), environment.get(PUBLIC_URL, "")
    if url:
        url = _base(url)
    if not listen:
        return Listener(url, None) if url else None
    host, port = _address(listen)
    bound = _bind(host, port)
    port = bound.getsockname()[1]
    named = f"[{host}]" if ":" in host else host
    return Listener(url or f"http://{named}:{port}", bound)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise Invalid(
            f"{text!r} is not an address to listen at",
            hint="Give HOST:PORT, such as 127.0.0.1:8080.",
        )
    return host, int(port)


def _base(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise Invalid(
            f"{url!r} is not a URL that links can begin with",
            hint="Give one such as https://agents.example.com",
        )
    return url.rstrip("/")


def _bind(host: str, port: int) -> socket.socket:
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise HostError(f"cannot listen at {host}: {error}") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise HostError(
            f"cannot listen at {host}:{port}: {error.strerror}", hint="Choose another address."
        ) from error
    bound.setblocking(False)
    return bound
