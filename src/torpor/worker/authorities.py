"""The certificate authorities that this host's machines trust (`torpor.egress.authority`).

`current` is the data directory's own, made when it is first needed: agents that are loaded from
then on trust it. A machine trusts what it was loaded with, whatever is current since, and names it
when it asks for more certificates.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from torpor.contextlog import authorities
from torpor.contextlog.authorities import AuthorityRow
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.egress import Rule
from torpor.core.errors import NotFound
from torpor.egress.authority import Authority, Leaf
from torpor.logstore.protocol import Store
from torpor.snapshot import hostkey
from torpor.worker.sealing import SealingKeys, of_authority


class Authorities:
    def __init__(self, store: Store, keys: SealingKeys, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store, self._keys, self._clock = store, keys, clock
        self._opened: dict[str, Authority] = {}
        self._current: Authority | None = None
        self._one = asyncio.Lock()

    async def current(self) -> Authority:
        """The one that agents are loaded with. Raises HostError, Damaged."""
        async with self._one:
            if self._current is None:
                row = await self._store.read(authorities.find_own)
                if row is None:
                    new = await self.row_of(Authority.new(), own=True)
                    row = await self._store.write(lambda c: authorities.put_own(c, new))
                self._current = await self._open(row)
            return self._current

    async def find(self, fingerprint: str) -> Authority | None:
        """Raises HostError, Damaged."""
        if (known := self._opened.get(fingerprint)) is not None:
            return known
        row = await self._store.read(lambda c: authorities.find_authority(c, fingerprint))
        return None if row is None else await self._open(row)

    async def all(self) -> dict[str, Authority]:
        """All that are known here, by their fingerprints. Raises HostError, Damaged."""
        rows = await self._store.read(authorities.list_authorities)
        return {row.fingerprint: await self._open(row) for row in rows}

    async def leaves_for(self, rules: Iterable[Rule]) -> list[Leaf]:
        """What an agent that is loaded now gets for its rules. Raises HostError, Damaged."""
        return (await self.current()).leaves(rules)

    async def leaf_for(self, name: str, fingerprint: str) -> Leaf:
        """One more certificate, for a machine that trusts this authority. Both come from it
        (rule 13). Raises NotFound, Invalid, HostError, Damaged."""
        authority = await self.find(fingerprint)
        if authority is None:
            raise NotFound(f"there is no certificate authority {fingerprint[:64]}")
        return authority.leaf([name])

    async def row_of(self, authority: Authority, *, own: bool = False) -> AuthorityRow:
        """To be recorded: this host's own, or one that came with an import. Raises HostError."""
        mark = authority.fingerprint
        sealed = await self._keys.seal(hostkey.AUTHORITY, of_authority(mark), authority.key)
        return AuthorityRow(mark, authority.certificate, sealed, own, self._clock.now())

    async def _open(self, row: AuthorityRow) -> Authority:
        key = await self._keys.open_authority(row.fingerprint, row.sealed)
        opened = self._opened[row.fingerprint] = Authority(row.certificate, key)
        return opened
