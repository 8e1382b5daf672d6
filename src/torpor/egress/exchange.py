"""One request out, and its answer as it comes: HTTP/1.1 by aiohttp.

What is sent is built from an `Admission`, never from bytes of a guest's: target and headers as they
were judged, the body framed by us. Connections are made to addresses that were checked, and kept;
TLS verifies the name. Redirects, cookies, proxies, compression and HTTP/2 are the client's
business, or nobody's. A request goes out at most once: what cannot be connected is tried again,
since nothing was sent.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import ip_address

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from multidict import CIMultiDict
from yarl import URL

from torpor.core.egress import HTTPS, TCP
from torpor.core.errors import Invalid
from torpor.core.hostnames import normalize_host
from torpor.egress.admission import Admission, Charge, Headers, Leak, Outgoing, Redaction
from torpor.egress.answer import CutOff, Listener, NoAnswer, Seen, over_budget
from torpor.egress.relay import READ_BYTES, hand_on, relay, take_over
from torpor.wire.streams import HEADERS_CHARS_MAX, HEADERS_MAX, PAYLOAD_BYTES_MAX

CONNECT_S = 10.0
ANSWER_S = 600.0  # between two pieces of an answer, and before the first
KEPT_S = 30.0  # an idle connection
CONNECT_DELAYS_S = (0.2, 1.0)
HEADER_BYTES_MAX = 32 * 1024
HEAD_BYTES_MAX = PAYLOAD_BYTES_MAX - 1024  # as JSON

# RFC 9110 §7.6.1, and what is written for the connection that is made here.
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    }
)
_OURS = HOP_BY_HOP | {"host", "content-length", "expect"}
_UPGRADE = "websocket"  # nothing else: h2c and the like would be tunnels
# aiohttp writes capital letters, whatever was judged.
_METHOD = re.compile(r"[A-Z][A-Z0-9_-]*")
_NO_METHODS = frozenset({"CONNECT"})
_NOT_AUTOMATIC = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")

_addresses: ContextVar[Sequence[str]] = ContextVar("addresses")


class _Checked(AbstractResolver):
    """Names lead to the addresses that the judge has checked for this request."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in _addresses.get()
        ]

    async def close(self) -> None:
        return


def trust() -> ssl.SSLContext:
    """The system's authorities; certifi's where there are none."""
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if paths.cafile is None and paths.capath is None and not context.cert_store_stats()["x509_ca"]:
        import certifi

        context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


@dataclass(frozen=True)
class Call:
    """What `send` sends. A `body` of None is none at all."""

    method: str
    url: URL
    headers: Headers
    body: bytes | AsyncIterator[bytes] | None
    tls: ssl.SSLContext | bool = True
    host: str = ""  # for people
    length: int | None = None  # of a body that comes in pieces, if it is known
    upgrade: bool = False
    redaction: Redaction | None = None
    charge: Charge | None = None
    answer_bytes_max: int | None = None


class Exchanges:
    """Sends what was admitted. Use it within one event loop, and close it."""

    def __init__(
        self,
        *,
        connect_s: float = CONNECT_S,
        answer_s: float = ANSWER_S,
        delays_s: Sequence[float] = CONNECT_DELAYS_S,
    ) -> None:
        self._delays_s, self._connect_s, self._answer_s = delays_s, connect_s, answer_s
        self._opened: tuple[aiohttp.ClientSession, ssl.SSLContext] | None = None

    def _session(self) -> tuple[aiohttp.ClientSession, ssl.SSLContext]:
        """Once there is a loop: aiohttp's wants one that runs."""
        if self._opened is None:
            tls = trust()
            connector = aiohttp.TCPConnector(
                resolver=_Checked(),
                use_dns_cache=False,
                limit=0,
                keepalive_timeout=KEPT_S,
                ssl=tls,
            )
            kept = session(connector, connect_s=self._connect_s, answer_s=self._answer_s)
            self._opened = kept, tls
        return self._opened

    async def send(
        self,
        outgoing: Outgoing,
        admission: Admission,
        body: bytes | AsyncIterator[bytes] | None,
        listener: Listener,
        seen: Seen,
        *,
        answer_bytes_max: int | None = None,
    ) -> None:
        """The `body` of one that asks for an upgrade is what follows the answer's head. Raises
        NoAnswer, CutOff."""
        request = outgoing.request
        session, tls = self._session()
        call = Call(
            method=request.method,
            url=url_of(request.scheme, request.host, request.port, admission.target),
            headers=_outgoing_headers(outgoing, admission),
            body=body,
            tls=(admission.tls or tls) if request.scheme == HTTPS else True,
            host=request.host,
            length=declared_length(outgoing.headers),
            upgrade=bool(outgoing.upgrade),
            redaction=admission.redaction,
            charge=admission.charge,
            answer_bytes_max=answer_bytes_max,
        )
        # Read where a connection is made, in this task.
        _addresses.set(admission.addresses)
        await send(session, call, listener, seen, self._delays_s)

    async def connect(
        self, outgoing: Outgoing, admission: Admission, seen: Seen
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A raw connection, for a `tcp` rule. Raises NoAnswer."""
        failure: Exception = OSError("it has no address")
        for address in admission.addresses:
            try:
                async with asyncio.timeout(self._connect_s):
                    reader, writer = await asyncio.open_connection(
                        address, outgoing.request.port, limit=READ_BYTES
                    )
            except (OSError, TimeoutError) as error:
                failure = error
                continue
            seen.address = address
            return reader, writer
        seen.reached = False
        raise _unreachable(outgoing.request.host, failure)

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened[0].close()


def session(
    connector: aiohttp.BaseConnector,
    *,
    connect_s: float = CONNECT_S,
    answer_s: float = ANSWER_S,
    trust_env: bool = False,
) -> aiohttp.ClientSession:
    once = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=trust_env,
        skip_auto_headers=_NOT_AUTOMATIC,
        timeout=aiohttp.ClientTimeout(
            total=None, connect=None, sock_connect=connect_s, sock_read=answer_s
        ),
        max_line_size=HEADER_BYTES_MAX,
        max_field_size=HEADER_BYTES_MAX,
        read_bufsize=READ_BYTES,
    )
    # aiohttp repeats idempotent requests whose kept connection died: they may have been heard.
    once._retry_connection = False
    return once


def structural_fault(outgoing: Outgoing) -> str:
    """What no upstream may get, whatever the rules say; or ""."""
    request = outgoing.request
    try:
        normalize_host(request.host, "the host")
    except Invalid as error:
        return error.message
    if request.scheme != TCP and not _METHOD.fullmatch(request.method):
        return "the method must be a word in capital letters"
    if request.method in _NO_METHODS:
        return f"{request.method} would make a tunnel, which only a tcp rule gives"
    if outgoing.upgrade and outgoing.upgrade.lower() != _UPGRADE:
        return f"an upgrade to {outgoing.upgrade[:32]} is not possible, only to {_UPGRADE}"
    if request.scheme != TCP and not request.target.startswith("/"):
        return "the target must be a path"
    if "#" in request.target or "\\" in request.target:
        return "the target has a character that must be written with %"
    lengths = [value for name, value in outgoing.headers if name == "content-length"]
    if len(lengths) > 1 or any(not value.isascii() or not value.isdigit() for value in lengths):
        return "content-length must be one number"
    for name, value in outgoing.headers:
        try:
            value.encode("latin-1").decode()
        except UnicodeDecodeError:
            return f"the value of {name[:100]} is not UTF-8"
    return ""


def declared_length(headers: Headers) -> int | None:
    return next((int(value) for name, value in headers if name == "content-length"), None)


def url_of(scheme: str, host: str, port: int, target: str) -> URL:
    """Goes out verbatim: what was judged is what is sent. Raises NoAnswer."""
    path, mark, query = target.partition("?")
    try:
        url = URL.build(
            scheme=scheme, host=host, port=port, path=path, query_string=query, encoded=True
        )
    except ValueError as error:
        # Not in the words of the error: a secret may be in the target by now.
        raise NoAnswer(400, "bad_target", "the target makes no URL", retry=False) from error
    if url.raw_path_qs != target and not (mark and not query):
        raise NoAnswer(400, "bad_target", "the target cannot be sent as it is", retry=False)
    return url


def end_to_end(headers: Headers) -> Headers:
    """Without those of the guest's own connection, and those that it names as such."""
    named = {
        word.strip().lower()
        for name, value in headers
        if name == "connection"
        for word in value.split(",")
    }
    return [(name, value) for name, value in headers if name not in HOP_BY_HOP | named]


def _outgoing_headers(outgoing: Outgoing, admission: Admission) -> Headers:
    headers = [(name, value) for name, value in admission.headers if name not in _OURS]
    if outgoing.upgrade:
        headers += [("connection", "Upgrade"), ("upgrade", _UPGRADE)]
    return headers


async def send(
    session: aiohttp.ClientSession,
    call: Call,
    listener: Listener,
    seen: Seen,
    delays_s: Sequence[float],
) -> None:
    """Raises NoAnswer, CutOff."""
    failure: Exception
    for delay_s in (*delays_s, None):
        sender = _Sender(call, seen)
        try:
            await sender.run(session, listener)
            return
        except aiohttp.ClientConnectorCertificateError as error:
            problem = f"the certificate of {call.host} is not valid: {error.certificate_error}"
            seen.reached = False
            raise NoAnswer(502, "upstream_certificate", problem, retry=False) from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            failure = error
            if delay_s is not None:
                await asyncio.sleep(delay_s)
        except (aiohttp.ClientError, TimeoutError, Leak, OSError, ValueError) as error:
            raise sender.failure(error) from error
    seen.reached = False
    raise _unreachable(call.host, failure) from failure


class _Sender:
    def __init__(self, call: Call, seen: Seen) -> None:
        self._call, self._seen = call, seen
        self._refused: NoAnswer | None = None  # why no more of the body may go out
        self._begun = False  # the head was handed on

    async def run(self, session: aiohttp.ClientSession, listener: Listener) -> None:
        call, body = self._call, self._body()
        # aiohttp writes UTF-8; a header's characters are bytes (`structural_fault`).
        headers = CIMultiDict(
            (name, value.encode("latin-1").decode()) for name, value in call.headers
        )
        if call.length is not None and body is not None and not isinstance(body, bytes):
            headers["content-length"] = str(call.length)
        async with session.request(
            call.method,
            call.url,
            headers=headers,
            data=body,
            allow_redirects=False,
            ssl=call.tls,
        ) as response:
            self._note_address(response)
            if response.status == 101:
                await self._upgrade(response, listener)
                return
            if response.status < 200:
                raise self._no_answer("bad_answer", f"ended with status {response.status}")
            self._head(response, listener)
            await hand_on(
                *(response.content.readany, listener, self._seen, call),
                host=call.host,
                bytes_max=call.answer_bytes_max,
            )

    def failure(self, error: Exception) -> NoAnswer | CutOff:
        host = self._call.host
        if (refused := self._refused) is not None:
            return CutOff(refused.code, refused.message) if self._begun else refused
        if isinstance(error, Leak):
            code, status = "secret_in_answer", 502
            problem = f"{host} answered, but {error}"
        elif isinstance(error, TimeoutError):
            code, status = "upstream_timed_out", 504
            problem = f"{host} was connected but did not answer in time"
        else:
            code, status = "upstream_broken", 502
            problem = f"{host} ended the connection before its answer was whole ({_name(error)})"
        if self._begun:
            return CutOff(code, problem)
        return NoAnswer(
            status, code, problem, retry=code in ("upstream_timed_out", "upstream_broken")
        )

    def _body(self) -> bytes | AsyncIterator[bytes] | None:
        body, charge = self._call.body, self._call.charge
        if body is None or self._call.upgrade:
            return None
        if isinstance(body, bytes):
            if charge is not None and (refused := charge.sent(body)):
                raise over_budget(charge, refused)
            self._seen.sent = len(body)
            return body
        return self._pieces(body)

    async def _pieces(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        charge, length, seen = self._call.charge, self._call.length, self._seen
        async for piece in body:
            if charge is not None and (refused := charge.sent(piece)):
                self._refuse(over_budget(charge, refused))
            if length is not None and seen.sent + len(piece) > length:
                self._refuse(_bad_body("longer"))
            seen.sent += len(piece)
            yield piece
        if length is not None and seen.sent < length:
            self._refuse(_bad_body("shorter"))

    def _refuse(self, refused: NoAnswer) -> None:
        """The body ends here, and with it the connection: aiohttp makes an error of it."""
        self._refused = refused
        raise OSError(refused.message)

    def _note_address(self, response: aiohttp.ClientResponse) -> None:
        connection = response.connection
        if connection is not None and connection.transport is not None:
            peer = connection.transport.get_extra_info("peername")
            self._seen.address = str(peer[0]) if isinstance(peer, tuple) else ""

    def _head(self, response: aiohttp.ClientResponse, listener: Listener) -> None:
        headers: Headers = end_to_end(_readable(response))
        limit = self._call.answer_bytes_max
        if limit is not None and (response.content_length or 0) > limit:
            raise self._no_answer("reply_too_large", f"answered with more than {limit:,} bytes")
        if self._call.redaction is not None:
            headers = self._call.redaction.head(headers)
        self._seen.status, self._seen.headers = response.status, headers
        self._begun = True
        listener.head(response.status, headers)

    async def _upgrade(self, response: aiohttp.ClientResponse, listener: Listener) -> None:
        call, connection = self._call, response.connection
        if not call.upgrade or connection is None or connection.protocol is None:
            raise self._no_answer("bad_answer", "changed the protocol, which nobody wanted")
        assert call.body is not None and not isinstance(call.body, bytes)
        reader, writer = take_over(connection.protocol)
        try:
            headers: Headers = [
                (name, value)
                for name, value in _readable(response)
                if name not in HOP_BY_HOP or name in ("connection", "upgrade")
            ]
            if call.redaction is not None:
                headers = call.redaction.head(headers)
            self._seen.status, self._seen.headers = 101, headers
            self._begun = True
            listener.head(101, headers)
            await relay(reader, writer, call.body, listener, self._seen, call)
        finally:
            writer.close()
            response.close()  # else aiohttp would look whether the connection can be used again

    def _no_answer(self, code: str, problem: str) -> NoAnswer:
        return NoAnswer(502, code, f"{self._call.host} {problem}", retry=False)


def _readable(response: aiohttp.ClientResponse) -> Headers:
    """The headers that a frame can have: all but what is broken."""
    headers = [
        (name.decode("latin-1").lower(), value.decode("latin-1"))
        for name, value in response.raw_headers
    ]
    headers = [(name, value) for name, value in headers if _is_plain(value)]
    chars = sum(len(name) + len(value) for name, value in headers)
    # A character is at most six bytes of a frame, and a frame that is too large ends a connection.
    crowded = 6 * chars > HEAD_BYTES_MAX and len(json.dumps(headers)) > HEAD_BYTES_MAX
    if len(headers) > HEADERS_MAX or chars > HEADERS_CHARS_MAX or crowded:
        raise NoAnswer(502, "reply_too_large", "the answer's headers are too large", retry=False)
    return headers


def _is_plain(value: str) -> bool:
    return all(c == "\t" or c >= " " for c in value)


def _bad_body(how: str) -> NoAnswer:
    return NoAnswer(400, "bad_body", f"the body is {how} than its length says", retry=False)


def _unreachable(host: str, failure: Exception) -> NoAnswer:
    return NoAnswer(
        502, "upstream_unreachable", f"{host} could not be reached: {failure} ({_name(failure)})"
    )


def _name(error: Exception) -> str:
    return type(error).__name__
