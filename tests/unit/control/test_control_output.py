"""A flood of output: the log takes so much, the rest lies beside it, and nothing is twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import Connection, update

from torpor.contextlog import schema
from torpor.contextlog.waits import complete_wait, list_waits
from torpor.core.ids import RunId
from torpor.core.states import RunState
from torpor.machines.channel import OUTPUT_AHEAD_BYTES, Channel, Output
from torpor.testing.fakes.plain import Plain
from torpor.worker import beside
from torpor.worker.beside import Beside

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("hasty")]
MIB = 1 << 20

FLOOD = """
import torpor

@torpor.step
def part(n):
    print(f"{n:07d}|" * 65536)

@torpor.agent
def flood():
    for n in range(12):
        part(n)
    torpor.approve("go?")
    print("end")
    return "done"
"""
PRINTED = "".join(f"{n:07d}|" * 65536 + "\n" for n in range(12)) + "end\n"


async def test_what_the_log_does_not_take_is_kept_and_exact_after_a_replay(plain: Plain) -> None:
    version = await plain.deploy(FLOOD)

    def limit(c: Connection) -> None:
        spec = {"image": "process", "keep": "", "rules": {"output": "2M"}}
        c.execute(update(schema.agents).values(spec=spec))

    await plain.store.write(limit)
    run = await plain.run(version, "flood")
    row = await plain.until(run, lambda row: row.state is RunState.SUSPENDED)
    assert row.out_offset == len(PRINTED) - 4

    def answer(c: Connection) -> None:
        (wait,) = list_waits(c, run)
        complete_wait(c, wait.id, value={"data": None, "approved": True, "note": None}, now=1.0)

    await plain.store.write(answer)
    row = await plain.ended(run)
    assert row.state is RunState.COMPLETED and row.out_offset == len(PRINTED)
    logged = sum(len(e.data["text"]) for e in await plain.entries(run, "output"))
    assert 2 * MIB <= logged < 3 * MIB
    (mark,) = await plain.entries(run, "output.beside")
    assert mark.data == {"limit": 2 * MIB, "stdout": logged, "stderr": 0}
    assert all(len(json.dumps(e.data)) < MIB for e in await plain.entries(run))
    kept = Beside(plain.home.output)
    assert b"".join(kept.whole(plain.store, run, "stdout")).decode() == PRINTED
    assert b"".join(kept.whole(plain.store, run, "stderr")) == b""
    for offset in (1, 2 * MIB - 1, logged, logged + 1, len(PRINTED) - 1, len(PRINTED) + 1):
        rest = b"".join(kept.whole(plain.store, run, "stdout", offset)).decode()
        assert rest == PRINTED[offset:]
    shares = await plain.store.read(lambda c: kept.shares(c, run))
    beyond = len(PRINTED) - logged
    assert shares["stdout"] == {
        "printed": len(PRINTED),
        "logged": logged,
        "kept": beyond,
        "dropped": 0,
    }
    assert shares["stderr"] == {"printed": 0, "logged": 0, "kept": 0, "dropped": 0}
    kept.remove(run)
    shares = await plain.store.read(lambda c: kept.shares(c, run))
    assert (shares["stdout"]["kept"], shares["stdout"]["dropped"]) == (0, beyond)
    assert not list(plain.home.output.iterdir())


def test_even_beside_it_no_more_than_so_much_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "BESIDE_BYTES_MAX", 8192)
    kept, run = Beside(tmp_path), RunId("run_x")
    begin = 1 << 20
    for at in range(0, 20_000, 1000):
        kept.keep(run, "stdout", begin + at, b"x" * 1000)
    assert b"".join(kept.read(run, "stdout", begin)) == b"x" * 8192
    assert kept.kept(run, "stdout", begin) == 8192 and kept.full(run, "stdout")


def test_what_came_without_its_file_goes_on_without_a_hole(tmp_path: Path) -> None:
    kept, run = Beside(tmp_path), RunId("run_x")
    kept.keep(run, "stdout", (1 << 20) + 100, b"goes on")
    assert b"".join(kept.read(run, "stdout", 1000)) == b"goes on"


async def test_output_that_nobody_takes_is_not_read_on() -> None:
    conversation, chunks = Channel(), 0
    while not conversation.far_ahead:
        conversation.inbox.append(Output(1, b"x" * 65536))
        chunks += 1
    assert chunks == OUTPUT_AHEAD_BYTES // 65536 + 1
