"""Which torpor a server is: every answer says it, and an error that its client is another."""

from __future__ import annotations

import torpor

# Of every answer: the server's version.
HEADER = "torpor-version"


def difference(server: str | None) -> str:
    """In words, for a refused client; "" where they are the same, or the server did not say."""
    if server is None or server == torpor.__version__:
        return ""
    return f"The server is torpor {server}, this is {torpor.__version__}: install the same here."
