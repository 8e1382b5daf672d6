"""What the server counts, as Prometheus reads it."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Connection

from torpor.contextlog import queues, runs
from torpor.control.engines import OnMachines
from torpor.control.service.service import Service
from torpor.core.errors import HostError
from torpor.core.starting import Start
from torpor.engine import qemu
from torpor.testing.fakes.world import VERSION, World

pytestmark = pytest.mark.anyio


async def samples(service: Service) -> dict[str, float]:
    text = generate_latest(await service.metrics()).decode()
    return {
        sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "le" not in sample.labels
    }


async def test_what_runs_do_is_counted(world: World) -> None:
    service = Service(world.home, world.store)
    service._status._metrics = world.metrics
    before = await samples(service)
    assert before["torpor_runs running"] == before["torpor_machines runs"] == 0
    assert "torpor_memory_mib host" not in before
    assert not any(name.startswith("torpor_pager") for name in before)
    service._engines.scheduler = world.scheduler
    ready = OnMachines(world.machines, cast("Any", None), cast("Any", None))
    service._engines._ready[qemu.NAME] = ready

    run = await world.run([["step", "a"], ["model", "m"], ["wait", "q"]])
    await world.asleep(run)
    asleep = await samples(service)
    assert asleep["torpor_runs suspended"] == asleep["torpor_waits_open"] == 1
    assert asleep["torpor_memory_mib host"] == 1 << 20 and asleep["torpor_memory_mib runs"] == 0
    assert asleep["torpor_machines runs"] == 0 and asleep["torpor_machines pool"] == 1
    assert asleep["torpor_resume_ms_count"] == asleep["torpor_freeze_ms_count"] == 1
    assert asleep["torpor_model_calls_total 200"] == 1
    assert asleep["torpor_snapshots"] == 2  # with the template
    assert asleep["torpor_snapshot_bytes"] > before["torpor_snapshot_bytes"]
    assert asleep["torpor_pager_reads_total"] == world.pager.reads
    appended = asleep["torpor_log_entries_total"] - before["torpor_log_entries_total"]
    assert appended == len(await world.entries(run))

    await world.answer("wait:q#1")
    await world.ended(run)
    ended = await samples(service)
    assert ended["torpor_runs completed"] == 1 and ended["torpor_waits_open"] == 0
    assert ended["torpor_resume_ms_count"] == 2
    assert ended["torpor_resume_ms_sum"] > asleep["torpor_resume_ms_sum"] > 0


async def test_what_waits_in_queues(world: World) -> None:
    service = Service(world.home, world.store)
    world.slots = 0
    now = time.time()

    def write(c: Connection) -> None:
        for index in range(3):
            start = Start(queue="mail", delay_s=3600.0 if index == 2 else 0.0)
            given: Any = {"version": VERSION, "agent": None, "input": {}, "start": start}
            runs.create_run(c, **given, now=now - 100 * (index + 1))
        queues.set_queue(c, "mail", now, concurrency=2, paused=True)

    await world.store.write(write)
    found = await samples(service)
    assert found["torpor_queue_runs mail queued"] == found["torpor_queue_waiting mail"] == 2
    assert found["torpor_queue_runs mail delayed"] == 1
    assert found["torpor_queue_runs mail suspended"] == 0
    assert 200 <= found["torpor_queue_waiting_seconds mail"] < 300
    assert found["torpor_queue_concurrency mail"] == 2 and found["torpor_queue_paused mail"] == 1


async def test_what_is_written_in_vain_is_not_counted(world: World) -> None:
    service = Service(world.home, world.store)
    before = (await samples(service))["torpor_log_entries_total"]
    with pytest.raises(RuntimeError):
        await world.store.write(_append_and_fail)
    assert (await samples(service))["torpor_log_entries_total"] == before


def _append_and_fail(c: Connection) -> None:
    runs.create_run(c, version=VERSION, agent=None, input={}, now=time.time())
    raise RuntimeError


async def test_a_pager_that_does_not_answer_hides_nothing_else(world: World) -> None:
    service = Service(world.home, world.store)
    service._engines.scheduler = world.scheduler
    ready = OnMachines(world.machines, cast("Any", None), cast("Any", None))
    service._engines._ready[qemu.NAME] = ready
    world.pager.failure = HostError("the pager does not answer")
    found = await samples(service)
    world.pager.failure = None
    assert "torpor_runs queued" in found and "torpor_pager_reads_total" not in found
