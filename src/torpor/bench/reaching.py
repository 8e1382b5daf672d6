# /// script
# requires-python = ">=3.11"
# [tool.torpor]
# memory = "256M"
# disk = "128M"
# ///
"""What `torpor bench egress` runs in a machine: an agent that asks a host for something small again
and again, by a connection that it keeps. Which host it may ask its deployment says."""

import contextlib
import http.client
import ssl
import time
from collections.abc import Callable

import torpor

MODEL = "/v1/chat/completions"


@torpor.agent
def reach(host: str, port: int, times: int) -> dict[str, object]:
    """Milliseconds of each request, of new connections, and of connections with their handshake."""
    context = ssl.create_default_context()
    with contextlib.closing(_connected(host, port, context)) as connection:
        small = [_timed(lambda: _ask(connection, "/small")) for _ in range(times)]
    handshakes = []
    for _ in range(max(3, times // 10)):
        began = time.perf_counter()
        connection = _connected(host, port, context)
        handshakes.append(1000 * (time.perf_counter() - began))
        connection.close()
    return {"small_ms": small, "handshake_ms": handshakes}


@torpor.agent
def follow(host: str, port: int, times: int) -> int:
    """Answers of a model that stream: how many bytes they had."""
    with contextlib.closing(_connected(host, port, ssl.create_default_context())) as connection:
        answers = (_ask(connection, MODEL, b'{"stream": true}') for _ in range(times))
        return sum(map(len, answers))


def _connected(host: str, port: int, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    connection = http.client.HTTPSConnection(host, port, context=context)
    connection.connect()
    return connection


def _ask(connection: http.client.HTTPSConnection, target: str, body: bytes | None = None) -> bytes:
    connection.request("GET" if body is None else "POST", target, body)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{target}: {answer.status}: {body[:1000]!r}")
    return body


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)
