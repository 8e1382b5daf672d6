"""What every engine that freezes does (`torpor.engine.protocol`), whatever runs inside.

A test module has a fixture `bench` for its engine, and imports these tests.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
import pytest

from torpor.core.errors import HostError, Unfit
from torpor.engine import registry
from torpor.engine.memory import PAGE
from torpor.engine.protocol import Engine, Machine

pytestmark = pytest.mark.anyio


class Bench(Protocol):
    """An engine, and machines of it that are killed when the test is over."""

    engine: Engine

    async def empty(self) -> Machine:
        """Waits for `load`."""

    async def running(self) -> Machine: ...


async def state_of(bench: Bench) -> bytes:
    machine = await bench.running()
    await machine.pause()
    state = await machine.device_state()
    await machine.kill()
    return state


async def test_it_is_a_row_of_the_registry(bench: Bench) -> None:
    entry = registry.get(bench.engine.name)
    assert entry.capabilities == bench.engine.capabilities
    assert entry.capabilities.freezes


async def test_its_regions_are_three(bench: Bench) -> None:
    regions = bench.engine.regions
    assert len({regions.memory, regions.disk, regions.state}) == 3


async def test_a_shape_fits_itself_and_says_what_differs(bench: Bench) -> None:
    shape = bench.engine.shape(memory_mib=64, disk_mib=1, image="i", deps="d")
    shape.require_equal(shape.facts())
    with pytest.raises(Unfit, match=r"MiB of memory: 128.*; this host has MiB of memory: 64"):
        shape.require_equal(replace(shape, memory_mib=128).facts())
    with pytest.raises(Unfit, match=r"0\.1; this host has"):
        shape.require_equal(replace(shape, engine_version="0.1").facts())


async def test_it_is_paused_and_goes_on_as_often_as_one_likes(bench: Bench) -> None:
    machine = await bench.running()
    for _ in range(3):
        await machine.pause()
        assert machine.alive
        await machine.resume()
    assert machine.cpu_s() >= 0


async def test_what_one_was_another_becomes_by_its_state(bench: Bench) -> None:
    state = await state_of(bench)
    machine = await bench.empty()
    await machine.load(state)
    again = await machine.device_state()  # it is paused: nothing of it has run
    assert len(again) == len(state)
    await machine.resume()
    await machine.pause()
    assert machine.alive


async def test_the_pages_of_a_paused_machine_can_be_read(bench: Bench) -> None:
    machine = await bench.running()
    await machine.pause()
    for numbers in (machine.changed_memory(), machine.touched_memory()):
        assert numbers.dtype == np.int64
        assert (numbers >= 0).all() and len(set(numbers)) == len(numbers)
    numbers = np.array([2, 0], dtype=np.int64)
    pages = np.full((2, PAGE), 7, dtype=np.uint8)
    machine.read_memory(numbers, pages)
    once = pages.copy()
    machine.read_memory(numbers, pages)
    assert (pages == once).all()


async def test_a_loaded_machine_takes_on_another_state(bench: Bench) -> None:
    if not bench.engine.capabilities.becomes:
        pytest.skip("its machines do not become others")
    state = await state_of(bench)
    machine = await bench.empty()
    await machine.load(state)
    numbers = np.array([3, 4], dtype=np.int64)
    await machine.forget(numbers)
    await machine.become(numbers, np.full((2, PAGE), 9, dtype=np.uint8), state)
    await machine.resume()
    await machine.pause()
    assert machine.alive


async def test_it_is_killed_at_any_time_and_says_how_it_ended(bench: Bench) -> None:
    running, paused, empty = await bench.running(), await bench.running(), await bench.empty()
    await paused.pause()
    for machine in (running, paused, empty):
        await machine.kill()
        await machine.kill()
        assert not machine.alive
        assert await machine.ended()
        assert machine.cpu_s() == 0.0


async def test_nothing_can_be_asked_of_one_that_is_gone(bench: Bench) -> None:
    machine = await bench.running()
    await machine.kill()
    with pytest.raises(HostError):
        await machine.pause()
    with pytest.raises(HostError):
        await machine.device_state()
