"""`python -m torpor.egress --home DIR`: serve `run/broker.sock` until SIGTERM.

At most one broker serves a data directory: the others find `run/broker.lock` held, say so and
end well. The socket is made mode 0600 before anything can connect to it.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from torpor.core.errors import TorporError
from torpor.core.home import Home
from torpor.egress.app import create_app
from torpor.egress.choice import choose

STOP_S_MAX = 5  # what requests in flight get at SIGTERM

_log = logging.getLogger("torpor.egress")


def main() -> int:
    parser = argparse.ArgumentParser(prog="torpor.egress", description="torpor's model gateway")
    parser.add_argument("--home", type=Path, required=True)
    home = Home(parser.parse_args().home.absolute()).create()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # uvicorn handles the signal, puts this back, and raises it again when it has shut down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    # Never closed: whoever waits for the lock waits until this process is gone.
    lock = os.open(home.run / "broker.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _log.info("another broker serves %s", home.root)
        return 0
    path = home.socket("broker")
    try:
        _serve(home, path)
    except TorporError as error:
        _log.error("%s. %s", error.message, error.hint)
        return 1
    finally:
        path.unlink(missing_ok=True)
    return 0


def _serve(home: Home, path: Path) -> None:
    upstream = choose(os.environ, home.run)
    path.unlink(missing_ok=True)  # left by a broker that was killed: the lock says it is gone
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        # uvicorn's own way to a Unix socket opens it to every user.
        before = os.umask(0o177)
        listener.bind(str(path))
        os.umask(before)
        config = uvicorn.Config(
            create_app(upstream),
            access_log=False,
            log_config=None,
            log_level="warning",
            server_header=False,
            date_header=False,  # an answer has its own
            timeout_graceful_shutdown=STOP_S_MAX,
        )
        _log.info("serving %s; upstream: %s", path, upstream.description)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    sys.exit(main())
