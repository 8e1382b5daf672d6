"""API keys and tokens: created, listed, revoked, recognized."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from torpor.contextlog import access, runs, waits
from torpor.contextlog.access import KeyRow
from torpor.core.access import (
    Grant,
    Scope,
    check_restriction,
    digest,
    key_text,
    new_secret,
    parse_key,
    same,
)
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.errors import Invalid, Unauthorized
from torpor.core.ids import new_id
from torpor.logstore.protocol import Store
from torpor.service.keys import TOKEN_S, Key, NewKey
from torpor.service.shapes import reply

_NOT_VALID = "this key is not valid"


class ApiKeys:
    """See `torpor.service.keys.ApiKeys`."""

    def __init__(self, store: Store, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store = store
        self._clock = clock

    async def create(
        self,
        name: str,
        scopes: Sequence[Scope],
        agents: Sequence[str] | None = None,
        expires_s: float | None = None,
    ) -> NewKey:
        if not scopes:
            raise Invalid("a key needs at least one scope", hint=f"Scopes: {', '.join(Scope)}.")
        check_restriction(scopes, agents is not None)
        return await self._keep(name, scopes, agents=agents, expires_s=expires_s)

    async def create_token(
        self, run: str | None = None, wait: str | None = None, expires_s: float = TOKEN_S
    ) -> NewKey:
        if (run is None) == (wait is None):
            raise Invalid("a token must be for a run or for a wait")

        def find(c: Connection) -> tuple[str | None, str | None]:
            of_run = None if run is None else runs.get_run(c, run).id
            return of_run, None if wait is None else waits.get_wait(c, wait).id

        run, wait = await self._store.read(find)
        scopes = [Scope.OBSERVE] if run is not None else [Scope.OBSERVE, Scope.OPERATE]
        return await self._keep("token", scopes, run=run, wait=wait, expires_s=expires_s)

    async def _keep(
        self,
        name: str,
        scopes: Sequence[Scope],
        *,
        agents: Sequence[str] | None = None,
        run: str | None = None,
        wait: str | None = None,
        expires_s: float | None,
    ) -> NewKey:
        now, secret = self._clock.now(), new_secret()
        row = KeyRow(
            id=new_id("key").removeprefix("key_"),
            name=name,
            digest=digest(secret),
            scopes=sorted({scope.value for scope in scopes}),
            agents=None if agents is None else sorted(set(agents)),
            run=run,
            wait=wait,
            created_at=now,
            expires_at=None if expires_s is None else now + expires_s,
            revoked_at=None,
        )
        kept = await self._store.write(lambda c: access.put_key(c, row))
        return reply(NewKey, kept.to_json(), key=key_text(row.id, secret))

    async def list(self) -> list[Key]:
        return [reply(Key, row.to_json()) for row in await self._store.read(access.list_keys)]

    async def revoke(self, ref: str) -> Key:
        now = self._clock.now()
        revoked = await self._store.write(lambda c: access.revoke_key(c, ref, now))
        return reply(Key, revoked.to_json())

    async def recognize(self, text: str) -> Grant:
        parsed = parse_key(text)
        if parsed is None:
            raise Unauthorized(_NOT_VALID, hint="Keys begin with torpor_.")
        id, secret = parsed
        row = await self._store.read(lambda c: access.find_key(c, id))
        if row is None or not same(row.digest, secret):
            raise Unauthorized(_NOT_VALID, hint="Did you copy all of it?")
        if (why_not := row.why_not(self._clock.now())) is not None:
            raise Unauthorized(f"this key {why_not}", hint=("torpor keys create makes a new one."))
        return row.grant()
