"""What the values of recorded exchanges answer."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from torpor.core.bodies import stored_body

# Not the client's business with us, or not ours with the host. Bodies travel uncompressed so that
# they can be read in the log.
DROPPED = frozenset(
    {
        *("host", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "te"),
        *("content-length", "trailer", "upgrade", "expect", "accept-encoding"),
    }
)


def serves(outcome: Mapping[str, Any]) -> bool:
    """Whether this serves a client that asks again better than an answer of its own."""
    value = outcome.get("value")
    if not isinstance(value, dict) or "cut" in value:
        return False
    return isinstance(value.get("status"), int) and value["status"] < 400


def read_value(value: Any) -> tuple[int, list[list[str]], bytes, int]:
    """What a recorded value answers: status, headers, body, and how long that is: more than what is
    here, where the host has it in its store."""
    status, headers = int(value["status"]), value["headers"]
    if (stored := stored_body(value)) is not None:
        body, size = b"", stored.bytes
    else:
        body = value["body"].encode() if "body" in value else b64decode(value["body_b64"])
        size = len(body)
    kept = [
        [str(name).lower(), str(text)]
        for name, text in (headers.items() if isinstance(headers, dict) else headers)
        if str(name).lower() not in DROPPED and not any(c in "\r\n\0" for c in f"{name}{text}")
    ]
    return status, kept, body, size
