"""Bases: frozen machines that are not an agent's yet, upon which its template is made in seconds.

    booted     the image has booted, the agent's process has started and knows its dependencies
    imported   upon that: what the agent imports first anyway is imported (`torpor.core.imports`)

Each has a key of all that it depends on, so that whoever has the same key would make the same. A
template is a snapshot of a machine that was restored from a base, given the agent's files, and
loaded them; its manifest names all layers that it needs, and the base may go at any time. A base
whose files are not whole is forgotten, and made again when it is needed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from torpor.contextlog import bases
from torpor.contextlog.bases import BaseRow
from torpor.core.agentfile import AgentSource
from torpor.core.clock import Clock
from torpor.core.errors import Damaged, GuestError, Invalid, NotFound
from torpor.core.ids import Epoch, RunId
from torpor.core.imports import Import, imports_relatively
from torpor.core.layout import OURS
from torpor.engine.protocol import Shape
from torpor.logstore.protocol import Store
from torpor.machines.capture import Captured
from torpor.machines.host import Frozen, Machines
from torpor.machines.live import Live
from torpor.machines.thaw import thaw
from torpor.wire.link import LinkState

log = logging.getLogger(__name__)

# Counts changes in what a base is.
_LAYOUT = 2
_NOBODY, _NO_EPOCH = RunId("base"), Epoch(1)


def booted_key(shape: Shape, source: AgentSource, authority: str) -> str:
    """The environment is there when the agent's process starts, and so is the authority, by its
    fingerprint: what is imported may read whom to trust."""
    return _digest("booted", shape, source, authority)


def imported_key(
    shape: Shape, source: AgentSource, authority: str, modules: Sequence[Import]
) -> str:
    files = {path: hashlib.sha256(body).hexdigest() for path, body in outline(source).files.items()}
    known = (source.entry, sorted(source.executable), files)
    return _digest("imported", shape, source, authority, *known, list(modules))


def outline(source: AgentSource) -> AgentSource:
    """The agent as far as imports that come first may know it: which files there are, and how its
    project is installed, but nothing that is in its own files. The entry tells whether it is to be
    imported as part of a package (`torpor.sdk.entry`)."""
    files = {
        path: body if path.startswith(f"{OURS}/") else b"" for path, body in source.files.items()
    }
    if imports_relatively(source.files[source.entry]):
        files[source.entry] = b"from . import x\n"
    return replace(source, files=files)


def _digest(kind: str, shape: Shape, source: AgentSource, *more: Any) -> str:
    egress = [dict(entry) for entry in source.egress]  # the gateway has its rules
    facts = (kind, shape.facts(), dict(source.env), egress, *more)
    return hashlib.sha256(json.dumps([_LAYOUT, *facts], sort_keys=True).encode()).hexdigest()[:32]


class Bases:
    def __init__(self, machines: Machines, store: Store, clock: Clock) -> None:
        self._clock = clock
        self._machines = machines
        self._store = store
        self._making: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def making(self, key: str) -> AbstractAsyncContextManager[None]:
        """Inside, nobody else makes the base of this key: who comes later finds it."""
        return self._making[key]

    async def restore(self, key: str) -> Live | None:
        """A machine that goes on from the base of this key; None if there is none that is whole.
        Raises HostError."""
        base = await self._store.write(lambda c: bases.use_base(c, key, self._clock.now()))
        if base is None:
            return None
        problems = await asyncio.to_thread(self._machines.store.verify, base.manifest)
        try:
            if not problems:
                return await self._go_on(base)
        except (Damaged, NotFound, Invalid, GuestError) as error:
            problems = [error.message]
        log.warning("a base is forgotten: %s", "; ".join(problems))
        await self.forget(key)
        return None

    async def _go_on(self, base: BaseRow) -> Live:
        link = LinkState.from_json(base.link)
        live = await self._machines.restore(Frozen(base.manifest, link))
        try:
            await thaw(live.guest, _NOBODY, _NO_EPOCH, started=False, journal=[])
        except BaseException:
            await self._machines.discard(live)
            raise
        return live

    async def keep(self, key: str, captured: Captured) -> None:
        """Record a base that is durable."""
        manifest, link, size = captured.manifest, captured.link.to_json(), captured.bytes
        await self._store.write(
            lambda c: bases.put_base(
                c, key, manifest=manifest, link=link, bytes=size, now=self._clock.now()
            )
        )

    async def forget(self, key: str) -> None:
        await self._store.write(lambda c: bases.forget_bases(c, [key]))
