"""The host's key and the runs': made once, checked, never shown; and runs that live sealed."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from torpor.contextlog import keys as key_rows
from torpor.contextlog import snapshots
from torpor.control.storage.storage import Storage
from torpor.core.errors import Damaged, HostError, Invalid, Missing
from torpor.core.home import Home
from torpor.core.ids import RunId
from torpor.core.states import RunState
from torpor.logstore.sqlite import SqliteStore
from torpor.snapshot.seal import Key
from torpor.testing.fakes.world import World
from torpor.worker.sealing import SealingKeys, switched_on, unwrap, wrap

pytestmark = pytest.mark.anyio

RUN, OTHER = RunId("run_a"), RunId("run_b")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore.open(Home(tmp_path).create().database)
    yield opened
    opened.close()


# -- wrapping ------------------------------------------------------------------------------------


async def test_a_wrapped_key_opens_for_its_host_and_run_only() -> None:
    host, key = Key.new(), Key.new()
    wrapped = wrap(host, RUN, key)
    assert unwrap(host, RUN, wrapped) == key
    assert wrap(host, RUN, key) != wrapped
    assert key.secret not in wrapped and host.secret not in wrapped
    with pytest.raises(Damaged, match=OTHER):
        unwrap(host, OTHER, wrapped)
    with pytest.raises(Damaged, match=RUN):
        unwrap(Key.new(), RUN, wrapped)
    for at in range(len(wrapped)):
        with pytest.raises(Damaged):
            unwrap(host, RUN, wrapped[:at] + bytes([wrapped[at] ^ 1]) + wrapped[at + 1 :])
    for length in range(len(wrapped)):
        with pytest.raises(Damaged):
            unwrap(host, RUN, wrapped[:length])


async def test_the_switch() -> None:
    assert switched_on({}) and switched_on({"TORPOR_ENCRYPT": "on"})
    assert not switched_on({"TORPOR_ENCRYPT": "off"})
    with pytest.raises(Invalid, match="TORPOR_ENCRYPT=no"):
        switched_on({"TORPOR_ENCRYPT": "no"})


# -- the host's key ------------------------------------------------------------------------------


async def test_the_host_key_is_made_once_for_its_user_only(
    tmp_path: Path, store: SqliteStore
) -> None:
    home = Home(tmp_path)
    await asyncio.gather(*(SealingKeys(home, store, on=True).check() for _ in range(8)))
    first = home.host_key.read_bytes()
    assert len(first) == 32
    assert home.host_key.stat().st_mode & 0o777 == 0o600
    await SealingKeys(home, store, on=True).check()
    assert home.host_key.read_bytes() == first
    assert [path.name for path in tmp_path.glob("*host.key*")] == ["host.key"]


async def test_nothing_is_made_where_nothing_is_sealed(tmp_path: Path, store: SqliteStore) -> None:
    keys = SealingKeys(Home(tmp_path), store, on=False)
    await keys.check()
    assert await keys.of(RUN) is None and await keys.find(RUN) is None
    assert not Home(tmp_path).host_key.exists()


@pytest.mark.parametrize(
    ("found", "error", "told"),
    [
        (None, Missing, "is gone"),
        (b"", HostError, "holds 0 bytes"),
        (b"x" * 32, HostError, "is not the key"),
    ],
)
async def test_a_host_key_that_is_not_what_it_was(
    world: World, found: bytes | None, error: type[HostError], told: str
) -> None:
    run = await world.run([["wait", "q"]])
    await world.asleep(run)
    path = world.home.host_key
    kept = path.read_bytes()
    path.unlink()
    if found is not None:
        path.write_bytes(found)
    for on in (True, False):
        keys = SealingKeys(world.home, world.store, on=on)
        with pytest.raises(error, match=told) as refused:
            await keys.check()
        assert str(path) in refused.value.message and refused.value.hint
        with pytest.raises(error):
            await keys.find(run)
    assert path.exists() is (found is not None)  # no new one is made in its place
    path.write_bytes(kept)
    assert await SealingKeys(world.home, world.store, on=True).find(run) is not None


# -- runs ----------------------------------------------------------------------------------------


def kinds(world: World, rows: list[snapshots.SnapshotRow]) -> set[str]:
    layers = [world.machines.store.layers(row.manifest) for row in rows]
    return {layer.kind for some in layers for layer in some}


async def test_a_run_lives_sealed_and_is_unreadable_once_its_key_is_destroyed(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    run = await world.run([["step", "a"], ["wait", "q"], ["checkpoint", "c"], ["wait", "r"]])
    await world.asleep(run)
    await world.stop()
    await world.start()  # a server that has to unwrap what another has wrapped
    await world.answer("wait:q#1")
    await world.asleep(run)
    keys = SealingKeys(world.home, world.store, on=True)
    key = await keys.find(run)
    assert key is not None
    rows = await world.store.read(lambda c: snapshots.list_snapshots(c, run))
    assert len(rows) == 3
    for row in rows:
        assert world.machines.store.layers(row.manifest)[-1].kind == "sealed"
        assert world.machines.store.verify(row.manifest, key) == []
    await world.answer("wait:r#1")
    assert (await world.ended(run)).state is RunState.COMPLETED

    # Rule 9.
    both = (key.secret, world.home.host_key.read_bytes())
    secrets = [*both, *(secret.hex().encode() for secret in both)]
    logged = json.dumps([entry.data for entry in await world.entries(run)]) + caplog.text
    kept = [path for path in world.home.root.rglob("*") if path.is_file()]
    for secret in secrets:
        assert secret.decode("latin-1") not in logged
        assert [p for p in kept if secret in p.read_bytes()] in ([], [world.home.host_key])

    # The run has ended, and its agent keeps nothing of ended runs.
    storage = Storage(world.store, world.machines.store, keys, world.metrics)
    assert (await storage.verify(run))["problems"] == []
    report = await storage.collect(dry_run=True)
    assert await keys.find(run) == key
    report = await storage.collect(dry_run=False)
    assert {each["id"] for each in report["reclaimed"]} >= {row.id for row in rows}
    assert await keys.find(run) is None
    with pytest.raises(Damaged):
        world.machines.store.load(rows[0].manifest, await keys.find(run))


async def test_two_runs_have_two_keys_and_share_their_template(world: World) -> None:
    first, second = await world.run([["wait", "q"]]), await world.run([["wait", "q"]])
    await world.asleep(first)
    await world.asleep(second)
    keys = SealingKeys(world.home, world.store, on=True)
    one, two = await keys.find(first), await keys.find(second)
    assert one is not None and two is not None and one != two
    (row,) = await world.store.read(lambda c: snapshots.list_snapshots(c, first))
    with pytest.raises(Damaged):
        world.machines.store.load(row.manifest, two)


async def test_a_run_whose_key_is_lost_goes_back_to_its_template(world: World) -> None:
    """Its log is all there: what it did is not done again."""
    run = await world.run([["step", "a"], ["wait", "q"], ["step", "b"]])
    await world.asleep(run)
    await world.store.write(lambda c: key_rows.destroy_key(c, run))
    await world.answer("wait:q#1")
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED, row.error
    assert world.effects == {"step:a#1": 1, "step:b#1": 1}


async def test_off_leaves_new_runs_in_the_clear_and_old_ones_sealed(world: World) -> None:
    sealed = await world.run([["wait", "one"], ["wait", "two"]])
    await world.asleep(sealed)
    await world.stop()
    world.sealing = False
    await world.start()
    clear = await world.run([["wait", "q"]])
    await world.asleep(clear)
    rows = await world.store.read(lambda c: snapshots.list_snapshots(c, clear))
    assert "sealed" not in kinds(world, rows)
    await world.answer("wait:one#1")
    await world.asleep(sealed)
    rows = await world.store.read(lambda c: snapshots.list_snapshots(c, sealed))
    assert len(rows) == 2 and all(kinds(world, [row]) >= {"sealed"} for row in rows)
