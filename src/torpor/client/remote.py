"""Which server is meant: this host's, unless the environment names another."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from torpor.core.errors import Invalid

URL, KEY = "TORPOR_URL", "TORPOR_API_KEY"
_SUCH_AS = "Give one such as https://agents.example.com, or with a path: https://example.com/torpor"


@dataclass(frozen=True)
class Remote:
    """A server that is not this data directory's."""

    url: str
    key: str = field(repr=False)

    @classmethod
    def find(cls) -> Remote | None:
        """What the environment says. Raises Invalid."""
        url = os.environ.get(URL, "").strip()
        return cls.of(url, os.environ.get(KEY, "")) if url else None

    @classmethod
    def of(cls, url: str, key: str = "") -> Remote:
        """Raises Invalid."""
        key = key.strip()
        if not key.isascii() or not key.isprintable():
            raise Invalid(
                f"{KEY} is not a key",
                hint="Keys begin with torpor_. Create one with torpor keys create.",
            )
        try:
            parts = urlsplit(url)
            _ = parts.port  # raises
        except ValueError as error:
            raise Invalid(f"{URL}={url!r} is not a URL: {error}", hint=_SUCH_AS) from error
        if parts.username or parts.password:
            raise Invalid(f"{URL} contains a user or a password", hint=f"Put the key into {KEY}.")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Invalid(f"{URL}={url!r} is not a URL", hint=_SUCH_AS)
        if parts.query or parts.fragment:
            raise Invalid(f"{URL}={url!r} has a query or a fragment", hint=_SUCH_AS)
        return cls(url.rstrip("/").removesuffix("/v1"), key)


def refuse_remote(what: str) -> None:
    """Raise Invalid where the environment names a server elsewhere: this is not done there."""
    if (remote := Remote.find()) is not None:
        raise Invalid(
            f"{what} works only on the server's own host, and {URL} names {remote.url}",
            hint=f"Unset {URL} to use this host's server.",
        )
