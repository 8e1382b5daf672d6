"""A request that goes out, the reply that comes back, and the real API between the two.

`Upstream` is the one seam of the broker; its three kinds are `OpenAIUpstream` (here), `LocalModel`
and `StandIn`. An upstream answers, always: what the other end says passes through as it
is, status and all; where there was no other end it answers with an error of its own, in the shape
of the API that was called (`torpor.core.refusals`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import httpx

from torpor.core import refusals
from torpor.core.errors import Invalid
from torpor.core.placements import SECRET_CHARS_MIN
from torpor.egress.protocol import BODY_BYTES_MAX

TIMEOUT = httpx.Timeout(600, connect=10, pool=None)
CONNECT_RETRY_DELAYS_S = (0.2, 1.0, 3.0)

# Any byte has a character in it, so that odd headers pass through as they are.
_HEADER_ENCODING = "latin-1"
# RFC 9110 §7.6.1, and what httpx writes by itself for the connection that it makes.
_HOP_BY_HOP = frozenset(
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
        "host",
        "content-length",
    }
)
# The caller's own credentials never go out, and no state of the upstream's comes in.
_NOT_SENT = _HOP_BY_HOP | {"authorization", "api-key", "x-api-key", "cookie", "accept-encoding"}
_NOT_RETURNED = _HOP_BY_HOP | {"content-encoding", "set-cookie"}
_OURS = "torpor-"  # what the broker itself says of a call


@dataclass(frozen=True)
class Request:
    """A request that the allow-list let through. Header names are in lower case."""

    method: str
    path: str  # "/v1/…"
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


class Upstream(Protocol):
    @property
    def description(self) -> str:
        """What answers, for people: shown by /health. Holds no secret."""

    async def send(self, request: Request) -> Reply: ...

    async def close(self) -> None: ...


def json_reply(status: int, value: object) -> Reply:
    return Reply(status, {"content-type": "application/json"}, json.dumps(value).encode())


def problem(
    path: str, status: int, code: str, detail: str, hint: str, *, retry: bool = True
) -> Reply:
    """The broker's own refusal or failure of a call of `path`, to be repeated if `retry`."""
    words = f"{detail}. {hint}"
    return Reply(status, refusals.headers(retry=retry), refusals.encoded(path, status, code, words))


async def exchange(
    client: httpx.AsyncClient, request: Request, headers: Mapping[str, str]
) -> Reply:
    """Send `request` below the client's base URL, whose path stands for "/v1". Raises httpx errors.

    `headers` are put over the caller's own.
    """
    kept = {k: v for k, v in request.headers.items() if k not in _NOT_SENT}
    kept |= {"accept-encoding": "identity", **headers}
    url = httpx.URL(request.path.removeprefix("/v1/"), query=request.query.encode() or None)
    async with client.stream(
        request.method,
        url,
        headers=httpx.Headers(kept, encoding=_HEADER_ENCODING),
        content=request.body,
    ) as response:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > BODY_BYTES_MAX:
                return problem(
                    *(request.path, 502, "reply_too_large"),
                    f"the model's reply is larger than {BODY_BYTES_MAX:,} bytes",
                    "Ask for less in one request.",
                    retry=False,
                )
        response.headers.encoding = _HEADER_ENCODING
        returned = {
            k: v
            for k, v in response.headers.items()
            if k.lower() not in _NOT_RETURNED and not k.lower().startswith(_OURS)
        }
        return Reply(response.status_code, returned, bytes(body))


class OpenAIUpstream:
    """A server that speaks OpenAI's protocol, asked with the key that only this process has."""

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        retry_delays_s: Sequence[float] = CONNECT_RETRY_DELAYS_S,
    ) -> None:
        url = _base_url(base_url)
        if not key.isascii() or not key.isprintable():
            raise Invalid(
                "OPENAI_API_KEY holds characters that cannot stand in an HTTP header",
                hint="Set it again. Perhaps a line break or a quotation mark was copied with it.",
            )
        self.description = f"openai-compatible at {base_url}"
        self._host = url.host
        self._key = key
        self._retry_delays_s = retry_delays_s
        self._client = httpx.AsyncClient(base_url=url, timeout=TIMEOUT)

    async def send(self, request: Request) -> Reply:
        return self._redacted(await self._send(request))

    async def _send(self, request: Request) -> Reply:
        # A connection that was never made carried no request, so trying again cannot ask twice.
        headers = {"authorization": f"Bearer {self._key}"} if self._key else {}
        failure: httpx.RequestError
        for delay_s in (*self._retry_delays_s, None):
            try:
                return await exchange(self._client, request, headers)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
                if delay_s is not None:
                    await asyncio.sleep(delay_s)
            except httpx.TimeoutException as error:
                return problem(
                    *(request.path, 504, "upstream_timed_out"),
                    f"{self._host} was connected but did not answer in time ({_name(error)})",
                    "Ask again, or ask for a shorter answer.",
                )
            except httpx.RequestError as error:
                failure = error
                break
        return problem(
            *(request.path, 502, "upstream_unreachable"),
            f"{self._host} could not be asked: {failure} ({_name(failure)})",
            "See OPENAI_BASE_URL and the network of the host that runs the broker.",
        )

    async def close(self) -> None:
        await self._client.aclose()

    def _redacted(self, reply: Reply) -> Reply:
        # Some servers quote the key that they refuse (rule 9).
        if len(self._key) < SECRET_CHARS_MIN:
            return reply
        headers = {k: v.replace(self._key, "[redacted]") for k, v in reply.headers.items()}
        body = reply.body.replace(self._key.encode(), b"[redacted]")
        return Reply(reply.status, headers, body)


def _name(error: Exception) -> str:
    return type(error).__name__


def _base_url(text: str) -> httpx.URL:
    hint = "It looks like https://api.openai.com/v1"
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise Invalid("OPENAI_BASE_URL is not a URL", hint=hint) from error
    if url.scheme not in ("http", "https") or not url.host:
        raise Invalid("OPENAI_BASE_URL is not an http or https URL with a host", hint=hint)
    if url.userinfo or url.query or url.fragment:
        # It is shown by /health and in the log: no place for a password (rule 9).
        raise Invalid("OPENAI_BASE_URL may have only a scheme, host, port and path", hint=hint)
    return url
