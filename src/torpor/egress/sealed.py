"""Secrets of agents as they lie in the database and travel to the broker: sealed under the host's
key.

The server seals a value as it comes in and never opens it again; the broker opens what it is given
(`torpor.egress.secrets`). A value is sealed to its name and its terms (`torpor.core.secrets`): a
row that was changed, so that a secret went to another host, opens no more.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

from torpor.core.errors import Damaged
from torpor.core.home import Home
from torpor.core.secrets import Terms
from torpor.snapshot import hostkey


def owner_of(name: str, terms: Terms) -> str:
    """What a value is sealed to."""
    return f"secret {name} {json.dumps(terms.to_json(), sort_keys=True)}"


def entry(name: str, terms: Terms, sealed: bytes) -> dict[str, Any]:
    """As a broker is given it: `client.BrokerClient.set_secrets`."""
    return {"name": name, **terms.to_json(), "sealed": b64encode(sealed).decode()}


def opener(home: Home) -> Callable[[str, bytes], str]:
    """What opens the values that were sealed for this data directory, each for its owner. The key
    is read when it is needed, and kept no longer. It raises HostError (the key is gone), Damaged (a
    value is another host's, or was changed)."""

    def unseal(owner: str, sealed: bytes) -> str:
        host = hostkey.read_host_key(home.host_key)
        try:
            return hostkey.unseal(host, hostkey.SECRET, owner, sealed).decode()
        except Damaged as error:
            name = owner.split(" ")[1]
            raise Damaged(
                f"the secret {name} does not open: it was changed, or sealed with the key of "
                "another host",
                hint=f"Set it again: torpor secrets set {name}",
            ) from error

    return unseal
