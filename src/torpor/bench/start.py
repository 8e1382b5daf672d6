"""`torpor bench cli`: how soon commands have done what they do, processes and all.

Each is a process, started as a shell starts it, in turn with `python -c pass`, which none can be
faster than; `ps` asks a server whose log has many runs, half of which have ended.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from torpor.bench.bars import Figure
from torpor.bench.stage import report, served
from torpor.bench.stats import percentile
from torpor.contextlog import runs
from torpor.contextlog.agents import NewAgent, put_agent
from torpor.core.home import Home
from torpor.core.ids import AgentVersion, Seq
from torpor.core.states import RunState
from torpor.logstore.sqlite import SqliteStore
from torpor.terminal.screen import err

RUNS = 200
_PASS = "python -c pass"
_BARS_MS: Mapping[str, float | None] = {"--version": 150, "--help": None, "ps": 300}
_VERSION = AgentVersion("b" * 32)


def main(times: int, as_json: bool) -> int:
    """Measure and print: JSON or a table on stdout, progress on stderr. Raises TorporError."""
    with tempfile.TemporaryDirectory(prefix="torpor-bench-") as folder:
        home = Home(Path(folder)).create()
        with err.status(f"writing {RUNS} runs"):
            asyncio.run(populate(home))
        with err.status("starting commands"), served(home):
            found = figures(_measure(times))
    report(found, f"; p50 of {times} times each, in turn.", as_json=as_json, runs=RUNS)
    return 0


async def populate(home: Home) -> None:
    store = await asyncio.to_thread(SqliteStore.open, home.database)
    try:
        for number in range(RUNS):
            await store.write(partial(_put_run, number=number))
    finally:
        await asyncio.to_thread(store.close)


def _put_run(c: Connection, number: int) -> None:
    now = time.time()
    put_agent(
        c,
        NewAgent(engine="qemu", version=_VERSION, name="a", entry="a.py", source=b"", spec={}),
        now,
    )
    row = runs.create_run(c, version=_VERSION, agent="a", input={"n": number}, now=now)
    epoch = runs.claim(c, row.id, now)
    if number % 2:
        runs.transition(c, row.id, epoch, RunState.COMPLETED, now, result=number)
    else:
        runs.suspend(c, row.id, epoch, now, runs.Suspension(seen=Seq(row.last_seq + 1)))


def _measure(times: int) -> dict[str, list[float]]:
    """Milliseconds of each, by its name."""
    script = str(Path(sysconfig.get_path("scripts")) / "torpor")
    commands = {_PASS: [sys.executable, "-c", "pass"]}
    commands |= {name: [sys.executable, script, name] for name in _BARS_MS}
    took: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(times):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            took[name].append(1000 * (time.perf_counter() - began))
    return took


def figures(took: Mapping[str, list[float]]) -> tuple[Figure, ...]:
    bare = percentile(took[_PASS], 0.5)
    return tuple(
        Figure(
            key=f"{name.strip('-')}_ms",
            title=f"torpor {name}" + (f", {RUNS} runs" if name == "ps" else ""),
            unit="ms",
            value=percentile(took[name], 0.5),
            samples=len(took[name]),
            peers={_PASS: bare},
            bar=bar,
            bound="an interpreter's start",
            bound_value=bare,
        )
        for name, bar in _BARS_MS.items()
    )
