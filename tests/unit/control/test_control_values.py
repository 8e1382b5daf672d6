"""Results too large for the log, from a machine to the disk."""

from __future__ import annotations

import errno
import json
from base64 import b64encode
from typing import Any

import pytest

from torpor.contextlog.entries import EntryRow
from torpor.core.errors import Conflict, HostError, NotFound
from torpor.core.ids import OpId, RunId
from torpor.core.states import RunState
from torpor.snapshot.values import VALUES, Incoming
from torpor.testing.fakes.puppet import DIGEST
from torpor.testing.fakes.world import World
from torpor.worker import values

pytestmark = pytest.mark.anyio

N = 1_500_000
STEP = f"step:{N}#1"


async def end_of(world: World, run: RunId) -> EntryRow:
    (end,) = [e for e in await world.entries(run, "op.end") if e.op == STEP]
    return end


def files(world: World) -> list[str]:
    return [each.name for each in world.machines.store.blobs.present(VALUES)]


async def test_it_is_kept_apart_and_named_in_the_log(world: World) -> None:
    run = await world.run([["large", N], ["step", "b"]])
    assert (await world.ended(run)).state is RunState.COMPLETED
    blob = (await end_of(world, run)).data["blob"]
    assert (blob["bytes"], blob["form"]) == (N, "bytes")
    content = await world.scheduler.shared.values.content(run, blob["digest"])
    assert b"".join(content) == bytes(N)
    assert world.effects == {STEP: 1, "step:b#1": 1}
    # The same content of another run of its own key: another file, sealed each.
    other = await world.run([["large", N]])
    await world.ended(other)
    assert (await end_of(world, other)).data["blob"] == blob
    assert len(files(world)) == 2


async def test_any_result_is_given_whole(world: World) -> None:
    run = await world.run([["large", N], ["step", "b"]])
    await world.ended(run)
    known = world.scheduler.shared.values
    form, content = await known.result(run, OpId(STEP))
    assert (form, b"".join(content)) == ("bytes", bytes(N))
    form, content = await known.result(run, OpId("step:b#1"))
    assert (form, json.loads(b"".join(content))) == ("json", "did b")
    with pytest.raises(NotFound, match="no operation step:c#1"):
        await known.result(run, OpId("step:c#1"))


async def test_a_result_that_is_not_there_yet_is_refused(world: World) -> None:
    run = await world.run([["wait", "q"]])
    await world.open_waits(run)
    with pytest.raises(Conflict, match="no result yet"):
        await world.scheduler.shared.values.result(run, OpId("wait:q#1"))


async def test_what_was_cut_off_begins_anew(world: World) -> None:
    world.refused["end"] = 1
    run = await world.run([["large", N]])
    with world.store.subscribe(run) as subscription:
        while not await world.entries(run, "op.begin"):
            await subscription.wait()
    await world.kill()
    assert (await world.ended(run)).state is RunState.COMPLETED
    assert world.effects == {STEP: 2}
    assert len(files(world)) == 1


@pytest.mark.parametrize("where", ["write", "store"])
async def test_one_that_cannot_be_stored_fails_once_and_the_run_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def broken(*_: Any) -> None:
        raise (
            OSError(errno.EIO, "Input/output error")
            if where == "write"
            else HostError("the disk does not answer")
        )

    monkeypatch.setattr(Incoming, where, broken)
    run = await world.run([["large", N], ["step", "b"]])
    assert (await world.ended(run)).state is RunState.COMPLETED
    end = await end_of(world, run)
    assert end.data["ok"] is False and "could not be stored" in end.data["error"]["message"]
    assert world.effects == {STEP: 1, "step:b#1": 1}


PART = {"t": "part", "op": STEP, "data": b64encode(b"x" * 1000).decode()}
END = {"t": "end", "op": STEP, "ok": True, "blob": {"bytes": 1000, "form": "bytes"}}
BEGIN = {"t": "begin", "op": STEP, "kind": "step", "name": str(N), "digest": DIGEST, "data": {}}
WRONG: dict[str, tuple[list[dict[str, Any]], str]] = {
    "nothing came": ([BEGIN, END], "never came"),
    "too little came": (
        [BEGIN, PART, END | {"blob": {"bytes": 1001, "form": "bytes"}}],
        "1,000 of",
    ),
    "more than is taken": ([BEGIN, *[PART] * 4], "more than 3,000 bytes"),
    "not base64": ([BEGIN, PART | {"data": "?"}], "not base64"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_machine_that_breaks_the_rules_is_ended(
    world: World, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setattr(values, "VALUE_BYTES_MAX", 3000)
    said, why = WRONG[wrong]
    row = await world.ended(await world.run([["raw", message] for message in said]))
    assert row.state is RunState.FAILED and row.error is not None
    assert row.error["type"] == "MachineLost" and why in row.error["message"]
    assert not files(world)
