"""`python -m torpor.egress --home DIR`: serve `run/broker.sock` until SIGTERM.

At most one broker serves a data directory: the others find `run/broker.lock` held, say so and
end well. The socket is made mode 0600 before anything can connect to it.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import logging
import os
import signal
import socket
import sys
from pathlib import Path

from torpor.core.errors import TorporError
from torpor.core.home import Home
from torpor.egress.choice import choose
from torpor.egress.exchange import Exchanges
from torpor.egress.judge import PolicyJudge
from torpor.egress.sealed import opener
from torpor.egress.server import Broker

_log = logging.getLogger("torpor.egress")


def main() -> int:
    parser = argparse.ArgumentParser(prog="torpor.egress", description="torpor's broker")
    parser.add_argument("--home", type=Path, required=True)
    home = Home(parser.parse_args().home.absolute()).create()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
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
        asyncio.run(_serve(home, path))
    except TorporError as error:
        _log.error("%s. %s", error.message, error.hint)
        return 1
    finally:
        path.unlink(missing_ok=True)
    return 0


async def _serve(home: Home, path: Path) -> None:
    model = choose(os.environ, home.run)
    broker = Broker(model, PolicyJudge.of(home, opener(home)), Exchanges())
    path.unlink(missing_ok=True)  # left by a broker that was killed: the lock says it is gone
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        before = os.umask(0o177)
        listener.bind(str(path))
        os.umask(before)
        loop.add_signal_handler(signal.SIGTERM, stopped.set)
        server = await loop.create_unix_server(broker.connection, sock=listener)
        _log.info("serving %s; upstream: %s", path, model.description)
        await stopped.wait()
        server.close()
        await broker.close()


if __name__ == "__main__":
    sys.exit(main())
