"""The server process: one per data directory, on a Unix socket that only its user may open.

Order of things: the lock (run/server.lock, held for life: whoever has it is the server), the
public port if one is asked for (`torpor.api.listening`), the service, the socket, then
run/server.json. A socket file that is there before is a dead server's, as the lock was free.
SIGTERM, SIGINT and POST /v1/shutdown all ask for the same end (`torpor.api.stopping`): runs are
handed over, streams end, requests in flight finish, the service stops. A second signal cuts the
first part short.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.types import ASGIApp

import torpor
from torpor.api import serverlog
from torpor.api.app import create_app
from torpor.api.listening import Listener, listener
from torpor.api.public import Outside
from torpor.api.serving import Uvicorn
from torpor.api.stopping import Stop
from torpor.core.errors import Conflict, Invalid, TorporError
from torpor.core.home import Home
from torpor.core.memory import keep_small
from torpor.service.service import Service

_SERVER_DRAIN_S = 10
_LOCK_TRIES, _LOCK_RETRY_S = 10, 0.05
_SOCKET_PATH_BYTES_MAX = 107  # sun_path of Linux, less its closing zero

log = logging.getLogger("torpor.api")


def main(home: Home) -> int:
    """Serve until told to stop. Gives the exit code; what went wrong is on stderr, in words."""
    from torpor.control.service.service import Service as ControlService

    try:
        serverlog.configure()
        keep_small()
        asyncio.run(serve(home, ControlService.open))
    except TorporError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(error.hint, file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before `serve` took the signal over
        return 130
    return 0


async def serve(home: Home, open_service: Callable[[Home], Awaitable[Service]]) -> None:
    """Raises Conflict when another server has this data directory."""
    home.create()
    with _lock(home.run / "server.lock", home):
        public = listener()
        service = await open_service(home)
        try:
            if public is not None:
                service.publish(public.url)
            await _listen(home, service, public)
        finally:
            if public is not None:
                public.close()
            await service.stop()
            log.info("stopped")


async def _listen(home: Home, service: Service, public: Listener | None) -> None:
    app = create_app(service)
    stop: Stop = app.state.stop
    asking: list[asyncio.Task[None]] = []

    def signalled() -> None:
        if asking:
            stop.closing.set()
        asking.append(asyncio.create_task(stop.request()))

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    facts = home.run / "server.json"
    path = home.socket("server")
    server = Uvicorn(app, _SERVER_DRAIN_S)

    async def close() -> None:
        await stop.closing.wait()
        server.should_exit = True

    closer = asyncio.create_task(close())
    bound = _bind(path)
    outside = asyncio.create_task(_serve_outside(app, service, public, stop))
    try:
        known = {"pid": os.getpid(), "version": torpor.__version__, "started_at": time.time()}
        # No agent reaches these, whatever names lead to this host (`torpor.egress.judge`).
        _write(facts, {**known, "ports": public.ports if public is not None else []})
        log.info("serving %s", path)
        # What there is now stays. Looking through it for garbage would stop all for a tenth of a
        # second at times.
        gc.collect()
        gc.freeze()
        await server.serve(sockets=[bound])
        await app.state.loopback.closed()
        await outside
    finally:
        closer.cancel()
        outside.cancel()
        path.unlink(missing_ok=True)
        facts.unlink(missing_ok=True)


async def _serve_outside(
    api: ASGIApp, service: Service, public: Listener | None, stop: Stop
) -> None:
    if public is not None:
        log.info("public at %s", public.url)
        await public.serve(Outside(service, api), stop.closing)


@contextmanager
def _lock(path: Path, home: Home) -> Iterator[None]:
    with path.open("a") as file:
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # A client that asks whether a server lives holds the lock for a moment.
                time.sleep(_LOCK_RETRY_S)
        else:
            raise Conflict(
                f"a server for {home.root} is running already", hint="Stop it with: torpor down"
            )
        yield


def _bind(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES_MAX:
        raise Invalid(
            f"{path} is too long for the path of a Unix socket ({_SOCKET_PATH_BYTES_MAX} bytes)",
            hint="Set TORPOR_HOME to a shorter path.",
        )
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        bound.bind(str(path))
    finally:
        os.umask(mask)
    # Now, not when uvicorn comes to it: server.json tells that one may connect.
    bound.listen(2048)
    bound.setblocking(False)
    return bound


def _write(path: Path, facts: dict[str, object]) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(facts))
    fresh.replace(path)
