"""Whole runs: from claim to end, through freezes, losses and everything that goes wrong."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Sequence
from typing import Any

import pytest

from torpor.contextlog import runs, snapshots
from torpor.core.errors import Damaged, Exhausted, HostError, NotFound
from torpor.core.ids import RunId
from torpor.core.states import RunState
from torpor.engine.memory import CopyBuffer
from torpor.machines import capture as taken
from torpor.machines import thaw as thawing
from torpor.testing.fakes.world import FREEZING, POINTS, Calls, Nth, World
from torpor.worker.calls import DIED

pytestmark = pytest.mark.anyio

Script = Sequence[Sequence[Any]]
LIFE: Script = (
    ["print", "one "],
    ["step", "a"],
    ["checkpoint", "c"],
    ["file", "f"],
    ["model", "m"],
    ["wait", "q"],
    ["print", "two"],
    ["step", "b"],
)


def kinds(entries: Sequence[Any]) -> list[str]:
    return [entry.kind for entry in entries]


async def live_through(world: World, run: RunId) -> Any:
    """Answer the wait of LIFE; as the run ended."""
    await world.open_waits(run)
    await world.answer("wait:q#1")
    return await world.ended(run)


def lived(row: Any) -> None:
    assert row.state is RunState.COMPLETED, row.error
    assert row.result.pop("files") == ["f"]
    steps = {"step:a#1", "step:f#1", "step:b#1"}
    assert set(row.result) == steps | {"checkpoint:c#1", "model:m#1", "wait:q#1"}
    assert row.result["wait:q#1"]["data"] == "yes"
    assert row.result["model:m#1"]["body"] == "{}"


async def test_a_run_to_its_end(world: World) -> None:
    run = await world.run([["print", "hello\n"], ["step", "a"], ["emit", {"n": 1}], ["step", "b"]])
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED
    assert row.result == {"step:a#1": "did a", "step:b#1": "did b"}
    assert await world.output(run) == "hello\n"
    assert kinds(await world.entries(run)) == [
        *("run.created", "run.started", "machine.up", "output"),
        *("op.begin", "op.end", "note.emit", "op.begin", "op.end", "run.completed"),
    ]
    assert not world.machines.pool.empties._closed
    assert sum(machine.alive for machine in world.machines_started) <= 1  # the pool's next


async def test_a_step_is_recorded_before_its_agent_is_told(world: World) -> None:
    seen: list[int] = []

    async def look() -> None:
        seen.append(len(world.recorded))

    run = await world.run([["step", "a"]])
    world.anywhere = lambda point: look()
    await world.ended(run)
    # While its end was being written it was not acknowledged.
    assert world.recorded == {"step:a#1"} or seen[-1] == 0


async def test_a_wait_is_slept_through(world: World) -> None:
    run = await world.run([["step", "a"], ["wait", "q"], ["print", "after"], ["step", "b"]])
    await world.asleep(run)
    assert not any(machine.carries for machine in world.machines_started)
    await world.answer("wait:q#1")
    row = await world.ended(run)
    assert row.result["wait:q#1"]["data"] == "yes"
    assert world.effects == {"step:a#1": 1, "step:b#1": 1}
    assert kinds(await world.entries(run)).count("run.resumed") == 1


async def test_how_long_a_sleep_lasts_is_counted_here(world: World) -> None:
    """The guest's clock has no part in it."""
    run = await world.run([["nap", 3600]])
    await world.asleep(run)
    (wait,) = await world.open_waits(run)
    assert wait.due_at == wait.created_at + 3600
    await world.answer("sleep:3600#1")
    await world.ended(run)


@pytest.mark.parametrize("point", [*FREEZING, "write", "written"])
async def test_an_answer_at_any_point_of_a_freeze(world: World, point: str) -> None:
    """Rule 11: exactly one delivery, and no run that sleeps on."""

    async def answer() -> None:
        with contextlib.suppress(NotFound):  # no wait to be answered yet
            await world.answer("wait:q#1")

    answers = 0
    for n in range(1, 100):
        nth = Nth(world, point, n, answer)
        run = await world.run([["wait", "q"], ["step", "b"]])
        await world.until(run, lambda row: row.state is not RunState.RUNNING and row.epoch > 0)
        await world.gone(run)
        world.anywhere = None
        if await world.entries(run, "wait.completed"):
            answers += 1
        else:
            await world.asleep(run)
            await world.answer("wait:q#1")
        row = await world.ended(run)
        assert row.state is RunState.COMPLETED
        assert row.result["wait:q#1"]["data"] == "yes"
        assert world.effects == {"step:b#1": 1}
        if not nth.reached:
            break
    assert answers


@pytest.mark.parametrize("point", ["pause", "device", "keep", "kept"])
async def test_an_answer_during_a_freeze_keeps_the_machine(world: World, point: str) -> None:
    world.on(point, lambda: world.answer("wait:q#1"))
    row = await world.ended(await world.run([["wait", "q"], ["step", "b"]]))
    assert row.state is RunState.COMPLETED and row.epoch == 1
    assert row.slept_s == 0


@pytest.mark.parametrize("many", [True, False])
async def test_an_answer_does_not_wait_for_a_large_snapshot(
    world: World, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """It is given up; one of few pages is made, and the machine goes on just so."""
    monkeypatch.setattr(taken, "CHUNK_PAGES", 0 if many else 1)
    world.on("keep", lambda: world.answer("wait:q#1"))
    run = await world.run([["wait", "q"], ["wait", "r"]])
    await world.until(run, lambda row: row.state is RunState.SUSPENDED)
    assert world.passed["keep"] == 2 and (await world.row(run)).epoch == 1
    assert len(await world.entries(run, "snapshot")) == (1 if many else 2)
    assert await world.entries(run, "freeze.failed") == []
    assert not list((world.home.blobs / "tmp").iterdir())
    await world.answer("wait:r#1")
    assert (await world.ended(run)).state is RunState.COMPLETED


@pytest.mark.parametrize("lines", [[["wait", "q"]], [["checkpoint", "c"], ["wait", "q"]]])
async def test_a_machine_is_not_read_once_it_runs(
    world: World, monkeypatch: pytest.MonkeyPatch, lines: Script
) -> None:
    """Whatever there is too much of for the buffer goes through a file."""
    monkeypatch.setattr(CopyBuffer, "pages", property(lambda _: 0))
    run = await world.run(lines)
    await world.asleep(run)
    assert await world.entries(run, "freeze.failed") == []
    await world.answer("wait:q#1")
    assert (await world.ended(run)).state is RunState.COMPLETED


async def test_an_answer_that_a_lost_machine_never_heard(world: World) -> None:
    """Its snapshot was taken before the answer and recorded after it."""
    world.on("paused", lambda: world.answer("wait:q#1"))
    world.on("kept", world.kill)
    row = await world.ended(await world.run([["wait", "q"], ["step", "b"]]))
    assert row.state is RunState.COMPLETED and row.epoch == 2
    assert world.effects == {"step:b#1": 1}


async def test_an_answer_before_the_wait_is_begun_again(world: World) -> None:
    """After the recovered machine was given its journal, before it comes to the wait."""
    world.on("pause", world.kill)
    # The lost machine is told to go on; the next one thaws.
    world.on("resume", None, None, lambda: world.answer("wait:q#1"))
    row = await world.ended(await world.run([["wait", "q"], ["step", "b"]]))
    assert row.state is RunState.COMPLETED and row.epoch == 2
    assert row.result["wait:q#1"]["data"] == "yes"


@pytest.mark.parametrize("point", [point for point in POINTS if point != "dropped"])
async def test_a_machine_lost_at_any_point(world: World, point: str) -> None:
    lived(await live_through(world, await world.run(LIFE)))  # the next has a warm machine
    for n in range(1, 100):
        nth = Nth(world, point, n, world.kill)
        run = await world.run(LIFE)
        lived(await live_through(world, run))
        assert await world.output(run) == "one two"
        assert set(world.effects) == {"step:a#1", "step:f#1", "step:b#1"}
        if not nth.reached:
            break
    assert n > 1


async def test_a_log_that_cannot_be_written_for_a_while(world: World) -> None:
    async def full() -> None:
        raise Exhausted("the disk is full")

    for n in range(40):
        world.acts.clear()
        world.on("write", *[None] * n, full, full)
        run = await world.run(LIFE) if n else None
        if run is None:
            continue
        lived(await live_through(world, run))
        assert world.effects == {"step:a#1": 1, "step:f#1": 1, "step:b#1": 1}
        if world.acts["write"]:
            return
    raise AssertionError("the run never ended before the trouble")


async def test_lost_again_and_again_it_fails(world: World) -> None:
    world.on("resume", world.kill, world.kill, world.kill)
    row = await world.ended(await world.run([["step", "a"]]))
    assert row.state is RunState.FAILED and row.error is not None
    assert row.error["type"] == "MachineLost"
    assert "3 times" in row.error["message"] and "it is gone" in row.error["message"]
    assert not world.effects


async def test_losses_between_progress_do_not_count(world: World) -> None:
    script = [["step", f"s{n}"] for n in range(6)]

    async def act() -> None:
        await world.kill()

    # Each machine records one step and is lost.
    run = await world.run(script)
    for n in range(6):
        world.on("written", *[None] * 3, act)
        del n
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED


def damage(world: World, manifest: str, kind: str, how: str) -> None:
    layers = world.machines.store.layers(manifest)
    blobs = world.home.blobs
    (path,) = blobs.rglob(manifest if kind == "manifest" else layers[-1].digest)
    match how:
        case "deleted":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "flipped":
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 0xFF
            path.write_bytes(data)
    world.machines._cache.clear()


@pytest.mark.parametrize(
    ("kind", "how", "older"),
    [
        *(("manifest", how, True) for how in ("deleted", "empty", "flipped")),
        *(("layer", how, True) for how in ("deleted", "empty", "flipped")),
        ("layer", "flipped", False),
    ],
)
async def test_a_damaged_snapshot(world: World, kind: str, how: str, older: bool) -> None:
    script = [["print", "one "], ["step", "a"], *[["checkpoint", "c"]] * older]
    run = await world.run([*script, ["wait", "q"], ["print", "two"]])
    await world.asleep(run)
    newest = await world.store.read(lambda c: snapshots.newest_snapshot(c, run))
    assert newest is not None
    damage(world, newest.manifest, kind, how)
    await world.answer("wait:q#1")
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED, row.error
    assert row.result["wait:q#1"]["data"] == "yes"
    assert await world.output(run) == "one two"
    assert world.effects == {"step:a#1": 1}
    (failed,) = await world.entries(run, "machine.failed")
    assert newest.id in failed.data["reason"]


FULL = OSError(errno.ENOSPC, "No space left on device")
CHECKPOINT: Script = [["checkpoint", "c"], ["wait", "q"]]


@pytest.mark.parametrize(
    ("point", "error", "lines"),
    [
        *((point, FULL, [["wait", "q"]]) for point in ("pause", "device", "keep")),
        *((point, FULL, CHECKPOINT) for point in ("pause", "device", "keep")),
        ("keep", Exhausted("the disk is full"), [["wait", "q"]]),
        ("device", HostError("QEMU did not do it"), [["wait", "q"]]),
        ("keep", Damaged("its parent is damaged"), [["wait", "q"]]),
        ("keep", NotFound("its parent is gone"), CHECKPOINT),
    ],
)
async def test_a_freeze_that_fails_harms_nothing(
    world: World, point: str, error: Exception, lines: Script
) -> None:
    """Rule 6."""

    async def fail() -> None:
        raise error

    world.on(point, fail)
    run = await world.run([["step", "a"], *lines, ["step", "b"]])
    await world.asleep(run)  # the next try
    (failed,) = await world.entries(run, "freeze.failed")
    assert str(error) in failed.data["reason"]
    assert (await world.row(run)).epoch == 1
    await world.answer("wait:q#1")
    assert (await world.ended(run)).state is RunState.COMPLETED
    assert world.effects == {"step:a#1": 1, "step:b#1": 1}


@pytest.mark.parametrize("lines", [[["wait", "q"]], [["checkpoint", "c"], ["wait", "q"]]])
async def test_an_agent_that_cannot_be_held(world: World, lines: Script) -> None:
    world.refused["prepare"] = 2
    run = await world.run(lines)
    await world.asleep(run)
    failed = await world.entries(run, "freeze.failed")
    assert [entry.data["reason"] for entry in failed] == ["refused"] * 2
    await world.answer("wait:q#1")
    assert (await world.ended(run)).state is RunState.COMPLETED


async def test_a_machine_that_lost_its_run(world: World) -> None:
    """Rule 4."""

    async def steal() -> None:
        await world.store.write_unseen(lambda c: runs.claim(c, run, time.time()))

    world.on("kept", steal)
    run = await world.run([["wait", "q"], ["step", "b"]])
    await world.until(run, lambda row: row.epoch >= 2)
    await world.asleep(run)
    taken = await world.store.read(lambda c: snapshots.list_snapshots(c, run))
    assert [snapshot.epoch for snapshot in taken] == [3]
    await world.answer("wait:q#1")
    assert (await world.ended(run)).state is RunState.COMPLETED


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([["value", 2 << 20]], "the data of op.end entry step:2097152#1 has 2,097,"),
        ([["value", 600_000], ["value", 600_001]], "the run's outcome has 1,200,"),
        ([["print", 2 << 20]], "the data of output entry has 2,097,"),
        ([["emit", 2 << 20]], "the data of note.emit entry has 2,097,"),
        (
            [["raw", {"t": "end", "op": "step:never#1", "ok": True}]],
            "operation step:never#1 ended without having begun",
        ),
        (
            [["step", "a"], ["raw", {"t": "end", "op": "step:a#1", "ok": True}]],
            "operation step:a#1 has a result already (rule 2)",
        ),
    ],
)
async def test_what_cannot_be_recorded_fails_the_run(
    world: World, lines: Script, words: str
) -> None:
    row = await world.ended(await world.run(lines))
    assert row.state is RunState.FAILED and row.error is not None
    assert words in row.error["message"]
    assert row.epoch == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["raw", None], "sent an invalid message: a message that is not JSON"),
        (["raw", {"t": "hello", "protocol": 1, "python": "3", "kernel": "6"}], "sent 'hello'"),
        (["raw", {"t": "thawed", "epoch": 7, "at": 1.0}], "sent 'thawed'"),
        (["raw", {"t": "crashed", "traceback": "Traceback: oh"}], "supervisor failed:\nTraceback"),
    ],
)
async def test_a_machine_that_talks_nonsense(world: World, line: list[Any], words: str) -> None:
    row = await world.ended(await world.run([["step", "a"], line, ["wait", "q"]]))
    assert row.state is RunState.FAILED and row.error is not None
    assert row.error["type"] == "MachineLost" and words in row.error["message"]
    # It harms no other run.
    assert (await world.ended(await world.run([["step", "a"]]))).state is RunState.COMPLETED


@pytest.mark.parametrize(
    ("line", "kind"), [(["exit", 3], "AgentExited"), (["fail", "ValueError"], "ValueError")]
)
async def test_an_agent_that_fails(world: World, line: list[Any], kind: str) -> None:
    row = await world.ended(await world.run([["step", "a"], line]))
    assert row.state is RunState.FAILED and row.error is not None
    assert row.error["type"] == kind


async def test_a_thaw_that_is_never_confirmed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 8."""
    monkeypatch.setattr(thawing, "THAW_LIMIT_S", 0.05)
    world.refused["thaw"] = 3
    row = await world.ended(await world.run([["step", "a"]]))
    assert row.error is not None and "did not say thawed" in row.error["message"]
    assert not world.effects


@pytest.mark.limits(prepare_s=0.0)
async def test_a_prepare_that_is_never_answered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await world.run([["step", "a"], ["wait", "q"]])
    row = await world.ended(run)
    assert row.error is not None and "did not say prepared" in row.error["message"]


async def test_timers(world: World) -> None:
    past, soon = time.time() - 10, time.time() + 0.2
    run = await world.run([["sleep", past], ["step", "a"]], [["sleep", soon], ["step", "b"]])
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED
    assert row.ended_at is not None and row.ended_at >= soon
    assert world.effects == {"step:a#1": 1, "step:b#1": 1}


async def test_a_wait_that_times_out_while_asleep(world: World) -> None:
    run = await world.run([["sleep", time.time() + 2], ["step", "a"]])
    await world.until(run, lambda row: row.state is RunState.SUSPENDED)
    assert (await world.ended(run)).state is RunState.COMPLETED


async def test_a_model_call_that_was_recorded_is_not_made_again(world: World) -> None:
    run = await world.run([["model", "m"], ["value", 1], ["step", "a"]])
    world.on("model", None)

    async def kill_when_recorded() -> None:
        if any(entry.op == "model:m#1" for entry in await world.entries(run, "op.end")):
            world.anywhere = None
            await world.kill()

    world.anywhere = lambda point: kill_when_recorded()
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED and row.epoch == 2
    assert world.requests == ["m"]


async def test_a_model_call_keeps_its_machine_awake(world: World) -> None:
    calls = Calls(world)
    run = await world.run([["wait", "q"]], [["model", "m"]])
    await world.open_waits(run)
    await calls.begun.wait()
    assert (await world.row(run)).state is RunState.RUNNING
    calls.go.set()
    await world.asleep(run)
    await world.answer("wait:q#1")
    assert (await world.ended(run)).state is RunState.COMPLETED
    assert world.requests == ["m"]


async def test_a_model_call_under_way_at_a_checkpoint_is_adopted(world: World) -> None:
    calls = Calls(world)
    run = await world.run([["model", "m"]], [["checkpoint", "c"]])
    await calls.begun.wait()
    while not await world.entries(run, "snapshot"):
        await world.until(run, lambda row: row.last_seq > 5)
    await world.kill()
    await world.up(run, 2)
    calls.go.set()
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED
    assert world.requests == ["m"]
    assert not await world.entries(run, "op.again")


async def test_an_answer_of_a_model_that_no_entry_has_room_for(world: World) -> None:
    """It is kept as a step's large result is; its client has had it from the stream."""
    world.answers = b"x" * (2 << 20)
    run = await world.run([["model", "m"]])
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED
    assert row.result["model:m#1"]["status"] == 200
    assert row.result["model:m#1"]["blob"]["bytes"] == 2 << 20
    assert world.requests == ["m"]


async def test_a_model_that_is_not_there(world: World) -> None:
    """Its broker dies of the call."""
    world.on("model", world.broker.die)
    run = await world.run([["model", "m"]])
    row = await world.ended(run)
    answer = row.result["model:m#1"]
    assert answer["status"] == 503 and DIED in answer["body"]
    assert "x-should-retry" not in answer["headers"]  # its client's try is a call of its own
    assert world.requests == ["m"]


async def test_a_pager_that_died_does_not_undo_what_was_done(world: World) -> None:
    async def die() -> None:
        world.pager.failure = HostError("the pager does not answer")

    world.on("kill", die)
    run = await world.run([["wait", "q"]])
    await world.until(run, lambda row: row.state is RunState.SUSPENDED)
    await world.gone(run)
    world.pager.failure = None
    assert (await world.row(run)).state is RunState.SUSPENDED
    await world.answer("wait:q#1")
    assert (await world.ended(run)).state is RunState.COMPLETED


async def test_a_server_that_is_started_again(world: World) -> None:
    asleep = await world.run([["wait", "q"], ["step", "b"]])
    await world.asleep(asleep)
    calls = Calls(world)
    awake = await world.run([["print", "one "], ["step", "a"], ["model", "m"], ["print", "two"]])
    await calls.begun.wait()
    await world.stop()
    assert not any(machine.alive for machine in world.machines_started)
    assert (await world.row(awake)).state is RunState.RUNNING
    await world.start()
    await world.up(awake, 2)
    calls.go.set()
    assert (await world.ended(awake)).state is RunState.COMPLETED
    assert world.requests == ["m"]  # the broker was at it all the time
    assert await world.output(awake) == "one two"
    world.recorded.clear()
    await world.answer("wait:q#1")
    assert (await world.ended(asleep)).state is RunState.COMPLETED


async def test_no_more_machines_than_there_is_room_for(world: World) -> None:
    world.slots = 1
    calls = Calls(world)
    first = await world.run([["model", "m"]])
    await calls.begun.wait()
    second = await world.run([["step", "a"]])
    assert len(world.scheduler.drivers) == 1
    calls.go.set()
    for run in (first, second):
        assert (await world.ended(run)).state is RunState.COMPLETED


async def test_a_step_that_wrote_files_is_recorded_with_them(world: World) -> None:
    run = await world.run([["file", "f"], ["wait", "q"]])
    await world.open_waits(run)
    log = kinds(await world.entries(run))
    assert log.index("snapshot") < log.index("wait.created" if "wait.created" in log else "op.end")
    (end, *_) = await world.entries(run, "op.end")
    (first, *_) = await world.entries(run, "snapshot")
    assert abs(end.seq - first.seq) == 1 and end.data["files"]


async def test_without_a_snapshot_its_end_is_recorded_all_the_same(world: World) -> None:
    async def fail() -> None:
        raise HostError("the store is gone")

    world.on("keep", fail)
    run = await world.run([["file", "f"], ["step", "a"]])
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED and row.epoch == 1
    assert [each.data["reason"] for each in await world.entries(run, "freeze.failed")] == [
        "the store is gone"
    ]
