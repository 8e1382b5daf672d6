"""What is reclaimed, in a real log and a real store; and runs that leave and come as files."""

from __future__ import annotations

import asyncio
import io
import json
import os
import tarfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Connection
from tests.unit.contextlog.conftest import claimable
from tests.unit.snapshot.gc_world import age

from torpor.blobs.local import LocalBlobs
from torpor.contextlog import agents, bases, entries, keys, runs, snapshots, waits
from torpor.contextlog.authorities import put_foreign
from torpor.contextlog.values import ValueRow, find_value, put_value
from torpor.control.service.files import Artifacts
from torpor.control.storage import transfer
from torpor.control.storage.storage import Storage
from torpor.core.agentfile import AgentSource
from torpor.core.errors import Conflict, Damaged, Invalid, NotFound
from torpor.core.home import Home
from torpor.core.ids import AgentVersion, Epoch, OpId, RunId
from torpor.core.position import Position
from torpor.core.states import RunState
from torpor.egress.authority import FACT, Authority
from torpor.engine.protocol import Shape
from torpor.logstore.sqlite import SqliteStore
from torpor.snapshot.build import Changed, build
from torpor.snapshot.layer import PAGE
from torpor.snapshot.seal import Key
from torpor.snapshot.store import SnapshotStore
from torpor.snapshot.values import VALUES, Incoming, Kept
from torpor.wire.link import LinkState
from torpor.worker.authorities import Authorities
from torpor.worker.loading import tar_of
from torpor.worker.metrics import Metrics
from torpor.worker.runfiles import RunFiles
from torpor.worker.sealing import SealingKeys
from torpor.worker.values import Values

IMAGE = "e" * 32
LINK = LinkState(0, 0, (), None, b"").to_json()
SHAPE = Shape("qemu", "7", "tcg", "cpu", "microvm", 512, 2048, IMAGE, "")
LONG_S = 3600.0
FIGURES: dict[str, Any] = {"pause_ms": 1.0, "freeze_ms": 2.0, "link": LINK}


@dataclass
class Place:
    """A data directory without machines."""

    home: Home
    log: SqliteStore
    blobs: SnapshotStore
    keys: SealingKeys
    storage: Storage
    values: Values
    trusted: str = ""  # what the machines of its snapshots trust

    @property
    def authorities(self) -> Authorities:
        return Authorities(self.log, self.keys)

    async def commit(self, fn: Callable[[Connection], Any]) -> Any:
        return await self.log.write(fn)

    async def deploy(self, text: str, keep: str = "", now: float = 1.0) -> AgentVersion:
        source = AgentSource("agent.py", {"agent.py": text.encode()}, keep=keep)
        version = source.version(IMAGE)
        manifest, size = self.freeze(None, int(text))

        def write(c: Connection) -> None:
            offered = [{"name": "a", "params": [], "open": False}]
            spec = {"dependencies": [], "memory_mib": 512, "disk_mib": 2048}
            agents.put_agent(
                c,
                agents.NewAgent(
                    engine="qemu",
                    version=version,
                    name="agent",
                    entry="agent.py",
                    source=tar_of(source),
                    spec=spec
                    | {"keep": keep, "on_divergence": "stop", "image": IMAGE, "default": "a"},
                    agents=offered,
                ),
                now,
            )
            taken = snapshots.record_snapshot(
                c,
                snapshots.NewSnapshot(
                    version=version, manifest=manifest, bytes=size, created_at=now, **FIGURES
                ),
            )
            agents.set_template(c, version, taken.id, boot_ms=1.0, template_bytes=size)

        await self.commit(write)
        return version

    def freeze(
        self, parent: str | None, seed: int, key: Any = None, shape: Shape = SHAPE
    ) -> tuple[str, int]:
        numbers = np.arange(20) if parent is None else np.arange(seed % 20, 20)
        pages = np.random.default_rng(seed).integers(0, 9, (len(numbers), PAGE)).astype(np.uint8)
        changed = {"memory": Changed.at_hand(20 * PAGE, numbers, pages)}
        before = self.blobs.load(parent, None) if parent else None
        reader = self.blobs.reader(before, _cache()) if before else None
        hot = np.empty(0, np.int64)
        facts = {"shape": shape.facts()} | ({FACT: self.trusted} if self.trusted else {})
        stored = self.blobs.put(build(before, reader, changed, hot=hot, facts=facts, key=key), key)
        return stored.manifest_digest, stored.bytes

    async def run(self, version: AgentVersion, frozen: int, now: float = 100.0) -> RunId:
        """A run that was frozen so often, and waits."""
        row = await self.commit(
            lambda c: runs.create_run(c, version=version, agent="a", input={"n": 1}, now=now)
        )
        run: RunId = row.id
        template = await self.log.read(
            lambda c: snapshots.get_snapshot(c, str(agents.get_agent(c, version).template))
        )
        key = await self.keys.of(run)
        for n in range(frozen):
            epoch: Epoch = await self.commit(lambda c: runs.claim(c, run, now))
            manifest, size = self.freeze(template.manifest, n + 1, key and key.key)

            def write(
                c: Connection,
                n: int = n,
                epoch: Epoch = epoch,
                manifest: str = manifest,
                size: int = size,
            ) -> None:
                named: dict[str, Any] = {"name": "w", "digest": "d", "kind": "wait"}
                op = OpId(f"wait:w#{n}")
                waits.create_wait(c, run, epoch, waits.NewWait(op=op, prompt="go?", **named), now)
                snapshots.record_snapshot(
                    c,
                    snapshots.NewSnapshot(
                        run=run,
                        epoch=epoch,
                        seq=runs.get_run(c, run).last_seq,
                        version=version,
                        manifest=manifest,
                        bytes=size,
                        created_at=now + n,
                        **FIGURES,
                    ),
                )
                if key is not None:
                    keys.put_key(c, run, key.wrapped)
                runs.transition(c, run, epoch, RunState.SUSPENDED, now)

            await self.commit(write)
        return run

    async def end(self, run: RunId) -> None:
        await self.commit(lambda c: runs.transition(c, run, None, RunState.CANCELLED, 200.0))

    async def left(self, run: RunId) -> int:
        return len(await self.log.read(lambda c: snapshots.list_snapshots(c, run)))

    async def export(self, run: RunId, snapshot: str | None = None) -> bytes:
        spool: Any = io.BytesIO()
        told = await self.log.read(lambda c: transfer.read_contents(c, run, snapshot, spool))
        key = await self.keys.find(run)
        opening = await transfer.keys_of(told, self.values, self.keys)
        trusted = await self.authorities.all()
        return b"".join(
            transfer.export(self.home, self.blobs, told, key, opening, trusted, now=1.0)
        )

    async def take(self, data: bytes) -> runs.RunRow:
        taken = transfer.Import(self.home, self.blobs)
        try:
            await asyncio.to_thread(taken.begin, transfer.arriving(_pieces(data)))
            await asyncio.to_thread(taken.store)
            run, key = RunId(taken.run["id"]), taken.key
            wrapped = None if key is None else await self.keys.wrapped(run, key)
            files = RunFiles(self.blobs.blobs, self.log, self.keys)
            given = [await files.row_of(*each) for each in taken.files]
            trusted = [await self.authorities.row_of(each) for each in taken.authorities]

            def record(c: Connection) -> runs.RunRow:
                for authority in trusted:
                    put_foreign(c, authority)
                return taken.record(c, wrapped, given)

            row: runs.RunRow = await self.commit(record)
            return row
        finally:
            taken.close()


def _cache() -> Any:
    from torpor.snapshot.reader import FrameCache

    return FrameCache(1 << 20)


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 10_000):
        yield data[start : start + 10_000]


@asynccontextmanager
async def place(root: Path, *, sealed: bool = True) -> AsyncIterator[Place]:
    home = Home(root).create()
    log = SqliteStore.open(home.database)
    blobs = SnapshotStore(LocalBlobs(home.blobs), lambda image: home.images / image / "root.erofs")
    held = SealingKeys(home, log, on=sealed)
    try:
        storage = Storage(log, blobs, held, Metrics())
        values = Values(blobs.blobs, home.run, log, held)
        yield Place(home, log, blobs, held, storage, values)
    finally:
        log.close()


def in_a_place(tmp_path: Path, story: Callable[[Place], Awaitable[None]]) -> None:
    async def main() -> None:
        async with place(tmp_path / "one") as here:
            await story(here)

    asyncio.run(main())


def test_reclaiming_follows_the_agents_rule(tmp_path: Path) -> None:
    async def story(here: Place) -> None:
        plain, three = await here.deploy("1"), await here.deploy("2", keep="last 3")
        going, gone = await here.run(plain, 4), await here.run(plain, 4)
        kept = await here.run(three, 5)
        await here.end(gone)
        await here.end(kept)
        pinned = (await here.log.read(lambda c: snapshots.list_snapshots(c, gone)))[2]
        await here.commit(lambda c: snapshots.set_pinned(c, pinned.id, True))

        wanted = await here.storage.collect(dry_run=True)
        of_runs = [each for each in wanted["reclaimed"] if each["run"] is not None]
        assert len(of_runs) == 2 + 3 + 2
        assert await here.left(going) == 4
        done = await here.storage.collect(dry_run=False)
        assert [r["id"] for r in done["reclaimed"]] == [r["id"] for r in wanted["reclaimed"]]
        assert (await here.left(going), await here.left(gone), await here.left(kept)) == (2, 1, 3)
        assert (done["bytes"], done["young_bytes"] > 0) == (0, True), "within the grace period"
        age(here.blobs, LONG_S)
        assert (await here.storage.collect(dry_run=False))["bytes"] == done["young_bytes"]
        for run in (going, gone, kept):
            verified = await here.storage.verify(run)
            assert verified["problems"] == []
        newest = await here.log.read(lambda c: snapshots.newest_snapshot(c, going))
        assert newest is not None and newest.created_at == 103.0
        all_of = await here.log.read(lambda c: snapshots.list_snapshots(c, gone, reclaimed=True))
        assert len(all_of) == 4, "records stay"
        with pytest.raises(Conflict, match="has been removed"):
            await here.commit(lambda c: snapshots.set_pinned(c, all_of[0].id, True))

    in_a_place(tmp_path, story)


def test_a_template_goes_when_a_newer_version_is_used_and_no_run_needs_it(tmp_path: Path) -> None:
    async def story(here: Place) -> None:
        old, new = await here.deploy("1", now=1.0), await here.deploy("2", now=2.0)
        run = await here.run(old, 0, now=1.5)
        reasons = {
            each["version"]: each["why"]
            for each in (await here.storage.collect(dry_run=False))["kept_templates"]
        }
        assert reasons == {old: "1 unfinished run", new: "the version of agent.py used last"}
        await here.end(run)
        done = await here.storage.collect(dry_run=False)
        assert [each["version"] for each in done["kept_templates"]] == [new]
        row = await here.log.read(lambda c: agents.get_agent(c, old))
        assert row.template is None, "deploying it again makes another"
        await here.commit(lambda c: agents.deployed_again(c, new, {"keep": "7d"}, 9.0))
        assert (await here.log.read(lambda c: agents.get_agent(c, new))).spec["keep"] == "7d"

    in_a_place(tmp_path, story)


def test_a_base_stays_while_it_is_used_and_its_layers_while_a_template_needs_them(
    tmp_path: Path,
) -> None:
    async def story(here: Place) -> None:
        now = time.time()
        kept: dict[str, Any] = {"link": LINK, "bytes": 1}
        base, _ = here.freeze(None, 1)
        above, _ = here.freeze(base, 2)
        alone, _ = here.freeze(None, 3)
        version = await here.deploy("4")
        await here.commit(
            lambda c: snapshots.record_snapshot(
                c,
                snapshots.NewSnapshot(
                    version=version, manifest=above, bytes=1, created_at=now, **FIGURES
                ),
            )
        )
        taken = await here.log.read(lambda c: snapshots.live_snapshots(c))
        template = next(row for row in taken if row.manifest == above)
        await here.commit(
            lambda c: agents.set_template(c, version, template.id, boot_ms=None, template_bytes=1)
        )
        await here.commit(lambda c: bases.put_base(c, "new", manifest=base, now=now, **kept))
        await here.commit(lambda c: bases.put_base(c, "old", manifest=alone, now=1.0, **kept))
        await here.commit(lambda c: bases.put_base(c, "lost", manifest="0" * 64, now=now, **kept))
        age(here.blobs, 3600)
        done = await here.storage.collect(dry_run=True)
        assert done["kept_bases"] == 1
        done = await here.storage.collect(dry_run=False)
        assert (done["kept_bases"], done["problems"]) == (1, [])
        assert [row.key for row in await here.log.read(bases.list_bases)] == ["new"]
        assert here.blobs.verify(base) == []
        with pytest.raises(NotFound):
            here.blobs.load(alone)
        # The template has all that it needs without the base.
        await here.commit(lambda c: bases.forget_bases(c, ["new"]))
        age(here.blobs, 3600)
        await here.storage.collect(dry_run=False)
        with pytest.raises(NotFound):
            here.blobs.load(base)
        assert here.blobs.verify(above) == []

    in_a_place(tmp_path, story)


def test_damage_is_told_once_with_all_it_touches(tmp_path: Path) -> None:
    async def story(here: Place) -> None:
        version = await here.deploy("1")
        one, two = await here.run(version, 1), await here.run(version, 1)
        ended = await here.run(version, 1)
        template = await here.log.read(
            lambda c: snapshots.get_snapshot(c, str(agents.get_agent(c, version).template))
        )
        (layer,) = here.blobs.layers(template.manifest)
        here.blobs.delete_layer(layer.digest)
        await here.end(ended)
        await here.storage.collect(dry_run=False)
        verified = await here.storage.verify(one)
        (problem,) = verified["problems"]
        assert layer.digest in problem["problem"]
        assert problem["runs"] == sorted([one, two])
        assert all(each["problems"] for each in verified["snapshots"])

    in_a_place(tmp_path, story)


async def _answerable(there: Place, run: RunId) -> None:
    (wait,) = await there.log.read(lambda c: waits.list_waits(c, run))
    await there.commit(lambda c: waits.complete_wait(c, wait.id, value={"data": 1}, now=300.0))
    (ready,) = await there.log.read(claimable)
    assert ready.id == run


@pytest.mark.parametrize("sealed", [True, False])
def test_a_run_leaves_and_comes_whole(tmp_path: Path, sealed: bool) -> None:
    async def main() -> None:
        async with (
            place(tmp_path / "one", sealed=sealed) as here,
            place(tmp_path / "two", sealed=not sealed) as there,
        ):
            run = await here.run(await here.deploy("1"), 1)
            data = await here.export(run)
            row = await there.take(data)
            assert row == await here.log.read(lambda c: runs.get_run(c, run))
            assert await there.log.read(
                lambda c: entries.read_entries(c, run)
            ) == await here.log.read(lambda c: entries.read_entries(c, run))
            assert (await there.keys.find(run)) == (await here.keys.find(run))
            assert ((await there.keys.find(run)) is not None) == sealed
            verified = await there.storage.verify(run)
            assert len(verified["snapshots"]) == 2 and verified["problems"] == []
            with pytest.raises(Conflict, match="is here already"):
                await there.take(data)
            # A second run of the same template brings no second template.
            other = await here.run(row.version, 1)
            first = (await there.log.read(lambda c: agents.get_agent(c, row.version))).template
            await there.take(await here.export(other))
            again = (await there.log.read(lambda c: agents.get_agent(c, row.version))).template
            assert again == first
            await _answerable(there, run)
            await here.end(run)
            log = await here.export(run)
            assert [m.name for m in tarfile.open(fileobj=io.BytesIO(log))] == [  # noqa: SIM115
                *("header.json", "header.blake3", "source.tar", "waits.jsonl", "entries.jsonl")
            ]

    asyncio.run(main())


def test_a_template_that_was_made_after_an_upgrade_stays_behind(tmp_path: Path) -> None:
    async def main() -> None:
        async with place(tmp_path / "one") as here, place(tmp_path / "two") as there:
            version = await here.deploy("1")
            run = await here.run(version, 1)
            manifest, size = here.freeze(None, 7, shape=replace(SHAPE, engine_version="2"))

            def write(c: Connection) -> None:
                new = snapshots.NewSnapshot(
                    version=version, manifest=manifest, bytes=size, created_at=5.0, **FIGURES
                )
                taken = snapshots.record_snapshot(c, new)
                agents.set_template(c, version, taken.id, boot_ms=1.0, template_bytes=size)

            await here.commit(write)
            await there.take(await here.export(run))
            assert await there.left(run) == 1
            agent = await there.log.read(lambda c: agents.get_agent(c, version))
            assert agent.template is None
            assert (await there.storage.verify(run))["problems"] == []

    asyncio.run(main())


@pytest.mark.parametrize("sealed", [True, False])
def test_results_that_are_kept_apart_go_with_their_run(tmp_path: Path, sealed: bool) -> None:
    content = b"large " * 300_000

    async def main() -> None:
        async with (
            place(tmp_path / "one", sealed=sealed) as here,
            place(tmp_path / "two", sealed=not sealed) as there,
        ):
            run = await here.run(await here.deploy("1"), 1)
            kept = await large_result(here, run, content)
            answer = await large_answer(here, run, content[::-1])
            stray = await asyncio.to_thread(stored, here, b"never named", None)
            await here.end(run)
            data = await here.export(run)
            await there.take(data)
            for one in (here, there):
                read = await one.values.content(run, kept.digest)
                assert b"".join(read) == content
                row = await one.log.read(partial(find_value, run=run, digest=kept.digest))
                assert row.sealed is sealed
                with pytest.raises(NotFound):
                    await one.values.content(run, stray.digest)
                read = await one.values.content(run, answer.digest)
                assert b"".join(read) == content[::-1]
                artifacts = Artifacts(one.log, one.values)
                _, chunks = await artifacts.content(run, "big.bin")
                assert b"".join(chunks) == content
            # All else goes; what the log names, and the key that opens it, stay.
            _grow_old(here)
            report = await here.storage.collect(dry_run=False)
            assert report["values"] == 1
            assert not here.blobs.blobs.exists(VALUES, stray.name)
            assert (await here.keys.find(run) is not None) is sealed
            assert b"".join(await here.values.content(run, kept.digest)) == content
            cut = data.replace(kept.digest.encode(), b"0" * 64)
            with pytest.raises((Invalid, Damaged)):
                await there.take(cut)

    asyncio.run(main())


def stored(here: Place, content: bytes, key: Key | None) -> Kept:
    with closing(Incoming(here.home.run, key)) as incoming:
        incoming.write(content)
        return incoming.store(here.blobs.blobs)


async def large_result(here: Place, run: RunId, content: bytes) -> Kept:
    key = await here.keys.find(run)
    kept = stored(here, content, key)
    op, published = OpId("step:big#1"), OpId("artifact:big.bin#1")
    begin = entries.NewEntry("op.begin", op, {"kind": "step", "name": "big", "digest": "d"})
    named: dict[str, Any] = {"data": {"name": "big.bin", "media_type": "text/plain"}}
    named |= {"kind": "artifact", "name": "big.bin", "digest": "d"}
    publish = entries.NewEntry("op.begin", published, named)
    blob = {"digest": kept.digest, "bytes": kept.bytes, "form": "bytes"}

    def write(c: Connection) -> None:
        put_value(c, ValueRow(run, kept.digest, kept.bytes, key is not None, kept.name))
        end, stored = (
            entries.NewEntry("op.end", each, {"ok": True, "blob": blob}) for each in (op, published)
        )
        entries.append(c, run, None, [begin, end, publish, stored], 5.0)

    await here.commit(write)
    return kept


async def large_answer(here: Place, run: RunId, body: bytes) -> Kept:
    """Of a recorded exchange."""
    key = await here.keys.find(run)
    kept, op = stored(here, body, key), OpId("http:x#1")
    named = {"kind": "http", "name": "x", "digest": "d"}
    value = {"status": 200, "headers": {}, "blob": {"digest": kept.digest, "bytes": kept.bytes}}

    def write(c: Connection) -> None:
        put_value(c, ValueRow(run, kept.digest, kept.bytes, key is not None, kept.name))
        began = entries.NewEntry("op.begin", op, named)
        ended = entries.NewEntry("op.end", op, {"ok": True, "value": value})
        entries.append(c, run, None, [began, ended], 6.0)

    await here.commit(write)
    return kept


def _grow_old(here: Place) -> None:
    for path in here.home.blobs.rglob("*"):
        if path.is_file():
            os.utime(path, (1.0, 1.0))


def _changed(data: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The export with another header."""
    from torpor.control.storage import archive

    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        read: dict[str, bytes] = {}
        for member in tar:
            opened = tar.extractfile(member)
            assert opened is not None
            read[member.name] = opened.read()
    head = json.loads(read.pop(archive.HEADER))
    change(head)
    listed = [archive.Member(*each) for each in head.pop("members")]

    def source(member: archive.Member) -> archive.Source:
        return archive.Source(member, lambda: iter([read[member.name]]))

    head.pop("format"), head.pop("version")
    return b"".join(archive.pack(head, [source(member) for member in listed]))


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], type[Exception]]] = {
    "a column more": (lambda head: head["run"].update(x=1), Invalid),
    "a column of another type": (lambda head: head["run"].update(epoch="1"), Invalid),
    "a number too large": (lambda head: head["run"].update(out_offset=1 << 80), Invalid),
    "running": (lambda head: head["run"].update(state="running"), Invalid),
    "no state": (lambda head: head["run"].update(state="flying"), Invalid),
    "a log with a gap": (lambda head: head["run"].update(last_seq=99), Invalid),
    "another run's rows": (lambda head: head["run"].update(id="run_other"), Invalid),
    "another version": (lambda head: head["run"].update(version="0" * 32), Invalid),
    "another size": (lambda head: head["agent"]["spec"].update(memory_mib=1024), Invalid),
    "no agent": (lambda head: head.update(agent=None), Invalid),
    "a machine other": (lambda head: head["needs"].update(cpu="z"), Invalid),
    "no needs": (lambda head: head.update(needs=None), Invalid),
    "odd needs": (lambda head: head["needs"].update(x=1), Invalid),
    "a member less": (lambda head: head["members"].pop(), Invalid),
    "an odd member": (lambda head: head["members"].append(["../x", 0, "0" * 64]), KeyError),
    "an odd key": (lambda head: head.update(key="00"), Invalid),
    "no key": (lambda head: head.update(key=None), Damaged),
    "another key": (lambda head: head.update(key="00" * 32), Damaged),
    "a reclaimed snapshot": (lambda head: head["snapshots"][0].update(reclaimed_at=1.0), Invalid),
    "no link": (lambda head: head["snapshots"][0].update(link={}), Damaged),
    "a newer position": (lambda head: head["snapshots"][0]["detail"].update(version=2), Invalid),
    "an odd position": (lambda head: head["snapshots"][0]["detail"].update(status=[]), Invalid),
    "an odd template": (lambda head: head["snapshots"][-1]["detail"].update(pages=1), Invalid),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_tampered_with_is_refused_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    change, error = CHANGES[name]

    async def main() -> None:
        async with place(tmp_path / "one") as here, place(tmp_path / "two") as there:
            run = await here.run(await here.deploy("1"), 1)
            data = await here.export(run)
            assert _changed(data, lambda head: None) == data
            with pytest.raises(error):
                await there.take(_changed(data, change))
            assert await there.log.read(runs.list_runs) == []
            assert await there.log.read(agents.list_agents) == []
            age(there.blobs, LONG_S)
            swept = await there.storage.collect(dry_run=False)
            assert (swept["kept_bytes"], swept["young_bytes"], swept["problems"]) == (0, 0, [])
            assert (await there.take(data)).id == run

    asyncio.run(main())


@pytest.mark.parametrize("sealed", [True, False])
def test_what_the_snapshots_trust_travels_with_them(tmp_path: Path, sealed: bool) -> None:
    def without(head: dict[str, Any]) -> None:
        head["authorities"] = []

    def not_its_key(head: dict[str, Any]) -> None:
        head["authorities"][0]["key"] = Authority.new().key.hex()

    def odd(head: dict[str, Any]) -> None:
        head["authorities"][0]["certificate"] = "?"

    async def main() -> None:
        async with (
            place(tmp_path / "one", sealed=sealed) as here,
            place(tmp_path / "two", sealed=sealed) as there,
        ):
            stranger = Authority.new()
            await here.commit(partial(put_foreign, row=await here.authorities.row_of(stranger)))
            here.trusted = (await here.authorities.current()).fingerprint
            own = await there.authorities.current()
            data = await here.export(await here.run(await here.deploy("1"), 1))
            for change in (without, not_its_key, odd):
                with pytest.raises(Invalid, match="authorit"):
                    await there.take(_changed(data, change))
            await there.take(data)
            known = await there.authorities.all()
            assert list(known) == [own.fingerprint, here.trusted]
            assert known[here.trusted] == await here.authorities.current()
            assert await there.authorities.current() == own
            leaf = await there.authorities.leaf_for("a.example", here.trusted)
            assert leaf.chain.endswith(known[here.trusted].certificate)

    asyncio.run(main())


def test_an_export_of_before_positions_had_versions_is_taken(tmp_path: Path) -> None:
    def age(head: dict[str, Any]) -> None:
        for row in head["snapshots"]:
            row["detail"] = {"pages": {"zero": 1}}

    async def main() -> None:
        async with place(tmp_path / "one") as here, place(tmp_path / "two") as there:
            run = await here.run(await here.deploy("1"), 1)
            assert (await there.take(_changed(await here.export(run), age))).id == run
            newest = await there.log.read(lambda c: snapshots.newest_snapshot(c, run))
            assert newest is not None and newest.position() == Position(pages={"zero": 1})

    asyncio.run(main())


def broken(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data.rstrip(b"\0")), len(data) // 40):
        yield data[:at]
        if data[at]:  # what fills up to the next member says nothing
            yield data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


def test_a_file_broken_anywhere_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with place(tmp_path / "one") as here, place(tmp_path / "two") as there:
            run = await here.run(await here.deploy("1"), 1)
            data = await here.export(run)
            for bad in broken(data):
                with pytest.raises((Invalid, Damaged)):
                    await there.take(bad)
            assert await there.log.read(runs.list_runs) == []
            assert not list((there.home.blobs / "tmp").iterdir())
            assert (await there.take(data)).id == run

    asyncio.run(main())


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    async def story(here: Place) -> None:
        version = await here.deploy("1")
        run, other = await here.run(version, 3), await here.run(version, 1)
        mine = (await here.log.read(lambda c: snapshots.list_snapshots(c, run)))[0]
        (theirs,) = await here.log.read(lambda c: snapshots.list_snapshots(c, other))
        with pytest.raises(Conflict, match="is not a snapshot of"):
            await here.export(run, theirs.id)
        await here.commit(lambda c: snapshots.reclaim(c, [mine.id], 1.0))
        with pytest.raises(Conflict, match="has been removed"):
            await here.export(run, mine.id)
        await here.commit(lambda c: runs.claim(c, run, 400.0))
        with pytest.raises(Conflict, match="is running"):
            await here.export(run)

    in_a_place(tmp_path, story)


def test_a_machine_of_another_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="taken with CPU model other; this host has CPU model cpu"):
        SHAPE.require_equal(replace(SHAPE, cpu="other").facts())
