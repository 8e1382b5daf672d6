"""Who may do what: scopes, and grants of them. Pure.

    observe    read runs, logs, waits, agents, metrics
    query      SQL over all of these
    trigger    start runs, send events
    operate    answer waits, cancel, fork, retry, upgrade, snapshots, queues, schedules, tokens
    deploy     make and retire agents
    exec       run commands beside an agent, where they can do all that it can
    admin      all of it: deletion, retention, exports, imports, backups, keys, secrets, hooks, the
               dashboard, the server's end

A grant may be for some agents only, or for one run or one wait: then only for what concerns these.
What concerns all agents at once (SQL, deployments, the host itself) is not among them.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from torpor.core.errors import Forbidden, Invalid


class Scope(StrEnum):
    ADMIN = "admin"
    DEPLOY = "deploy"
    TRIGGER = "trigger"
    OPERATE = "operate"
    OBSERVE = "observe"
    QUERY = "query"
    EXEC = "exec"


# What a grant that is not for everything may have.
RESTRICTABLE = frozenset({Scope.TRIGGER, Scope.OPERATE, Scope.OBSERVE, Scope.EXEC})


@dataclass(frozen=True)
class Grant:
    """`who` is for the log; `key` is the id of an API key. Of agents, run and wait, None is any."""

    who: str
    scopes: frozenset[Scope]
    agents: frozenset[str] | None = None
    run: str | None = None
    wait: str | None = None
    key: str | None = None

    @property
    def restricted(self) -> bool:
        return not (self.agents is None and self.run is None and self.wait is None)

    def has(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def require(self, scope: Scope) -> None:
        if not self.has(scope):
            raise Forbidden(
                f"this needs scope {scope}; {self.who} has {', '.join(sorted(self.scopes))}",
                hint="torpor keys create makes a key with other scopes.",
            )

    def require_run(self, run: str, agent: str | None) -> None:
        """Of what is about a run."""
        fits = (self.agents is None or agent in self.agents) and self.run in (None, run)
        if not fits or self.wait is not None:
            raise Forbidden(f"{self.who} is not for this run")

    def require_wait(self, wait: str, run: str, agent: str | None) -> None:
        if self.wait is None:
            self.require_run(run, agent)
        elif self.wait != wait:
            raise Forbidden(f"{self.who} is not for this wait")

    def require_agent(self, agent: str | None) -> None:
        """Of what is about an agent by its name."""
        if self.run is not None or self.wait is not None:
            raise Forbidden(f"{self.who} is for one run or wait")
        if self.agents is not None and agent not in self.agents:
            only = ", ".join(sorted(self.agents))
            raise Forbidden(
                f"{self.who} is for {only}, not for {agent or 'all'}",
                hint="Name the agent in the request.",
            )

    def require_all(self) -> None:
        """Of what is about no agent in particular."""
        if self.restricted:
            raise Forbidden(f"{self.who} does not cover everything that this concerns")


LOCAL = Grant("the local socket", frozenset({Scope.ADMIN}))


def check_restriction(scopes: Iterable[Scope], restricted: bool) -> None:
    """Raise Invalid for scopes that a restricted grant cannot have."""
    beyond = sorted(set(scopes) - RESTRICTABLE)
    if restricted and beyond:
        raise Invalid(
            f"a restricted key cannot have scope {', '.join(beyond)}, which "
            "concerns more than one agent",
            hint=f"It can have {', '.join(sorted(RESTRICTABLE))}.",
        )


# A key is `torpor_ID_SECRET`: the id finds it, also in a log or a diff. The
# secret is 256 bits by chance, so that one round of a hash keeps it as well as a thousand.
PREFIX = "torpor_"
_SECRET_BYTES = 32


def new_secret() -> str:
    return secrets.token_urlsafe(_SECRET_BYTES)


def key_text(id: str, secret: str) -> str:
    return f"{PREFIX}{id}_{secret}"


def parse_key(text: str) -> tuple[str, str] | None:
    """(id, secret), None if it has not even the form of a key."""
    id, between, secret = text.removeprefix(PREFIX).partition("_")
    whole = text.startswith(PREFIX) and between and id.isalnum() and text.isascii()
    return (id, secret) if whole else None


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def same(digest_kept: str, secret: str) -> bool:
    return hmac.compare_digest(digest_kept, digest(secret))
