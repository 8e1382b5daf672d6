"""Divergences: what becomes of the run, as its agent's file says."""

from __future__ import annotations

from typing import Any

import pytest

from torpor.contextlog import agents, entries, forks, runs
from torpor.core.ids import RunId
from torpor.core.states import FINAL, RunState
from torpor.policy.divergence import FORKS_MAX
from torpor.testing.fakes.puppet import DIGEST
from torpor.testing.fakes.world import VERSION, World

pytestmark = pytest.mark.anyio

MISSED = "model:b#1"
VERDICT = {
    "t": "begin",
    "op": f"verdict:{MISSED}#1",
    "kind": "verdict",
    "name": MISSED,
    "digest": DIGEST,
    "data": {"message": "not what the log says", "superseded": [MISSED, "wait:q#1"]},
}
ASK = ["raw", VERDICT]
END = [
    "raw",
    {
        "t": "failed",
        "type": "Divergence",
        "message": "not what the log says",
        "traceback": None,
        "cancelled": False,
        "diverged": MISSED,
    },
]
STEPS = [["step", "a"], ["model", "b"]]


async def policy(world: World, word: str) -> None:
    await world.store.write(
        lambda c: agents.deployed_again(c, VERSION, {"on_divergence": word}, 1.0)
    )


async def verdict(world: World, run: RunId) -> Any:
    ends = await world.entries(run, "op.end")
    return next(end.data["value"] for end in ends if str(end.op).startswith("verdict:"))


@pytest.mark.parametrize("word", ["stop", "fork"])
async def test_a_run_does_not_go_on(world: World, word: str) -> None:
    await policy(world, word)
    run = await world.run([*STEPS, ASK, ["wait", "p"]])
    await world.open_waits(run)
    assert await verdict(world, run) == {"go_on": False}
    assert not await world.entries(run, "log.superseded")
    records = await world.store.read(lambda c: entries.journal(c, run, 0))
    assert MISSED in [record["op"] for record in records]


async def test_a_run_goes_on_without_what_is_superseded(world: World) -> None:
    await policy(world, "latest")
    run = await world.run([["wait", "q"]], [*STEPS, ASK, ["wait", "p"]])
    await world.until(run, lambda row: row.state is RunState.SUSPENDED)
    assert await verdict(world, run) == {"go_on": True, "taken": [MISSED, "wait:q#1"]}
    (marked,) = await world.entries(run, "log.superseded")
    assert marked.data == {"ops": [MISSED, "wait:q#1"]}
    records = await world.store.read(lambda c: entries.journal(c, run, 0))
    ops = [record["op"] for record in records]
    assert "step:a#1" in ops and not {MISSED, "wait:q#1"} & set(ops)
    # Nobody is asked any more for what nobody waits for; all else is as it was.
    assert [wait.op for wait in await world.open_waits(run)] == ["wait:p#1"]
    given_up = [e.op for e in await world.entries(run, "wait.cancelled")]
    assert given_up == ["wait:q#1"]


async def test_what_a_machine_calls_superseded_need_be_no_operation(world: World) -> None:
    await policy(world, "latest")
    said = {"message": "m", "superseded": [MISSED, "#", "x#y", "step:a#" + "9" * 40]}
    asked: Any = {**VERDICT, "data": said}
    run = await world.run([*STEPS, ["raw", asked], ["wait", "p"]])
    await world.open_waits(run)
    assert await verdict(world, run) == {"go_on": True, "taken": [MISSED]}


async def test_a_fork_takes_over(world: World) -> None:
    await policy(world, "fork")
    world.slots = 1
    run = await world.run([*STEPS, END])
    row = await world.ended(run)
    assert row.state is RunState.FAILED and row.error is not None
    fork = await world.row(row.successor or RunId(""))
    assert f"Run {fork.id}, a fork from before that, took over." in row.error["message"]
    told = await world.store.read(lambda c: forks.forked(c, fork))
    began = next(e for e in await world.entries(run, "op.begin") if e.op == MISSED)
    assert told is not None
    assert (told["origin"], told["how"], told["seq"]) == (run, "divergence", began.seq - 1)


async def test_an_agent_that_always_diverges_forks_only_so_often(world: World) -> None:
    await policy(world, "fork")
    run = await world.run([*STEPS, END])
    for _ in range(FORKS_MAX):
        successor = (await world.ended(run)).successor
        assert successor is not None
        run = successor
    row = await world.ended(run)
    assert row.successor is None
    every = await world.store.read(lambda c: runs.runs_in(c, list(FINAL)))
    assert len(every) == FORKS_MAX + 1


async def test_what_a_machine_says_it_diverged_from_must_be_in_its_log(world: World) -> None:
    await policy(world, "fork")
    row = await world.ended(await world.run([["step", "a"], END]))
    assert row.successor is None
