"""Clients that follow proxy variables, where there is no machine around them: what a request names
says where it leads, in place of the address that was connected to.

    CONNECT host:port          a connection to there: TLS is ended here, as if it had been opened
    GET http://host/path       that request; the next one may be to elsewhere
    POST /v1/…                 the deployment's own model, whose URL this port is
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torpor.core.egress import HTTP
from torpor.guest.clients import Client
from torpor.guest.http1 import BadRequest, Head, error_response
from torpor.guest.serving import Backend, Http, Site

CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_REASON_CHARS_MAX = 300  # of a status line, which is all that most clients show


class Nowhere(NamedTuple):
    """Why a connection is not opened. `code` is that of the NOTE."""

    code: str
    message: str


# Where a tunnel to this host and port leads.
Find = Callable[[str, int], Site | Nowhere]


class Proxied(Http):
    def __init__(
        self,
        client: Client,
        backend: Backend,
        own: Site,
        find: Find,
        tunnel: Callable[[Client, Site], None],
    ) -> None:
        super().__init__(client, backend, own)
        self._own, self._find, self._tunnel = own, find, tunnel
        self._tunnelling = False

    @property
    def wants(self) -> bool:
        return not self._tunnelling and super().wants

    def _begin(self, head: Head) -> None:
        if head.method == "CONNECT":
            self._connect(head)
            return
        if head.target.startswith("/") or head.target == "*":
            self._site = self._own
        else:
            self._site = _site_named(head.target)
        super()._begin(head)

    def _connect(self, head: Head) -> None:
        host, port = _authority(head.target, None)
        if head.length != 0 or self._parser.buffered:
            raise BadRequest(400, "more was sent before there was a connection")
        found = self._find(host, port)
        if isinstance(found, Site):
            self._tunnelling = True
            self._tunnel(self._client, found)
            return
        self._backend.streams.note(found.code, host, port)
        reason = " ".join(found.message.split())[:_REASON_CHARS_MAX]
        self._client.send(
            error_response("", 403, found.code, found.message, retry=False, reason=reason)
        )
        self._client.finish()


def _site_named(target: str) -> Site:
    """Any that is named: what no rule knows the host refuses, in words."""
    scheme, sep, rest = target.partition("://")
    if not sep or scheme.lower() != HTTP:
        raise BadRequest(400, f"{target[:80]!a}: only http:// is asked for so; for TLS, CONNECT")
    host, port = _authority(rest.partition("/")[0].partition("?")[0], 80)
    return Site(HTTP, host, port)


def _authority(text: str, port: int | None) -> tuple[str, int]:
    """Host and port; without one, `port`. Raises BadRequest."""
    host, colon, digits = text.rpartition(":") if ":" in text else (text, "", "")
    if not colon and port is not None:
        digits = str(port)
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 5 else 0
    if not host or not 0 < number < 65536:
        raise BadRequest(400, f"{text[:80]!a} is not a host and a port")
    return host.lower().removesuffix("."), number
