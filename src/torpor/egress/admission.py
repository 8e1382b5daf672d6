"""What the broker asks of its judge, and what it gets: how a request goes out, or why it does not.

Everything that leaves goes through `Judge.admit` first; who matches nothing is denied there. What
sends (`exchange`) uses nothing of the guest's request but what is in the `Admission`.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torpor.core.egress import MODEL_HOST, Request, Verdict, deny

Headers = Sequence[tuple[str, str]]  # names in lower case


@dataclass(frozen=True)
class Outgoing:
    """What a worker's BEGIN asks for."""

    run: str
    request: Request
    headers: Headers = ()  # the guest's, without those of its own connection
    upgrade: str = ""  # "websocket"
    record: str = ""  # it is begun as an operation: model | http
    length: int | None = None  # of the body, where it is known
    permit: str = ""  # the digest of what a person allowed: a verdict `ask` is passed


class Leak(Exception):
    """An answer has a secret in it, or may have: it is cut here. `str(leak)` goes on after "HOST
    answered, but "."""


class Redaction(Protocol):
    """Takes secrets out of one answer, as it comes. Raises Leak."""

    def head(self, headers: Headers) -> Headers: ...

    def feed(self, data: bytes) -> bytes:
        """What may be handed on; what may be the beginning of a secret is held back."""
        ...

    def close(self) -> bytes: ...


class Charge(Protocol):
    """What was reserved for one exchange, of budgets and limits. `asks`: what `sent` has refused, a
    person may allow."""

    @property
    def asks(self) -> bool: ...

    def sent(self, data: bytes) -> str:
        """These bytes of the body go out next, of a recorded call all of them at once. Why they may
        not, or ""."""
        ...

    def received(self, data: bytes) -> str:
        """So many more of the answer came. Why no more may, or ""."""
        ...

    def settle(self, status: int | None, headers: Headers) -> Mapping[str, Any]:
        """The exchange is over, once: `usage` of DONE. None: no answer came."""
        ...

    def cancel(self) -> None:
        """Instead of `settle`: nothing of it went out."""
        ...


@dataclass(frozen=True)
class Admission:
    """It may go out, so."""

    verdict: Mapping[str, Any]  # of the frame VERDICT
    addresses: Sequence[str]  # checked; nothing else is connected to
    headers: Headers = ()  # credentials stripped, ours put in
    target: str = ""  # perhaps with a secret's parameter
    tls: ssl.SSLContext | None = None  # None: the system's authorities
    redaction: Redaction | None = None
    charge: Charge | None = None


@dataclass(frozen=True)
class Refusal:
    """It may not. With `record` in the verdict, and `status` 0, it may as an operation."""

    verdict: Mapping[str, Any]
    status: int = 403
    code: str = "not_allowed"
    message: str = ""
    retry: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)  # of the frame RECORD


class Judge(Protocol):
    async def admit(self, outgoing: Outgoing) -> Admission | Refusal:
        """Also of MODEL_HOST, the deployment's own model: there for what it costs."""
        ...

    def explain(self, policy: Mapping[str, Any], request: Request) -> Verdict:
        """What would be decided; nothing is sent, looked up or counted. Raises Invalid."""
        ...

    def set_policy(self, run: str, policy: Mapping[str, Any] | None) -> None:
        """Raises Invalid; what cannot be read denies."""
        ...

    def set_secrets(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Raises Invalid."""
        ...

    def forget(self, run: str) -> None: ...


class DenyAll:
    """The judge where there is none."""

    async def admit(self, outgoing: Outgoing) -> Admission | Refusal:
        if outgoing.request.host == MODEL_HOST:
            return Admission({"verdict": "allow"}, ())
        message = f"no rule allows {outgoing.request.host}"
        verdict = {"verdict": "deny", "code": "not_allowed", "reason": message}
        return Refusal(verdict, message=message)

    def explain(self, policy: Mapping[str, Any], request: Request) -> Verdict:
        return deny("not_allowed", f"no rule allows {request.host}")

    def set_policy(self, run: str, policy: Mapping[str, Any] | None) -> None: ...

    def set_secrets(self, entries: Sequence[Mapping[str, Any]]) -> None: ...

    def forget(self, run: str) -> None: ...
