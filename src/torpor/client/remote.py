"""Which server is meant: this host's, unless the environment names another."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from torpor.core.errors import Invalid

URL, KEY = "TORPOR_URL", "TORPOR_API_KEY"
_SUCH_AS = "It is such as https://agents.example.com, or with a path: https://example.com/torpor"


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
            raise Invalid(f"{KEY} is no key", hint="A key begins with torpor_: torpor keys create")
        try:
            parts = urlsplit(url)
            _ = parts.port  # raises
        except ValueError as error:
            raise Invalid(f"{URL}={url!r} is no URL: {error}", hint=_SUCH_AS) from error
        if parts.username or parts.password:
            raise Invalid(f"{URL} has a user or password in it", hint=f"The key is in {KEY}.")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Invalid(f"{URL}={url!r} is no URL", hint=_SUCH_AS)
        if parts.query or parts.fragment:
            raise Invalid(f"{URL}={url!r} has more than a path", hint=_SUCH_AS)
        return cls(url.rstrip("/").removesuffix("/v1"), key)


def refuse_remote(what: str) -> None:
    """Raise Invalid where the environment names a server elsewhere: this is not done there."""
    if (remote := Remote.find()) is not None:
        raise Invalid(
            f"{what} is done on the server's own host; {URL} names {remote.url}",
            hint=f"Unset {URL} for the server of this host.",
        )
