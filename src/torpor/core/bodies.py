"""Where the body of a recorded answer is, if that is too large for the log. Pure, standard library
only: the guest reads it too."""

from __future__ import annotations

from typing import Any, NamedTuple


class StoredBody(NamedTuple):
    digest: str
    bytes: int


def stored_body(value: Any) -> StoredBody | None:
    """Of an exchange's `value`: it is among the run's values (`torpor.contextlog.values`)."""
    blob = value.get("blob") if isinstance(value, dict) else None
    if isinstance(blob, dict):
        digest, size = blob.get("digest"), blob.get("bytes")
        if isinstance(digest, str) and isinstance(size, int):
            return StoredBody(digest, size)
    return None
