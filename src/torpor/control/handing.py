"""Secrets on their way to the broker, sealed: all of them, whenever one has changed or a broker is
there. It opens them (`torpor.egress.sealed`); the server only hands them on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torpor.contextlog import secrets
from torpor.core.errors import Invalid
from torpor.egress import sealed
from torpor.logstore.protocol import Store

log = logging.getLogger(__name__)


class Broker(Protocol):
    """See `torpor.egress.client.BrokerClient`, which gives them to each broker that starts."""

    async def set_secrets(self, entries: Sequence[Mapping[str, Any]]) -> None: ...


class Handing:
    """The broker has all secrets as they are now, from when it is there."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._broker: Broker | None = None
        self._one = asyncio.Lock()  # what was read later is not overtaken

    async def begin(self, broker: Broker) -> None:
        """There is a broker from now on. Raises HostError."""
        self._broker = broker
        await self.hand()

    async def hand(self) -> None:
        """Raises HostError: the broker could not be reached. It has them before anything else
        when it is there again."""
        async with self._one:
            if self._broker is not None:
                rows = await self._store.read(secrets.list_secrets)
                entries = [sealed.entry(row.name, row.terms, row.sealed) for row in rows]
                try:
                    await self._broker.set_secrets(entries)
                except Invalid as error:  # it has the others
                    log.warning("the broker cannot use a secret: %s", error.message)
