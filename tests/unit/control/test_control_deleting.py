"""Runs that are deleted, with their files; and what a host's retention deletes by itself."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from sqlalchemy import Connection
from tests.unit.control.test_control_storage import Place, large_result, place

from torpor.contextlog import runs
from torpor.control.service.deleting import Deleting
from torpor.core.errors import Conflict, Invalid
from torpor.core.ids import RunId
from torpor.core.retention import KEEP_ALL, Retention
from torpor.core.states import RunState
from torpor.snapshot.store import LAYERS, MANIFESTS
from torpor.snapshot.values import VALUES


async def ended(here: Place, at: float, frozen: int = 2) -> RunId:
    version = await here.deploy("1", keep="all")
    run = await here.run(version, frozen)
    await large_result(here, run, b"large" * 1000)

    def end(c: Connection) -> None:
        runs.transition(c, run, None, RunState.CANCELLED, at)

    await here.commit(end)
    return run


def files(here: Place) -> dict[str, set[str]]:
    kinds = (MANIFESTS, LAYERS, VALUES)
    return {kind: {blob.name for blob in here.blobs.blobs.present(kind)} for kind in kinds}


def test_its_files_go_with_it_and_those_of_others_stay(tmp_path: Path) -> None:
    async def main() -> None:
        async with place(tmp_path) as here:
            deleting = Deleting(here.home, here.log, here.storage)
            other = await ended(here, 50.0)
            before = files(here)
            run = await ended(here, 60.0)
            here.home.work.mkdir(exist_ok=True)
            (here.home.work / run).mkdir()
            (here.home.work / run / "file").write_text("its own")
            assert all(len(files(here)[kind]) > len(before[kind]) for kind in before)
            assert await deleting.delete(run[:12]) == run
            assert files(here) == before
            assert not (here.home.work / run).exists()
            assert not (await here.storage.verify(other))["problems"]
            assert await here.keys.find(run) is None and await here.keys.find(other) is not None
            waiting = await here.run(await here.deploy("1"), 1)
            with pytest.raises(Conflict, match="has not ended"):
                await deleting.delete(waiting)

    asyncio.run(main())


def test_retention_by_age_and_by_size(tmp_path: Path) -> None:
    async def main() -> None:
        async with place(tmp_path) as here:
            deleting = Deleting(here.home, here.log, here.storage)
            now = time.time()
            first, second, third = [await ended(here, now - age, 0) for age in (900, 500, 100)]

            async def left() -> list[str]:
                listed = await here.log.read(lambda c: runs.list_runs(c, None, 100, None))
                return sorted(row.id for row in listed)

            assert await deleting.retention() == KEEP_ALL
            assert await deleting.expire() == 0, "by default all are kept"
            await deleting.retain(Retention(age_s=600.0))
            assert await deleting.expire() == 1
            assert await left() == sorted([second, third])
            assert first not in await left()
            await deleting.retain(Retention(log_bytes=1 << 20))
            assert await deleting.expire() == 0

            def grow(c: Connection) -> None:
                version, large = runs.get_run(c, third).version, {"x": "y" * 50_000}
                for n in range(40):
                    made = runs.create_run(c, version=version, agent="a", input=large, now=now)
                    runs.transition(c, made.id, None, RunState.CANCELLED, now + n)

            await here.commit(grow)
            assert await deleting.expire() > 10
            size = await here.log.read(here.log.used_bytes)
            assert 900_000 < size <= 1 << 20
            remaining = await left()
            assert second not in remaining and third not in remaining, "the oldest go first"
            await deleting.retain(KEEP_ALL)
            for wrong in (1.0, float("nan"), float("inf")):
                with pytest.raises(Invalid):
                    Retention(age_s=wrong)
            with pytest.raises(Invalid):
                Retention(log_bytes=5)

    asyncio.run(main())
