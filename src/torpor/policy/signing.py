"""Signed messages as Standard Webhooks has them, sent and received.

The specification: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

    webhook-id           of the message, the same whenever it is sent again
    webhook-timestamp    of this attempt, unix seconds
    webhook-signature    v1,BASE64 of HMAC-SHA256(secret, "id.timestamp.body"); several, by spaces
    secret               whsec_BASE64

Pure: time is given.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping

from torpor.core.webhooks import Unsigned

SECRET_PREFIX = "whsec_"
TOLERANCE_S = 300
ID_MAX = 200
_ID = re.compile(r"[\x21-\x7e]{1,200}")


def secret(key: bytes) -> str:
    """`key` as people pass it on."""
    return SECRET_PREFIX + base64.b64encode(key).decode()


def sign(key: bytes, id: str, at: float, body: bytes) -> dict[str, str]:
    """The headers of a message."""
    timestamp = str(int(at))
    return {
        "webhook-id": id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{_signature(key, id, timestamp, body)}",
    }


def verify(key: bytes, headers: Mapping[str, str], body: bytes, now: float) -> str:
    """The id of a message that is signed, a short while ago. Raises Unsigned."""
    id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not _ID.fullmatch(id):
        raise Unsigned(f"webhook-id must have 1 to {ID_MAX} printable characters")
    if not (timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= 12):
        raise Unsigned("webhook-timestamp must be unix seconds")
    wanted = _signature(key, id, timestamp, body).encode()
    given = [each.partition(",") for each in headers.get("webhook-signature", "").split()[:16]]
    fits = [hmac.compare_digest(mac.encode(), wanted) for kind, _, mac in given if kind == "v1"]
    if not any(fits):
        raise Unsigned("webhook-signature is wrong")
    # Once it is known to be genuine: nobody else learns that it is old.
    if abs(now - int(timestamp)) > TOLERANCE_S:
        raise Unsigned(f"webhook-timestamp is more than {TOLERANCE_S} s from now")
    return id


def _signature(key: bytes, id: str, timestamp: str, body: bytes) -> str:
    signed = f"{id}.{timestamp}.".encode() + body
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
