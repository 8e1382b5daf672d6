"""Whom an agent's waits may tell of themselves: `[tool.torpor.webhooks]`, a name and a URL each.

The agent's code only says the name. Where messages go is in its file, which whoever deploys it has
read; nothing in a machine can send them elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from torpor.core.errors import Invalid

WEBHOOKS_MAX = 32
WEBHOOK_NAME_MAX = 64
URL_MAX = 2000


class Unsigned(Exception):
    """A message is not signed by a holder of the secret, or not recently. It says nothing about
    the secret."""


def check_webhooks(table: Any, what: str) -> dict[str, str]:
    """`table` if it names URLs. `what` begins the message of the Invalid it raises."""
    if not isinstance(table, Mapping) or len(table) > WEBHOOKS_MAX:
        raise Invalid(
            f"{what}: it must be a table of at most {WEBHOOKS_MAX} names and URLs",
            hint='For example: [tool.torpor.webhooks] office = "https://example.com/hook"',
        )
    for name, url in table.items():
        if not isinstance(name, str) or not 1 <= len(name) <= WEBHOOK_NAME_MAX:
            raise Invalid(f"{what}: a name must have 1 to {WEBHOOK_NAME_MAX} characters")
        check_url(url, f"{what}: {name}")
    return dict(table)


def check_url(url: Any, what: str) -> str:
    """`url` if it is one that messages can be sent to. Raises Invalid."""
    try:
        parts = urlsplit(url) if isinstance(url, str) and len(url) <= URL_MAX else None
        fine = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname)
        fine = fine and parts is not None and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = False
    if not fine or parts is None:
        raise Invalid(f"{what}: {str(url)[:100]!r} is not an http or https URL")
    if parts.username is not None or parts.password is not None:
        # It is in the log, in exports, in what `torpor agents` shows (rule 9).
        raise Invalid(
            f"{what}: a URL cannot contain a user or a password",
            hint="Messages are signed instead: torpor hooks secret URL prints the secret.",
        )
    return str(url)
