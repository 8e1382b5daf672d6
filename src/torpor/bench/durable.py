"""The peer of `torpor bench journal`: the same steps under dbos on SQLite, in a process of its own.

    python -m torpor.bench.durable DATABASE STEPS run|recover

`run` starts a workflow of so many steps, which then waits for ever; killed meanwhile, `recover`
finds it again. Both print, when its steps are done, how fast that went: JSON, a line.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LIMIT_S = 1800


@dataclass(frozen=True)
class Peer:
    steps: int
    steps_per_s: float
    recovery_s: float  # of these steps, from its launch on


def installed() -> bool:
    """Whether dbos is here: it is a dependency of torpor's developers only."""
    return importlib.util.find_spec("dbos") is not None


def measure(directory: Path, steps: int) -> Peer:
    """Blocks. Raises subprocess.SubprocessError."""
    ran = _one(directory / "dbos.db", steps, "run")
    recovered = _one(directory / "dbos.db", steps, "recover")
    return Peer(steps, ran["steps_per_s"], recovered["since_launch_s"])


def _one(database: Path, steps: int, mode: str) -> dict[str, float]:
    command = [sys.executable, "-m", __name__, str(database), str(steps), mode]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.kill()
    if not line:
        raise subprocess.SubprocessError(f"dbos did not {mode}: {' '.join(command)}")
    figures: dict[str, float] = json.loads(line)
    return figures


def main(database: str, steps: int, mode: str) -> None:
    from dbos import DBOS  # developers have it

    signal.alarm(_LIMIT_S)
    config: Any = {
        "name": "bench",
        "system_database_url": f"sqlite:///{database}",
        "log_level": "ERROR",
        "run_admin_server": False,
    }
    DBOS(config=config)
    launched = time.perf_counter()

    @DBOS.step()
    def add(number: int) -> int:
        return number + 1

    @DBOS.workflow()
    def count(steps: int) -> None:
        began, number = time.perf_counter(), 0
        for _ in range(steps):
            number = add(number)
        now = time.perf_counter()
        figures = {"steps_per_s": steps / (now - began), "since_launch_s": now - launched}
        print(json.dumps(figures), flush=True)
        DBOS.recv("never", timeout_seconds=_LIMIT_S)

    DBOS.launch()
    if mode == "run":
        DBOS.start_workflow(count, steps)
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
