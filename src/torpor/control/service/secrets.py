"""Secrets of agents: sealed as they come in, recorded with who set them, handed to the broker."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from torpor.contextlog import agents, secrets
from torpor.contextlog.secrets import SecretRow
from torpor.control.handing import Handing
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.errors import HostError
from torpor.core.secrets import Author, Terms, check_secret_name, check_value, parse_terms
from torpor.egress import sealed
from torpor.logstore.protocol import Store
from torpor.service.secrets import Secret, SecretChange, SetSecret
from torpor.service.shapes import reply
from torpor.snapshot import hostkey
from torpor.worker.sealing import SealingKeys

log = logging.getLogger(__name__)


class Secrets:
    """See `torpor.service.secrets.Secrets`."""

    def __init__(
        self, store: Store, keys: SealingKeys, handing: Handing, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._store, self._keys, self._handing = store, keys, handing
        self._clock = clock

    async def set(
        self,
        name: str,
        value: str,
        *,
        hosts: Sequence[str] | None = None,
        placement: Mapping[str, str] | None = None,
        agents: Sequence[str] | None = None,
        author: Author,
    ) -> SetSecret:
        given = {"hosts": hosts, "placement": placement, "agents": agents}
        terms = parse_terms(given, check_secret_name(name))
        sealed_value = await self._sealed(name, terms, value)
        now = self._clock.now()

        def write(c: Connection) -> tuple[Secret, Sequence[str]]:
            secrets.put_secret(c, name, terms, sealed_value, author, now)
            return _shown(c, name), _unknown(c, terms)

        shown, unknown = await self._store.write(write)
        await self._hand(f"secret {name} was set", author)
        return reply(SetSecret, shown, unknown_agents=unknown)

    async def rotate(self, name: str, value: str, *, author: Author) -> Secret:
        row = await self._store.read(lambda c: secrets.get_secret(c, name))
        sealed_value = await self._sealed(name, row.terms, value)
        now = self._clock.now()

        def write(c: Connection) -> Secret:
            secrets.rotate_secret(c, name, row.terms, sealed_value, author, now)
            return _shown(c, name)

        shown = await self._store.write(write)
        await self._hand(f"secret {name} was rotated", author)
        return shown

    async def remove(self, name: str, *, author: Author) -> Secret:
        now = self._clock.now()

        def write(c: Connection) -> Secret:
            shown = _shown(c, name)
            secrets.remove_secret(c, name, author, now)
            return shown

        shown = await self._store.write(write)
        await self._hand(f"secret {name} was removed", author)
        return shown

    async def list(self) -> Sequence[Secret]:
        return await self._store.read(_list)

    async def changes(self, name: str | None = None) -> Sequence[SecretChange]:
        rows = await self._store.read(lambda c: secrets.list_changes(c, name))
        return [
            reply(
                SecretChange,
                {key: getattr(row, key) for key in ("name", "what", "at", "by")},
                whence=row.detail.get("whence", ""),
            )
            for row in rows
        ]

    async def _sealed(self, name: str, terms: Terms, value: str) -> bytes:
        checked = check_value(value)
        owner = sealed.owner_of(name, terms)
        return await self._keys.seal(hostkey.SECRET, owner, checked.encode())

    async def _hand(self, what: str, author: Author) -> None:
        log.info("%s by %s", what, author.by)
        try:
            await self._handing.hand()
        except HostError as error:
            # It is not there, so it sends nothing; the next one begins with what is written now.
            log.warning("%s, and no broker is there: %s", what, error.message)


def _list(c: Connection) -> list[Secret]:
    changes = secrets.last_changes(c)
    return [_secret(row, changes.get(row.name, {})) for row in secrets.list_secrets(c)]


def _shown(c: Connection, name: str) -> Secret:
    return _secret(secrets.get_secret(c, name), secrets.last_changes(c).get(name, {}))


def _secret(row: SecretRow, changes: Mapping[str, secrets.Change]) -> Secret:
    put, rotated = changes[secrets.SET], changes.get(secrets.ROTATED)
    return reply(
        Secret,
        row.terms.to_json(),
        name=row.name,
        set_at=put.at,
        set_by=put.by,
        rotated_at=rotated and rotated.at,
        rotated_by=rotated and rotated.by,
        used_at=row.used_at,
    )


def _unknown(c: Connection, terms: Terms) -> list[str]:
    """Agents that no version offers."""
    rows = agents.list_agents(c)
    known = {row.name for row in rows} | {each["name"] for row in rows for each in row.agents}
    return sorted(set(terms.agents or ()) - known)
