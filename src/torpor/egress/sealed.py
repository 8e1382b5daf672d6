"""Secrets of agents as they lie in the database and travel to the broker: sealed under the host's
key.

The server seals a value as it comes in and never opens it again; the broker opens what it is
given. With the value are sealed its name and its terms (`torpor.core.secrets`): a row that was
changed, so that a secret went to another host, opens no more. Pure.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torpor.core.errors import Damaged, Invalid
from torpor.core.secrets import Terms, check_secret_name
from torpor.snapshot import hostkey
from torpor.snapshot.seal import Key


@dataclass(frozen=True)
class Secret:
    name: str
    terms: Terms
    value: str = field(repr=False)


def owner_of(name: str, terms: Terms) -> str:
    """What a value is sealed to."""
    return f"secret {name} {json.dumps(terms.to_json(), sort_keys=True)}"


def seal(host: Key, secret: Secret) -> bytes:
    owner = owner_of(secret.name, secret.terms)
    return hostkey.seal(host, hostkey.SECRET, owner, secret.value.encode())


def entry(name: str, terms: Terms, sealed: bytes) -> dict[str, Any]:
    """As a broker is given it: `client.BrokerClient.set_secrets`."""
    return {"name": name, **terms.to_json(), "sealed": b64encode(sealed).decode()}


def unseal(host: Key, entry: Mapping[str, Any]) -> Secret:
    """Of an `entry`. Raises Invalid, Damaged (it is another host's, or was changed)."""
    try:
        name, sealed = check_secret_name(entry["name"]), b64decode(entry["sealed"], validate=True)
        terms = Terms.of_json(entry)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Invalid(f"a sealed secret is malformed: {error}") from error
    try:
        plain = hostkey.unseal(host, hostkey.SECRET, owner_of(name, terms), sealed)
    except Damaged as error:
        raise Damaged(
            f"the secret {name} does not open: it was changed, or sealed with another host's key",
            hint=f"Set it again: torpor secrets set {name}",
        ) from error
    return Secret(name, terms, plain.decode())
