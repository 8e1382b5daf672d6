"""Whole runs: from claim to end, through freezes, losses and everything that goes wrong."""

from __future__ import annotations

import pytest
from tests.unit.control.world import World

from torpor.model.states import RunState

pytestmark = pytest.mark.anyio


async def test_a_run_to_its_end(world: World) -> None:
    run = await world.run([["print", "hello\n"], ["step", "a"], ["emit", {"n": 1}], ["step", "b"]])
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED
    assert row.result == {"step:a#1": "did a", "step:b#1": "did b"}
    assert await world.output(run) == "hello\n"
    kinds = [entry.kind for entry in await world.entries(run)]
    assert kinds == [
        *("run.created", "run.started", "machine.up", "output"),
        *("op.begin", "op.end", "note.emit", "op.begin", "op.end", "run.completed"),
    ]


async def test_a_wait_is_slept_through(world: World) -> None:
    run = await world.run([["step", "a"], ["wait", "q"], ["print", "after"], ["step", "b"]])
    await world.asleep(run)
    await world.answer("wait:q#1")
    row = await world.ended(run)
    assert row.result["wait:q#1"]["data"] == "yes"
    assert world.effects == {"step:a#1": 1, "step:b#1": 1}
