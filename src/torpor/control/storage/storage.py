"""What snapshots take on the disk: what is kept, what goes, whether it is whole.

Two steps, so that nothing is removed that may still be wanted. *Reclaim* is a transaction:
what the policy does not keep (`torpor.policy.retention`) is marked in the log, and no run is
restored from it any more; the key of an ended run that keeps nothing is destroyed. *Collect*
(`torpor.snapshot.gc`) then removes the files that nothing live reaches, after a grace period.
Files of runs are the same: forgotten in the transaction where no run has them any more.

That happens now and then, some time after runs have ended, and when somebody asks.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import agents, bases, files, runs, snapshots
from torpor.contextlog.bases import BaseRow
from torpor.contextlog.keys import destroy_unused_keys
from torpor.contextlog.runs import RunRow
from torpor.contextlog.snapshots import LiveRow, SnapshotRow
from torpor.contextlog.values import value_names
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.errors import TorporError
from torpor.core.ids import AgentVersion, RunId
from torpor.core.keep import parse_keep
from torpor.core.limits import LIMITS, ServerLimits
from torpor.core.states import FINAL, UNFINISHED
from torpor.logstore.protocol import Store
from torpor.policy import retention
from torpor.policy.retention import Deployed, Taken
from torpor.snapshot import gc
from torpor.snapshot.manifest import LayerRef
from torpor.snapshot.seal import Key
from torpor.snapshot.store import SnapshotStore
from torpor.snapshot.values import VALUES
from torpor.snapshot.values import collect as collect_values
from torpor.worker.metrics import Metrics
from torpor.worker.sealing import SealingKeys

log = logging.getLogger(__name__)

Object = dict[str, Any]


@dataclass(frozen=True)
class _Plan:
    """What the policy says of all that is live."""

    reclaimed: list[LiveRow]
    roots: frozenset[str]  # manifests of what stays
    bases: frozenset[str]  # keys of those that go
    templates: dict[AgentVersion, str]  # those that stay, and why
    kept: int  # snapshots of runs that stay
    kept_bases: int


class Storage:
    def __init__(
        self,
        store: Store,
        blobs: SnapshotStore,
        keys: SealingKeys,
        metrics: Metrics,
        clock: Clock = SYSTEM_CLOCK,
        limits: ServerLimits = LIMITS,
    ) -> None:
        self._clock, self._limits = clock, limits
        self._metrics = metrics
        self._store = store
        self._blobs = blobs
        self._keys = keys
        self._collecting = asyncio.Lock()
        self._ended = asyncio.Event()

    def run_ended(self) -> None:
        """There may be something to collect soon."""
        self._ended.set()

    async def tend(self) -> None:
        """Collect now and then, for ever."""
        again_s = self._limits.collect_every_s
        while True:
            with suppress(TimeoutError):
                async with self._clock.timeout(again_s):
                    await self._ended.wait()
                    await self._clock.sleep(self._limits.collect_after_end_s)
            self._ended.clear()
            try:
                report = await self.collect(dry_run=False)
            except TorporError as error:
                log.warning("garbage was not collected: %s", error.message)
                continue
            except Exception:  # ours to mend; the next time may be another matter
                log.exception("garbage collection failed")
                continue
            for problem in report["problems"]:
                log.warning("garbage collection: %s", problem)
            if report["bytes"]:
                log.info("garbage collection freed %d bytes", report["bytes"])
            young, every = self._limits.garbage_young_s, self._limits.collect_every_s
            again_s = young if report["young_bytes"] else every

    async def collect(self, *, dry_run: bool) -> Object:
        """Reclaim and collect, or only say what that would do. Raises HostError."""
        async with self._collecting:
            now = self._clock.now()
            before = now - self._limits.garbage_young_s
            frozen = await self._store.read(bases.list_bases)
            lost = await asyncio.to_thread(self._unreadable, frozen)
            if dry_run:
                plan = await self._store.read(lambda c: _plan(c, now, lost))
            else:
                plan, destroyed = await self._store.write(lambda c: _reclaim(c, now, lost))
                if destroyed:
                    await self._store.scrub()
            swept = await asyncio.to_thread(
                gc.collect, self._blobs, plan.roots, before=before, dry_run=dry_run
            )
            named = await self._store.read(lambda c: _named(c, now))
            values = await asyncio.to_thread(
                collect_values, self._blobs.blobs, named, before=before, dry_run=dry_run
            )
        if not dry_run:
            self._metrics.freed(swept.bytes + values.bytes)
        return {
            "dry_run": dry_run,
            "reclaimed": [{"id": row.id, "run": row.run} for row in plan.reclaimed],
            "manifests": len(swept.manifests),
            "layers": len(swept.layers),
            "values": values.values,
            "bytes": swept.bytes + values.bytes,
            "young_bytes": swept.young_bytes + values.young_bytes,
            "kept_bytes": swept.kept_bytes + values.kept_bytes,
            "kept_snapshots": plan.kept,
            "kept_templates": [{"version": v, "why": why} for v, why in plan.templates.items()],
            "kept_bases": plan.kept_bases,
            "problems": list(swept.problems),
        }

    def _unreadable(self, frozen: Iterable[BaseRow]) -> set[str]:
        """The keys of the bases that are no good: damaged, or of a home that this is a backup of.
        Nothing is kept for their sake."""
        found = set()
        for base in frozen:
            try:
                self._blobs.layers(base.manifest)
            except TorporError:
                found.add(base.key)
        return found

    async def remove(self, manifests: Collection[str], values: Collection[str]) -> None:
        """Remove the files of a run that was deleted, as far as they are nobody else's."""
        async with self._collecting:
            live, frozen, named = await self._store.read(
                lambda c: (snapshots.live_snapshots(c), bases.list_bases(c), _named(c, 0.0))
            )
            roots = _manifests(live, frozen)
            await asyncio.to_thread(gc.remove, self._blobs, manifests, roots)
            for name in set(values) - named:
                self._blobs.blobs.delete_unused(VALUES, name, before=self._clock.now())
        self.run_ended()

    @asynccontextmanager
    async def undisturbed(self) -> AsyncIterator[None]:
        """Inside, no garbage is collected (rule 12)."""
        async with self._collecting:
            yield

    async def verify(self, ref: str) -> Object:
        """Read all bytes that the run's snapshots and its template need. What is damaged or
        missing, and which other runs need it too."""

        def read(c: Connection) -> tuple[RunId, list[SnapshotRow]]:
            run = runs.get_run(c, ref)
            template = agents.get_agent(c, run.version).template
            mine = snapshots.list_snapshots(c, run.id)
            base = None if run.state in FINAL else snapshots.base_of(c, run.id)
            shared = [base, snapshots.get_snapshot(c, template) if template else None]
            return run.id, mine + [row for row in shared if row is not None]

        run, rows = await self._store.read(read)
        key = await self._keys.find(run)
        problems = await asyncio.to_thread(self._problems, [row.manifest for row in rows], key)
        users = await self._users() if problems else {}
        return {
            "run": run,
            "snapshots": [
                {
                    "id": row.id,
                    "template": row.run is None,
                    "problems": sorted(
                        {problem for problem, where in problems if row.manifest in where}
                    ),
                }
                for row in rows
            ],
            "problems": [
                {"problem": problem, "runs": sorted({r for m in where for r in users.get(m, ())})}
                for problem, where in problems
            ],
        }

    def _problems(self, manifests: list[str], key: Key | None) -> list[tuple[str, set[str]]]:
        """What is wrong, and with the manifests of which live snapshots: of all, not only these.
        Every layer is read once."""
        found: list[tuple[str, set[str]]] = []
        layers: dict[LayerRef, set[str]] = defaultdict(set)
        for manifest in dict.fromkeys(manifests):
            try:
                for layer in self._blobs.load(manifest, key).layers:
                    layers[layer].add(manifest)
            except TorporError as error:
                found.append((error.message, {manifest}))
        bad = {
            layer: problem for layer in layers if (problem := self._blobs.verify_layer(layer, key))
        }
        return found + [(problem, self._naming(layer)) for layer, problem in bad.items()]

    def _naming(self, layer: LayerRef) -> set[str]:
        """All manifests there are that name the layer."""
        naming = set()
        for blob in self._blobs.manifests():
            with suppress(TorporError):
                if layer in self._blobs.layers(blob):
                    naming.add(blob)
        return naming

    async def _users(self) -> dict[str, set[RunId]]:
        """Manifest → the runs that have a snapshot or a template of it and may yet need it."""

        def read(c: Connection) -> dict[str, set[RunId]]:
            users: dict[str, set[RunId]] = defaultdict(set)
            unfinished, based = defaultdict(set), defaultdict(set)
            for run in runs.runs_in(c, UNFINISHED):
                unfinished[run.version].add(run.id)
                based[run.base].add(run.id)
            for row in snapshots.live_snapshots(c):
                mine = unfinished[row.version] if row.run is None else {row.run}
                users[row.manifest] |= mine | based[row.id]
            return users

        return await self._store.read(read)


def _reclaim(c: Connection, now: float, lost: Collection[str]) -> tuple[_Plan, bool]:
    """What was planned, and whether keys were destroyed, as nothing is left to open."""
    plan = _plan(c, now, lost)
    snapshots.reclaim(c, [row.id for row in plan.reclaimed], now)
    bases.forget_bases(c, plan.bases)
    dropped = files.drop_unneeded(c, now)
    return plan, bool(destroy_unused_keys(c)) or any(row.wrapped for row in dropped)


def _named(c: Connection, now: float) -> frozenset[str]:
    """The values that stay: results, and files of runs."""
    return value_names(c) | files.file_names(c, now)


def _plan(c: Connection, now: float, lost: Collection[str]) -> _Plan:
    """`lost` are keys of bases."""
    live = snapshots.live_snapshots(c)
    known = {agent.version: agent for agent in agents.list_agents(c)}
    unfinished = {run.id: run for run in runs.runs_in(c, UNFINISHED)}
    using = Counter(run.version for run in unfinished.values())
    kept = retention.templates_kept(
        [
            Deployed(agent.version, agent.entry, agent.used_at, using[agent.version])
            for agent in known.values()
            if agent.template is not None
        ],
        now=now,
    )
    current = {known[version].template for version in kept}
    doomed = {row.id for row in live if row.run is None and row.id not in current}
    of_runs = {row.id: row for row in live if row.run is not None}
    doomed |= set(of_runs)
    for run, taken in _restorable(of_runs.values(), unfinished.values()).items():
        keep = parse_keep(known[taken[0].version].spec.get("keep", ""), "keep")
        going = retention.reclaimable(
            [Taken(row.id, row.created_at, row.pinned) for row in taken],
            keep,
            finished=run not in unfinished,
            now=now,
        )
        doomed -= {row.id for row in taken} - set(going)
    stay = [row for row in live if row.id not in doomed]
    frozen = {base.key: base for base in bases.list_bases(c)}
    used_at = {key: frozen[key].used_at for key in frozen.keys() - set(lost)}
    useful = retention.bases_kept(used_at, now=now)
    return _Plan(
        reclaimed=[row for row in live if row.id in doomed],
        roots=_manifests(stay, [frozen[key] for key in useful]),
        bases=frozenset(frozen.keys() - useful),
        templates=kept,
        kept=_of_runs(stay),
        kept_bases=len(useful),
    )


def _restorable(
    snapshots: Iterable[LiveRow], unfinished: Iterable[RunRow]
) -> dict[RunId, list[LiveRow]]:
    """What each run may be restored from, newest first: its own, and a fork's base after them."""
    found: dict[RunId, list[LiveRow]] = defaultdict(list)
    known = {row.id: row for row in snapshots}
    for row in known.values():
        if row.run is not None:
            found[row.run].append(row)
    for fork in unfinished:
        if fork.base in known:
            found[fork.id].append(known[fork.base])
    return found


def _manifests(rows: Iterable[LiveRow], frozen: Iterable[BaseRow]) -> frozenset[str]:
    return frozenset({row.manifest for row in rows} | {base.manifest for base in frozen})


def _of_runs(rows: Iterable[LiveRow]) -> int:
    return sum(row.run is not None for row in rows)
