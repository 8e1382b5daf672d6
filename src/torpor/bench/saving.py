"""`torpor bench dev`: how soon `torpor dev` shows what was saved.

An agent of some recorded steps is saved with another line to print, again and again: from before
the write to that line on the terminal's side. Beside it, in turn, the same line printed by
`python FILE`, started once the file is written: no reload can be faster than that.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from torpor.bench.bars import Figure
from torpor.bench.stage import report, served
from torpor.bench.stats import percentile
from torpor.core.errors import GuestError
from torpor.core.home import Home
from torpor.terminal.screen import err

BAR_MS = 1000
STEPS = 20
_AGENT = """\
import torpor

@torpor.step
def step(n):
    return n + 1

@torpor.agent
def main():
    total = 0
    for n in range({steps}):
        total += step(n)
    print("saved {number}")
    return total
"""
_SCRIPT = 'print("saved {number}")\n'


def main(saves: int, as_json: bool) -> int:
    """Measure and print: JSON or a table on stdout, progress on stderr. Raises TorporError."""
    with tempfile.TemporaryDirectory(prefix="torpor-bench-") as folder:
        home = Home(Path(folder) / "home").create()
        with err.status("saving files"), served(home):
            found = figures(_measure(Path(folder), saves))
    about = f"; {saves} saves of an agent of {STEPS} recorded steps."
    report(found, about, as_json=as_json, steps=STEPS)
    return 0


def _measure(folder: Path, saves: int) -> dict[str, list[float]]:
    """Milliseconds of each save."""
    agent, script = folder / "agent.py", folder / "script.py"
    took: dict[str, list[float]] = {"dev": [], "python": []}
    _save(agent, _AGENT.format(steps=STEPS, number=0))
    with _developing(agent) as shown:
        _until(shown, 0)
        for number in range(1, saves + 1):
            began = time.perf_counter()
            _save(agent, _AGENT.format(steps=STEPS, number=number))
            _until(shown, number)
            took["dev"].append(1000 * (time.perf_counter() - began))
            began = time.perf_counter()
            _save(script, _SCRIPT.format(number=number))
            subprocess.run([sys.executable, str(script)], stdout=subprocess.DEVNULL, check=True)
            took["python"].append(1000 * (time.perf_counter() - began))
    return took


@contextmanager
def _developing(agent: Path) -> Iterator[IO[str]]:
    torpor = str(Path(sysconfig.get_path("scripts")) / "torpor")
    command = [sys.executable, torpor, "dev", str(agent)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.kill()


def _save(path: Path, text: str) -> None:
    """As editors do."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)


def _until(shown: IO[str], number: int) -> None:
    for line in shown:
        if line == f"saved {number}\n":
            return
    raise GuestError("torpor dev has ended", hint="Try it by hand: torpor dev AGENT.py")


def figures(took: Mapping[str, list[float]]) -> tuple[Figure, ...]:
    bare = percentile(took["python"], 0.5)
    return tuple(
        Figure(
            key=f"dev_{name}_ms",
            title=f"saved, until it is shown, {name}",
            unit="ms",
            value=percentile(took["dev"], share),
            samples=len(took["dev"]),
            peers={"python FILE": bare},
            bar=bar,
            bound="two starts of an interpreter",
            bound_value=2 * bare,
        )
        for name, share, bar in (("p50", 0.5, None), ("p99", 0.99, BAR_MS))
    )
