"""Webhooks in: who may send what, and what becomes of it (`torpor.contextlog.hooks`).

Messages are signed as Standard Webhooks has it (`torpor.policy.signing`), with a secret that is
derived from the host's key and the hook's id: it is kept nowhere, and shown when the hook is made.
What is not signed, or is not from now, changes nothing, and its sender is told no more than that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import agents, hooks, runs
from torpor.contextlog.deployments import Preference, choose_current, origins_of
from torpor.contextlog.forks import find_run
from torpor.contextlog.hooks import HookRow
from torpor.contextlog.runs import RunRow
from torpor.control.service.events import Events
from torpor.control.service.tokens import Urls
from torpor.core import jsonvalues
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.errors import Invalid, NotFound
from torpor.core.ids import RunId
from torpor.core.webhooks import Unsigned, check_url
from torpor.logstore.protocol import Store
from torpor.policy import signing
from torpor.policy.inputs import check_input
from torpor.service.events import Sent
from torpor.service.hooks import CreatedHook, Hook, UrlSecret
from torpor.service.shapes import reply
from torpor.worker.sealing import SealingKeys

log = logging.getLogger(__name__)

PATH = "/hooks/"


class Hooks:
    """See `torpor.service.hooks.Hooks`."""

    def __init__(
        self,
        store: Store,
        keys: SealingKeys,
        events: Events,
        urls: Urls,
        created: Callable[[RunRow], object],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`created` is called with each run that was started."""
        self._store = store
        self._keys = keys
        self._events, self._urls = events, urls
        self._created = created
        self._clock = clock

    async def create(
        self,
        agent: str,
        event: str | None = None,
        run_at: str | None = None,
        into: str | None = None,
    ) -> CreatedHook:
        await self._key("")  # before anything is written: the host's key may be gone
        created = await self._store.write(
            lambda c: hooks.create_hook(
                c, agent, event=event, run_at=run_at, into=into, now=self._clock.now()
            )
        )
        secret = signing.secret(await self._key(created.id))
        return reply(CreatedHook, self._shown(created), secret=secret)

    async def list(self, revoked: bool = False) -> Sequence[Hook]:
        found = await self._store.read(lambda c: hooks.list_hooks(c, revoked=revoked))
        return [self._shown(hook) for hook in found]

    async def revoke(self, ref: str) -> Hook:
        return self._shown(
            await self._store.write(lambda c: hooks.revoke_hook(c, ref, self._clock.now()))
        )

    async def url_secret(self, url: str) -> UrlSecret:
        secret = signing.secret(await url_key(self._keys, check_url(url, "url")))
        return reply(UrlSecret, url=url, secret=secret)

    async def receive(self, hook: str, headers: Mapping[str, str], body: bytes) -> Sent:
        row = await self._store.read(lambda c: hooks.open_hook(c, hook))
        try:
            id = signing.verify(await self._key(row.id), headers, body, self._clock.now())
        except Unsigned as error:
            log.warning("a message to %s was refused: %s", row.id, error)
            raise
        message = _parsed(body)
        if row.event is None:
            return await self._start(row, id, message)
        run = await self._store.read(lambda c: _addressed(c, row, message))
        return await self._events.send(run.id, row.event, message, by=row.id, id=f"{row.id}:{id}")

    async def _start(self, row: HookRow, id: str, message: Any) -> Sent:
        def write(c: Connection) -> tuple[RunRow, bool]:
            key = f"{row.id}:{id}"
            if (known := runs.made_with(c, key)) is not None:
                return known, True
            chosen = choose_current(c, row.agent, Preference(origin=row.origin))
            input = message if row.into is None else {row.into: message}
            if not isinstance(input, dict):
                raise Invalid(
                    f"the message cannot be the input of {row.agent}: it must be a JSON object",
                    hint="A hook created with --into PARAMETER takes any JSON.",
                )
            check_input(chosen.agent, input)
            run = runs.create_run(
                c,
                version=chosen.row.version,
                agent=chosen.agent["name"],
                input=input,
                id_key=key,
                now=self._clock.now(),
            )
            return run, False

        run, again = await self._store.write(write)
        if not again:
            self._created(run)
        return reply(Sent, run=run.id, seq=None, name=None, wait=None, again=again)

    def _shown(self, hook: HookRow) -> Hook:
        return reply(Hook, hook.to_json(), url=f"{self._urls.base or ''}{PATH}{hook.id}")

    async def _key(self, hook: str) -> bytes:
        return await self._keys.derived(f"torpor hook 1 {hook}")


def _parsed(body: bytes) -> Any:
    try:
        return jsonvalues.read(body)
    except jsonvalues.Refused as error:
        raise Invalid(f"the message {error}") from error
    except ValueError as error:
        raise Invalid(f"the message is not valid JSON: {error}") from error


async def url_key(keys: SealingKeys, url: str) -> bytes:
    """What messages to `url` are signed with. Raises Missing, HostError."""
    return await keys.derived(f"torpor webhook 1 {url}")


def _addressed(c: Connection, hook: HookRow, message: Any) -> RunRow:
    """The run that a message is for. Raises Invalid, NotFound."""
    at = message
    for key in (hook.run_at or "").split("."):
        at = at.get(key) if isinstance(at, dict) else None
    if not isinstance(at, str) or not at:
        raise Invalid(f"the message names no run at {hook.run_at}")
    run = runs.made_with(c, at) or find_run(c, RunId(at))
    if run is not None:
        name = agents.get_agent(c, run.version).name
        same = not hook.origin or hook.origin in origins_of(c, run.version)
        if same and f"{name}:{run.agent}" == hook.agent:
            return run
    # Of another agent is as good as none: a hook tells nothing of those.
    raise NotFound(f"{hook.agent} has no run {at[:100]!r}")
