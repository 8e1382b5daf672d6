"""Webhooks in: who may send what, and what becomes of it (`torpor.contextlog.hooks`).

Messages are signed as Standard Webhooks has it (`torpor.policy.signing`), with a secret that is
derived from the host's key and the hook's id: it is kept nowhere, and shown when the hook is made.
What is not signed, or is not from now, changes nothing, and its sender is told no more than that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import agents, hooks, runs
from torpor.contextlog.deployments import Preference, choose_current, origins_of
from torpor.contextlog.forks import find_run
from torpor.contextlog.hooks import HookRow
from torpor.contextlog.runs import RunRow
from torpor.control.service.waiting import Waiting
from torpor.core import jsonvalues
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.errors import Invalid, NotFound
from torpor.core.ids import RunId
from torpor.logstore.protocol import Store
from torpor.policy import signing
from torpor.policy.inputs import check_input
from torpor.policy.signing import Unsigned
from torpor.worker.sealing import Keys

__all__ = ["Hooks", "Unsigned"]

log = logging.getLogger(__name__)

PATH = "/hooks/"

Object = dict[str, Any]


class Hooks:
    def __init__(
        self,
        store: Store,
        keys: Keys,
        waiting: Waiting,
        made: Callable[[RunRow], object],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`made` is told of each run that was started."""
        self._store = store
        self._keys = keys
        self._waiting = waiting
        self._made = made
        self._clock = clock

    async def create(
        self, agent: str, event: str | None, run_at: str | None, into: str | None
    ) -> Object:
        """With its secret, which is shown only now. Raises as `create_hook`."""
        await self._key("")  # before anything is written: the host's key may be gone
        made = await self._store.write(
            lambda c: hooks.create_hook(
                c, agent, event=event, run_at=run_at, into=into, now=self._clock.now()
            )
        )
        return self._shown(made) | {"secret": signing.secret(await self._key(made.id))}

    async def list(self, revoked: bool) -> list[Object]:
        found = await self._store.read(lambda c: hooks.list_hooks(c, revoked=revoked))
        return [self._shown(hook) for hook in found]

    async def revoke(self, ref: str) -> Object:
        return self._shown(
            await self._store.write(lambda c: hooks.revoke_hook(c, ref, self._clock.now()))
        )

    async def receive(self, hook: str, headers: Mapping[str, str], body: bytes) -> Object:
        """Take a message. Raises NotFound (no such hook, or run), Unsigned, Invalid, Conflict."""
        row = await self._store.read(lambda c: hooks.open_hook(c, hook))
        try:
            id = signing.verify(await self._key(row.id), headers, body, self._clock.now())
        except Unsigned as error:
            log.warning("a message to %s was refused: %s", row.id, error)
            raise
        given = _parsed(body)
        if row.event is None:
            return await self._start(row, id, given)
        run = await self._store.read(lambda c: _addressed(c, row, given))
        event = f"{row.id}:{id}"
        return await self._waiting.send(run.id, row.event, given, by=row.id, event=event)

    async def _start(self, row: HookRow, id: str, given: Any) -> Object:
        def write(c: Connection) -> tuple[RunRow, bool]:
            key = f"{row.id}:{id}"
            if (known := runs.made_with(c, key)) is not None:
                return known, True
            chosen = choose_current(c, row.agent, Preference(origin=row.origin))
            input = given if row.into is None else {row.into: given}
            if not isinstance(input, dict):
                raise Invalid(
                    f"the message cannot be the input of {row.agent}: it must be a JSON object",
                    hint="A hook created with --into PARAMETER takes any JSON.",
                )
            check_input(chosen.agent, input)
            made = runs.create_run(
                c,
                version=chosen.row.version,
                agent=chosen.agent["name"],
                input=input,
                id_key=key,
                now=self._clock.now(),
            )
            return made, False

        made, again = await self._store.write(write)
        if not again:
            self._made(made)
        return {"run": made.id, "seq": None, "name": None, "wait": None, "again": again}

    def _shown(self, hook: HookRow) -> Object:
        return hook.to_json() | {"url": f"{self._waiting.base or ''}{PATH}{hook.id}"}

    async def _key(self, hook: str) -> bytes:
        return await self._keys.derived(f"torpor hook 1 {hook}")


def _parsed(body: bytes) -> Any:
    try:
        return jsonvalues.read(body)
    except jsonvalues.Refused as error:
        raise Invalid(f"the message {error}") from error
    except ValueError as error:
        raise Invalid(f"the message is not valid JSON: {error}") from error


def _addressed(c: Connection, hook: HookRow, given: Any) -> RunRow:
    """The run that a message is for. Raises Invalid, NotFound."""
    at = given
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
