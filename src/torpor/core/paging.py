"""A part of a log that is given at once: bounded in entries, and in bytes (`Page`)."""

from __future__ import annotations

from typing import Any, NamedTuple

# As JSON. One entry is always given, however large.
PAGE_BYTES_MAX = 4 * 1024 * 1024


class Page(NamedTuple):
    """Entries in the log's order; with `more`, others follow the last of them. A page that holds
    fewer than was asked for need not be the end."""

    entries: list[dict[str, Any]]
    more: bool
