"""HTTP/1.1 to one server, over its Unix socket or TCP, with TLS or without.

By the standard library, since most commands ask a question or two, and a larger client takes longer
to load than the server to answer.

A connection that has given its response to the end is used again. No request is sent twice, since
what became of the first is not known; but for a GET, if it finds that such a connection is gone.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

_CHUNK = 1 << 18
_LEAST_S = 0.001  # no time at all would be no timeout

Body = bytes | Iterable[bytes] | None


class Broken(Exception):
    """Nobody answers, or not to the end; `str` says why, as the end of a sentence."""


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("torpor")
        self._path = path

    def connect(self) -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise OSError("this system has no Unix sockets")
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Response:
    """A response whose body is read once: `json`, `chunks` or `lines`."""

    def __init__(self, http: HTTPResponse, hurry: Callable[[], None]) -> None:
        """`hurry` is called before each part of the body is waited for."""
        self._http, self._hurry = http, hurry
        self.status = http.status
        self.reason = http.reason
        self.headers = {name.lower(): value for name, value in http.headers.items()}

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> Any:
        """Raises ValueError."""
        return json.loads(self._http.read())

    def chunks(self) -> Iterator[bytes]:
        """The body as it comes."""
        while True:
            self._hurry()
            if not (chunk := self._http.read1(_CHUNK)):
                break
            yield chunk
        if self._http.length:  # what it said it would send, and did not
            raise IncompleteRead(b"", self._http.length)

    def lines(self) -> Iterator[str]:
        """The body's lines, each as soon as it is whole."""
        rest = b""
        for chunk in self.chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.decode().removesuffix("\r")
        if rest:
            yield rest.decode()


class Transport:
    """Safe to use from several threads."""

    def __init__(self, base: str | Path, headers: Mapping[str, str]) -> None:
        """`base` is a URL, or the path of a Unix socket."""
        self._unix = base if isinstance(base, Path) else None
        self._url = urlsplit("" if isinstance(base, Path) else base)
        self._headers = headers
        self._idle: deque[HTTPConnection] = deque()

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None,
        until: float | None = None,
    ) -> Iterator[Response]:
        """`timeout_s` is how long the server may say nothing, `until`, of time.monotonic(), when it
        is over whatever it says. Raises Broken, in the block too."""
        query = f"?{urlencode(params)}" if params else ""
        target = f"{self._url.path}{path}{query}"
        kept = self._kept(_left(timeout_s, until))
        connection = kept or self._opened(_left(timeout_s, until))

        def hurry() -> None:
            if until is not None and connection.sock is not None:
                connection.sock.settimeout(_left(timeout_s, until))

        again = False
        try:
            sent = {**self._headers, **(headers or {})}
            try:
                response = _exchange(connection, method, target, body, sent)
            except (ConnectionError, HTTPException):
                if kept is None or method != "GET":
                    raise
                connection.close()
                connection = self._opened(_left(timeout_s, until))
                response = _exchange(connection, method, target, body, sent)
            yield Response(response, hurry)
            again = response.isclosed() and not response.will_close
        except TimeoutError as error:
            raise Broken("it took too long") from error
        except (ConnectionError, HTTPException) as error:
            raise Broken("it went away while answering") from error
        finally:
            if again:
                self._idle.append(connection)
            else:
                connection.close()

    def close(self) -> None:
        """Of connections that wait to be used again."""
        for connection in self._taken():
            connection.close()

    def _taken(self) -> Iterator[HTTPConnection]:
        """Those that wait, each for one thread."""
        with suppress(IndexError):
            while True:
                yield self._idle.pop()

    def _kept(self, timeout_s: float | None) -> HTTPConnection | None:
        """One that was used before, and still seems to be one."""
        for connection in self._taken():
            if connection.sock is not None and not _readable(connection.sock):
                connection.sock.settimeout(timeout_s)
                return connection
            connection.close()  # so has the server, that is what there was to read
        return None

    def _opened(self, timeout_s: float | None) -> HTTPConnection:
        connection = self._new()
        connection.timeout = timeout_s
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise Broken(_why(error)) from error
        return connection

    def _new(self) -> HTTPConnection:
        if self._unix is not None:
            return _UnixConnection(self._unix)
        host = self._url.hostname or ""
        if self._url.scheme != "https":
            return HTTPConnection(host, self._url.port)
        return HTTPSConnection(host, self._url.port, context=_trusted())


def _left(timeout_s: float | None, until: float | None) -> float | None:
    if until is None:
        return timeout_s
    left = max(until - time.monotonic(), _LEAST_S)
    return left if timeout_s is None else min(left, timeout_s)


def _readable(connection: socket.socket) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        return bool(selector.select(0))


def _exchange(
    connection: HTTPConnection, method: str, target: str, body: Body, headers: Mapping[str, str]
) -> HTTPResponse:
    # A server that does not want all of a body says so, and reads no further.
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.request(method, target, body, dict(headers))
    return connection.getresponse()


def _trusted() -> Any:
    import ssl

    context = ssl.create_default_context()
    if not {"SSL_CERT_FILE", "SSL_CERT_DIR"} & os.environ.keys():
        import certifi  # some installations of Python know no authorities of their system

        context.load_verify_locations(certifi.where())
    return context


def _why(error: OSError) -> str:
    import ssl

    match error:
        case ConnectionRefusedError() | FileNotFoundError():
            return "it is not running"
        case TimeoutError():
            return "it took too long"
        case socket.gaierror():
            return "there is no host of that name"
        case ssl.SSLCertVerificationError():
            whose = "SSL_CERT_FILE may name the authority that issued it"
            return f"its certificate is not trusted, {error.verify_message} ({whose})"
        case ssl.SSLError():
            return f"it does not speak TLS ({error.reason})"
    return error.strerror or str(error)
