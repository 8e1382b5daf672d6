"""An answer as it comes: what sends a request gives it to a listener, piece by piece, and notes
what is known of the exchange."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torpor.egress.admission import Charge, Headers
from torpor.egress.protocol import NEEDS_PERMISSION


class Listener(Protocol):
    def head(self, status: int, headers: Headers) -> None: ...

    async def data(self, data: bytes) -> None:
        """The next bytes of the body. Waits while there is no room for them."""
        ...

    def end(self) -> None:
        """It is whole."""
        ...


@dataclass
class Seen:
    """What is known of an exchange so far: what DONE says of it at its end."""

    status: int | None = None
    headers: Headers = ()
    address: str = ""
    sent: int = 0
    received: int = 0
    reached: bool = True  # False: there was no connection, so nothing of it went out


class NoAnswer(Exception):
    """There is none but this, which torpor gives itself. Before the head."""

    def __init__(self, status: int, code: str, message: str, *, retry: bool = True) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry = status, code, message, retry


def over_budget(charge: Charge, problem: str) -> NoAnswer:
    """Where `Charge.sent` has said why not. Of what a person may allow, the code says so: begun
    again with a permission, it goes out."""
    code = NEEDS_PERMISSION if charge.asks else "over_budget"
    return NoAnswer(402, code, problem, retry=False)


class CutOff(Exception):
    """It will not be whole. After the head."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message
