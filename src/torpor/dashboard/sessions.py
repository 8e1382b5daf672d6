"""Who may use the dashboard: who has opened a link that the command line printed.

A link is good once, for a few minutes. It starts a session, whose id is a cookie and whose CSRF
token is in its pages' forms. Links and sessions are in memory, as digests, and end with the server:
whoever can print a link can print another.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

LINK_S = 600.0
SESSION_S = 7 * 86400.0
# Of each: the oldest goes when there are more.
KEPT_MAX = 100

T = TypeVar("T")


@dataclass(frozen=True)
class Session:
    csrf: str
    until: float


@dataclass(frozen=True)
class LoggedIn:
    """`id` is for the cookie, and is kept nowhere else."""

    id: str
    session: Session


class Sessions:
    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._links: dict[bytes, float] = {}
        self._sessions: dict[bytes, Session] = {}

    def link(self) -> str:
        """A new token that logs in once."""
        token = secrets.token_urlsafe(32)
        _keep(self._links, _digest(token), self._now() + LINK_S)
        return token

    def log_in(self, token: str) -> LoggedIn | None:
        """Use a link up; None if there is none such, or no longer."""
        until = self._links.pop(_digest(token), None)
        if until is None or until < self._now():
            return None
        entered = LoggedIn(
            secrets.token_urlsafe(32),
            Session(secrets.token_urlsafe(32), self._now() + SESSION_S),
        )
        _keep(self._sessions, _digest(entered.id), entered.session)
        return entered

    def find(self, id: str) -> Session | None:
        found = self._sessions.get(_digest(id))
        return found if found is not None and found.until >= self._now() else None

    def log_out(self, id: str) -> None:
        self._sessions.pop(_digest(id), None)


def _digest(token: str) -> bytes:
    # Looked up by digest, so that no time tells how much of a guess was right.
    return hashlib.sha256(token.encode(errors="replace")).digest()


def _keep(kept: dict[bytes, T], key: bytes, value: T) -> None:
    kept[key] = value
    while len(kept) > KEPT_MAX:
        del kept[next(iter(kept))]
