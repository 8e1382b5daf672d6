"""What a permission is for: the digest of one exact action, and that of one place. Pure.

A permission is asked for an action, `{request: {scheme, host, port, method, target, headers, body |
body_b64}}` or `{action: {name, arguments}}`, and binds its digest: whatever is changed after a
person has seen it has another. "Allow for this run" binds the method, host, port and path of a
request, or the name of an action, whatever goes with it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torpor.core.errors import Invalid
from torpor.core.targets import path_of

ONCE, RUN, DENY = "once", "run", "deny"
DECISIONS = (ONCE, RUN, DENY)
_REQUEST = ("scheme", "host", "port", "method", "target")


def digest(data: Mapping[str, Any]) -> str:
    """Of the exact action, in 64 hexadecimal digits. Raises Invalid."""
    if "request" in data:
        request = _request(data)
        named = {key: request[key] for key in _REQUEST}
        headers = [[name.lower(), value] for name, value in request.get("headers") or ()]
        body = hashlib.sha256(body_of(request)).hexdigest()
        return _digest("request", {**named, "headers": headers, "body": body})
    return _digest("action", _action(data))


def place_digest(data: Mapping[str, Any]) -> str:
    """Of what "allow for this run" covers. Raises Invalid."""
    if "request" in data:
        request = _request(data)
        place = {key: request[key] for key in ("scheme", "host", "port", "method")}
        return _digest("place", {**place, "path": path_of(request["target"])})
    return _digest("tool", {"name": _action(data)["name"]})


def body_of(request: Mapping[str, Any]) -> bytes:
    """The body's bytes, however they are written. Raises Invalid."""
    text, encoded = request.get("body"), request.get("body_b64")
    if encoded is None:
        if text is not None and not isinstance(text, str):
            raise Invalid("the request's body is no text")
        return (text or "").encode(errors="surrogatepass")
    if text is not None or not isinstance(encoded, str):
        raise Invalid("the request has two bodies, or one that is no base 64")
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid("the request's body_b64 is not base 64") from error


def _request(data: Mapping[str, Any]) -> Mapping[str, Any]:
    request = data["request"]
    if not isinstance(request, Mapping) or any(key not in request for key in _REQUEST):
        raise Invalid(f"a request to be allowed has {', '.join(_REQUEST)}")
    if any(not isinstance(request[key], str) for key in _REQUEST if key != "port"):
        raise Invalid("a request to be allowed has texts, and a number for its port")
    if type(request["port"]) is not int or not _are_headers(request.get("headers")):
        raise Invalid("a request to be allowed has a number for its port, and pairs for headers")
    return {**request, "host": request["host"].lower().rstrip(".")}


def _are_headers(given: Any) -> bool:
    return given is None or (
        isinstance(given, list)
        and all(
            isinstance(pair, (list, tuple))
            and len(pair) == 2
            and all(isinstance(t, str) for t in pair)
            for pair in given
        )
    )


def _action(data: Mapping[str, Any]) -> dict[str, Any]:
    action = data.get("action")
    if not isinstance(action, Mapping) or not isinstance(action.get("name"), str):
        raise Invalid("an action to be allowed has a name and arguments")
    return {"name": action["name"], "arguments": action.get("arguments")}


def _digest(kind: str, value: Any) -> str:
    # One spelling of a value: sorted, without blanks, in ASCII.
    try:
        text = json.dumps([kind, value], sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"the action's arguments are no JSON: {error}") from error
    return hashlib.sha256(text.encode()).hexdigest()
