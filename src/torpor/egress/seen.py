"""What is known of an exchange so far: what DONE says of it at its end."""

from __future__ import annotations

from dataclasses import dataclass

from torpor.egress.admission import Headers


@dataclass
class Seen:
    status: int | None = None
    headers: Headers = ()
    address: str = ""
    sent: int = 0
    received: int = 0
    reached: bool = True  # False: there was no connection, so nothing of it went out
