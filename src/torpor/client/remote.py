"""Which server is meant: this host's, unless the environment names another."""

from __future__ import annotations

import os
from dataclasses import dataclass

from torpor.model.errors import Invalid

URL, KEY = "TORPOR_URL", "TORPOR_API_KEY"


@dataclass(frozen=True)
class Remote:
    """A server that is not this data directory's."""

    url: str
    key: str

    @classmethod
    def find(cls) -> Remote | None:
        """What the environment says. Raises Invalid."""
        url, key = os.environ.get(URL, "").rstrip("/"), os.environ.get(KEY, "")
        if not url:
            return None
        if not url.startswith(("http://", "https://")):
            raise Invalid(
                f"{URL}={url!r} is no URL", hint="It is such as https://agents.example.com"
            )
        if not key.isascii() or not key.isprintable():
            raise Invalid(f"{KEY} is no key", hint="A key begins with torpor_: torpor keys create")
        return cls(url, key)


def refuse_remote(what: str) -> None:
    """Raise Invalid where the environment names a server elsewhere: this is not done there."""
    if (remote := Remote.find()) is not None:
        raise Invalid(
            f"{what} is done on the server's own host; {URL} names {remote.url}",
            hint=f"Unset {URL} for the server of this host.",
        )
