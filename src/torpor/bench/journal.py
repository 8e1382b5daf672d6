"""`torpor bench journal`: what it costs that every step is in the log, and whether that holds.

`working.py` is run on a stage (`torpor.bench.stage`) by the engine `process`, and by machines where
they can run. Times are those that the log holds: the machine's own clock is not asked. What is
killed is killed by SIGKILL.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torpor.bench import durable
from torpor.bench.journalbars import STEPS, Ledger, Measured, figures
from torpor.bench.stage import Stage, perform, report
from torpor.bench.stats import percentile
from torpor.contextlog import entries, runs, waits
from torpor.contextlog.entries import AGAIN, BEGIN, END, EntryRow, NewEntry
from torpor.control.engines import choose
from torpor.core.errors import GuestError, TorporError
from torpor.core.ids import RunId
from torpor.core.states import FINAL, RunState
from torpor.engine import process, qemu
from torpor.project.reading import read_agent

AGENT = Path(__file__).with_name("working.py")
WAKES, DOZES, DOZE_S = 200, 100, 0.05
RECOVERIES = 3
SHORT, LONG, APPENDS = 100, 100_000, 400
MESSAGES, MESSAGE_BYTES = 1000, 1000
ROUNDS, BESIDE = 60, 4
# A process that was not even restarted has nothing to lose: it is killed so long after a result.
KILL_S_MAX = 0.03
TAIL_STEPS = 10
_LIMIT_S = 1800.0
_LOOK_S = 0.05


@dataclass(frozen=True)
class Sizes:
    steps: int
    machine_steps: int
    peer_steps: int
    kills: int


def main(sizes: Sizes, as_json: bool) -> int:
    """Measure and print: JSON or a table on stdout, progress on stderr. Raises TorporError."""
    began = time.perf_counter()
    found = figures(perform(lambda stage: _measure(stage, sizes)))
    took_s = time.perf_counter() - began
    peer = "dbos" if durable.installed() else "dbos is not installed (uv sync --group dev)"
    about = f"; {took_s:.0f} s. Peers: SQLite with a transaction an insert; {peer}."
    report(found, about, as_json=as_json, took_s=round(took_s, 1), peer=peer)
    return 0


async def _measure(stage: Stage, sizes: Sizes) -> Measured:
    bench = await _Bench.start(stage, process.NAME)
    directory = stage.home.root
    stage.tell("raw inserts")
    raw_per_s = await asyncio.to_thread(_raw_per_s, directory / "raw.db", min(sizes.steps, 3000))
    stage.tell(f"{sizes.steps:,} steps, one after the other")
    counting = await bench.run("count", steps=sizes.steps)
    steps_per_s = await bench.rate(counting, sizes.steps)
    if sizes.steps != STEPS:
        await bench.cancel(counting)
        stage.tell(f"{STEPS:,} steps, to be recovered")
        counting = await bench.run("count", steps=STEPS)
        await bench.rate(counting, STEPS)
    stage.tell("recovery")
    recovery_ms = [await bench.recovery_ms(counting, "run.recovered") for _ in range(RECOVERIES)]
    await bench.cancel(counting)
    stage.tell("waking")
    wake_ms, overshoot_ms = await _wakes(bench), await _overshoots(bench)
    stage.tell("messages")
    stored_bytes = await _stored_bytes(bench)
    stage.tell("appends to a long log")
    append_us = await _append_us(bench)
    stage.tell(f"{sizes.kills} kills")
    ledger = await _ledger(bench, sizes.kills)
    machine_steps_per_s, tail_ms = await _of_machines(stage, sizes.machine_steps)
    peer = None
    if durable.installed():
        stage.tell(f"{sizes.peer_steps:,} steps of dbos, and their recovery")
        peer = await asyncio.to_thread(durable.measure, directory, sizes.peer_steps)
    return Measured(
        steps=sizes.steps,
        steps_per_s=steps_per_s,
        raw_per_s=raw_per_s,
        machine_steps=sizes.machine_steps,
        machine_steps_per_s=machine_steps_per_s,
        machine_tail_ms=tail_ms,
        append_us=append_us,
        appends=APPENDS,
        recovery_ms=recovery_ms,
        wake_ms=wake_ms,
        overshoot_ms=overshoot_ms,
        message_bytes=MESSAGES * MESSAGE_BYTES,
        stored_bytes=stored_bytes,
        messages=MESSAGES,
        ledger=ledger,
        peer_steps=sizes.peer_steps,
        peer_steps_per_s=None if peer is None else peer.steps_per_s,
        peer_recovery_ms=None if peer is None else peer.recovery_s * 1000 * STEPS / peer.steps,
    )


class _Bench:
    """The agents of `working.py`, deployed to an engine."""

    def __init__(self, stage: Stage, version: str) -> None:
        self.stage, self.store, self._version = stage, stage.store, version

    @classmethod
    async def start(cls, stage: Stage, engine: str) -> _Bench:
        def tell(name: str, message: str, fraction: float | None) -> None:
            stage.tell(message)

        deployed = await stage.service.agents.deploy(read_agent(AGENT), tell, engine)
        return cls(stage, deployed["version"])

    @property
    def version(self) -> Any:
        return self._version

    async def run(self, agent: str, **given: Any) -> RunId:
        return await self.stage.start(self._version, agent, **given)

    async def cancel(self, run: RunId) -> None:
        await self.stage.service.runs.cancel(run)

    async def entries(self, run: RunId, *kinds: str) -> list[EntryRow]:
        return await self.store.read(
            lambda c: entries.read_entries(c, run, 0, kinds or None, 10_000_000)
        )

    async def until(self, run: RunId, seen: Callable[[Any], bool]) -> Any:
        """What `seen` finds true: the newest of the run. Looked for after each write to it."""
        async with asyncio.timeout(_LIMIT_S):
            with self.store.subscribe(run) as subscription:
                while not seen(row := await self.store.read(lambda c: runs.get_run(c, run))):
                    if row.state is RunState.FAILED:
                        raise GuestError(f"the run failed: {row.error}")
                    await subscription.wait()
        return row

    async def began(self, run: RunId, op: str, kind: str = BEGIN) -> EntryRow:
        """Once the operation has begun. Looks now and then, not to slow down what is measured."""
        async with asyncio.timeout(_LIMIT_S):
            while True:
                row = await self.store.read(lambda c: runs.get_run(c, run))
                if row.state in FINAL:
                    raise GuestError(f"the run ended as {row.state.value}: {row.error}")
                tail = await self.store.read(
                    partial(entries.read_entries, run=run, after=row.last_seq - 20)
                )
                for entry in tail:
                    if (entry.kind, entry.op) == (kind, op):
                        return entry
                await asyncio.sleep(_LOOK_S)

    async def rate(self, run: RunId, steps: int) -> float:
        """Steps a second of a run of `count`."""
        last = await self.began(run, "step:hold#1")
        (first,) = await self.store.read(lambda c: entries.read_entries(c, run, 0, [BEGIN], 1))
        return steps / (last.at - first.at)

    def pid(self, run: RunId) -> int | None:
        scheduler = self.stage.service.scheduler
        assert scheduler is not None
        driver = scheduler.drivers.get(run)
        return driver.live.pid if driver is not None and driver.live is not None else None

    async def recovery_ms(self, run: RunId, since_kind: str) -> float:
        """Kill what carries a run of `count`: from the next entry of `since_kind` to its being at
        work again."""
        before = (await self.store.read(lambda c: runs.get_run(c, run))).last_seq
        pid = self.pid(run)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(_LIMIT_S):
            while True:
                since = await self.store.read(lambda c: entries.read_entries(c, run, before))
                up = [entry for entry in since if entry.kind == since_kind]
                again = [entry for entry in since if entry.kind in (AGAIN, BEGIN)]
                if up and again:
                    return (again[-1].at - up[-1].at) * 1000
                await asyncio.sleep(_LOOK_S)


async def _wakes(bench: _Bench) -> list[float]:
    """From somebody's answer to the agent's next step."""
    run = await bench.run("wake", times=WAKES)
    answered = []
    for _ in range(WAKES):
        with bench.store.subscribe(run) as subscription:
            while not (found := await bench.store.read(lambda c: waits.list_waits(c, run))):
                await subscription.wait()
        answered.append(time.time())
        await bench.stage.answer(found[0].id)
    await bench.until(run, lambda row: row.state in FINAL)
    steps = [e for e in await bench.entries(run, BEGIN) if e.data["kind"] == "step"]
    return [(step.at - at) * 1000 for step, at in zip(steps, answered, strict=True)]


async def _overshoots(bench: _Bench) -> list[float]:
    """From when a sleep was to end to the agent's next step."""
    run = await bench.run("doze", times=DOZES, duration_s=DOZE_S)
    await bench.until(run, lambda row: row.state in FINAL)
    begun = await bench.entries(run, BEGIN)
    sleeps = [entry for entry in begun if entry.data["kind"] == "sleep"]
    steps = [entry for entry in begun if entry.data["kind"] == "step"]
    return [
        (step.at - slept.data["due_at"]) * 1000 for slept, step in zip(sleeps, steps, strict=True)
    ]


async def _stored_bytes(bench: _Bench) -> int:
    """What the database file grows by."""
    sizes = []
    for work in (None, ("tell", {"messages": MESSAGES, "size": MESSAGE_BYTES})):
        if work is not None:
            run = await bench.run(work[0], **work[1])
            await bench.until(run, lambda row: row.state in FINAL)
        await bench.store.scrub()
        sizes.append(bench.store.path.stat().st_size)
    return sizes[1] - sizes[0]


async def _append_us(bench: _Bench) -> dict[int, float]:
    """How long an append takes within its transaction, in a short and in a long log in turns."""
    note = NewEntry("note.log", None, {"message": "x" * 100})

    async def grown(length: int) -> Callable[[Any], object]:
        def make(c: Any) -> tuple[RunId, Any]:
            row = runs.create_run(c, version=bench.version, agent=None, input={}, now=1.0)
            return row.id, runs.claim(c, row.id, 1.0)

        run, epoch = await bench.store.write(make)
        for done in range(0, length, 1000):
            more = [note] * min(1000, length - done)
            await bench.store.write(
                partial(entries.append, run=run, epoch=epoch, entries=more, now=1.0)
            )
        return lambda c: entries.append(c, run, epoch, [note], 1.0)

    append = {length: await grown(length) for length in (SHORT, LONG)}
    took: dict[int, list[float]] = {length: [] for length in append}

    def timed(c: Any, length: int) -> None:
        began = time.perf_counter()
        append[length](c)
        took[length].append((time.perf_counter() - began) * 1e6)

    for _ in range(APPENDS):
        for length in append:
            await bench.store.write(partial(timed, length=length))
    return {length: percentile(samples, 0.5) for length, samples in took.items()}


async def _ledger(bench: _Bench, kills: int) -> Ledger:
    """Steps that write down what they do, killed at random moments."""
    seed = random.SystemRandom().randrange(2**32)
    bench.stage.tell(f"{kills} kills, seed {seed}")
    draw = random.Random(seed)
    done, steps, lost, unmarked, again = 0, 0, 0, 0, 0
    while done < kills:
        path = bench.stage.home.root / f"ledger-{done}"
        run = await bench.run("shop", ledger=str(path), rounds=ROUNDS, beside=BESIDE)
        while done < kills and await _next_result(bench, run):
            await asyncio.sleep(draw.uniform(0, KILL_S_MAX))
            pid = bench.pid(run)
            if pid is not None:
                with suppress(ProcessLookupError):  # it has just ended by itself
                    os.kill(pid, signal.SIGKILL)
                    done += 1
        row = await bench.until(run, lambda row: row.state in FINAL)
        lost += row.result != ROUNDS * BESIDE
        spent = Counter(path.read_text().split())
        log = await bench.entries(run, BEGIN, END, AGAIN)
        marked = Counter(entry.op for entry in log if entry.kind == AGAIN)
        ended = {entry.op for entry in log if entry.kind == END}
        for entry in log:
            if entry.kind == BEGIN:
                times = spent[entry.data["data"]["args"][1]]
                lost += entry.op in ended and not times
                unmarked += max(0, times - 1 - marked[entry.op])
        steps += len(ended)
        again += marked.total()
    return Ledger(done, steps, lost, unmarked, again, BESIDE)


async def _next_result(bench: _Bench, run: RunId) -> bool:
    """Wait until the run's newest epoch has recorded something; False once it has ended."""

    def seen(row: Any) -> bool:
        driver = bench.stage.service.scheduler.drivers.get(run)  # type: ignore[union-attr]
        return row.state in FINAL or (driver is not None and driver.progressed)

    return (await bench.until(run, seen)).state not in FINAL


async def _of_machines(stage: Stage, steps: int) -> tuple[float | None, float | None]:
    """The rate, and what recovery takes beyond a resume, where machines run."""
    if choose().engine != qemu.NAME:
        return None, None
    stage.tell(f"{steps:,} steps from a machine")
    bench = await _Bench.start(stage, qemu.NAME)
    run = await bench.run("count", steps=steps, checkpoint_at=steps - TAIL_STEPS)
    rate = await bench.rate(run, steps)
    tail_ms = await bench.recovery_ms(run, "machine.up")
    try:
        await bench.cancel(run)
    except TorporError as error:  # it has its ten seconds, whatever else the host does
        stage.tell(str(error))
    return rate, tail_ms


def _raw_per_s(path: Path, inserts: int) -> float:
    with closing(sqlite3.connect(path, isolation_level=None)) as c:
        c.execute("PRAGMA journal_mode = WAL")
        c.execute("PRAGMA synchronous = FULL")
        c.execute("CREATE TABLE entries (run TEXT, seq INTEGER, data TEXT, PRIMARY KEY (run, seq))")
        began = time.perf_counter()
        for seq in range(inserts):
            c.execute("BEGIN IMMEDIATE")
            c.execute("INSERT INTO entries VALUES ('run', ?, ?)", (seq, "x" * 200))
            c.execute("COMMIT")
        return inserts / (time.perf_counter() - began)
