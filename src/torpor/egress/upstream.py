"""The deployment's own model: what machines may ask it, and the real API that answers.

`Upstream` has three kinds: `OpenAIUpstream` (here), `LocalModel` and `StandIn`. What the other end
says passes through as it is and as it comes, status and all; where there is no other end, NoAnswer
says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp
from yarl import URL

from torpor.core.errors import Invalid
from torpor.core.placements import SECRET_CHARS_MIN
from torpor.egress.admission import Headers
from torpor.egress.answer import Listener, NoAnswer, Seen
from torpor.egress.exchange import HOP_BY_HOP, Call, send, session
from torpor.egress.protocol import BODY_BYTES_MAX

ALLOWED = (
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/responses"),
    ("GET", "/v1/models"),
)
CONNECT_RETRY_DELAYS_S = (0.2, 1.0, 3.0)
REDACTED = "[redacted]"

# The caller's own credentials never go out, and no state of the upstream's comes in.
_NOT_SENT = HOP_BY_HOP | {
    *("host", "content-length", "expect", "accept-encoding"),
    *("authorization", "api-key", "x-api-key", "cookie"),
}
_NOT_RETURNED = frozenset({"set-cookie"})


@dataclass(frozen=True)
class Request:
    """A request that the allow-list let through. Header names are in lower case."""

    method: str
    path: str  # "/v1/…"
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Upstream(Protocol):
    @property
    def description(self) -> str:
        """What answers, for people: shown by `health`. Holds no secret."""
        ...

    async def answer(self, request: Request, listener: Listener, seen: Seen) -> None:
        """Raises NoAnswer, CutOff."""
        ...

    async def close(self) -> None: ...


def admit(method: str, target: str) -> None:
    """Raises NoAnswer for all that may not be asked of the deployment's own model."""
    # Compared whole: nothing that must be unescaped or resolved first can match.
    path = target.partition("?")[0]
    if (method, path) not in ALLOWED:
        allowed = ", ".join(f"{method} {path}" for method, path in ALLOWED)
        message = f"{method} {path[:200]} may not leave a machine. Allowed are: {allowed}."
        raise NoAnswer(403, "not_allowed", message, retry=False)


def call_of(base: URL, request: Request, more: Headers, redaction: Redactor | None = None) -> Call:
    """`request` below `base`, whose path stands for "/v1"; `more` headers put over its own."""
    over = {name for name, _ in more}
    headers = [
        (name, value) for name, value in request.headers.items() if name not in _NOT_SENT | over
    ]
    path = base.raw_path.rstrip("/") + request.path.removeprefix("/v1")
    return Call(
        method=request.method,
        url=base.with_path(path, encoded=True).with_query(None)
        if not request.query
        else URL(f"{base.with_path(path, encoded=True)}?{request.query}", encoded=True),
        headers=[*headers, ("accept-encoding", "identity"), *more],
        body=request.body if request.body or request.method == "POST" else None,
        host=base.host or "",
        redaction=redaction or Redactor(""),
        answer_bytes_max=BODY_BYTES_MAX,
    )


class Redactor:
    """Takes a key out of what comes back, and cookies (rule 9): some servers quote the key that
    they refuse."""

    def __init__(self, key: str) -> None:
        self._key = key.encode() if len(key) >= SECRET_CHARS_MIN else b""
        self._held = b""

    def head(self, headers: Headers) -> Headers:
        dropped = _NOT_RETURNED | ({"content-length"} if self._key else set())
        key = self._key.decode()
        return [
            (name, value.replace(key, REDACTED) if key else value)
            for name, value in headers
            if name not in dropped
        ]

    def feed(self, data: bytes) -> bytes:
        if not self._key:
            return data
        data = (self._held + data).replace(self._key, REDACTED.encode())
        count = next(
            (n for n in range(len(self._key) - 1, 0, -1) if data.endswith(self._key[:n])), 0
        )
        self._held = data[len(data) - count :]
        return data[: len(data) - count]

    def close(self) -> bytes:
        held, self._held = self._held, b""
        return held


class OpenAIUpstream:
    """A server that speaks OpenAI's protocol, asked with the key that only this process has."""

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        retry_delays_s: Sequence[float] = CONNECT_RETRY_DELAYS_S,
    ) -> None:
        self._base = _base_url(base_url)
        if not key.isascii() or not key.isprintable():
            raise Invalid(
                "OPENAI_API_KEY holds characters that cannot stand in an HTTP header",
                hint="Set it again. Perhaps a line break or a quotation mark was copied with it.",
            )
        self.description = f"openai-compatible at {base_url}"
        self._key = key
        self._retry_delays_s = retry_delays_s
        self._session: aiohttp.ClientSession | None = None

    async def answer(self, request: Request, listener: Listener, seen: Seen) -> None:
        if self._session is None:  # aiohttp's wants a loop that runs
            # The host's own way out, proxies and all: this address is the operator's.
            self._session = session(aiohttp.TCPConnector(limit=0), trust_env=True)
        more = [("authorization", f"Bearer {self._key}")] if self._key else []
        call = call_of(self._base, request, more, Redactor(self._key))
        try:
            await send(self._session, call, listener, seen, self._retry_delays_s)
        except NoAnswer as error:
            if error.code != "upstream_unreachable":
                raise
            hint = "See OPENAI_BASE_URL and the network of the host that runs the broker."
            raise NoAnswer(error.status, error.code, f"{error.message}. {hint}") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _base_url(text: str) -> URL:
    hint = "It looks like https://api.openai.com/v1"
    try:
        url = URL(text)
        port = url.port
    except ValueError as error:
        raise Invalid("OPENAI_BASE_URL is not a URL", hint=hint) from error
    if url.scheme not in ("http", "https") or not url.host or port == 0:
        raise Invalid("OPENAI_BASE_URL is not an http or https URL with a host", hint=hint)
    if url.user is not None or url.password is not None or url.raw_query_string or url.fragment:
        # It is shown by `health` and in the log: no place for a password (rule 9).
        raise Invalid("OPENAI_BASE_URL may have only a scheme, host, port and path", hint=hint)
    return url
