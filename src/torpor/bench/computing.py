"""`torpor bench computing`: what computing costs in a machine, beside the same on the host.

A mixed load (`torpor.bench.mixed`) is run in a machine and, in turn, as a script by this host's
Python, by wall time, each part for itself. Where machines are emulated it takes many times as long;
under KVM nearly nothing is lost. The two Pythons may differ: both are named.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from torpor.bench.bars import Figure
from torpor.bench.stage import Stage, ended, perform, report
from torpor.bench.stats import percentile
from torpor.core.errors import GuestError, HostError
from torpor.engine import qemu
from torpor.engine.capabilities import EMULATION
from torpor.image.recipe import PYTHON_VERSION
from torpor.project.reading import read_agent
from torpor.web import words

AGENT = Path(__file__).with_name("mixed.py")
HOST = "on the host"

# Milliseconds of each part, for each turn.
Took = Sequence[Mapping[str, float]]


def main(turns: int, as_json: bool) -> int:
    """Measure and print: JSON or a table on stdout, progress on stderr. Raises TorporError."""

    async def work(stage: Stage) -> tuple[str | None, list[Figure]]:
        machine, host = await _measure(stage, turns)
        accel = (await stage.service.health())["accel"]
        return accel, figures(machine, host)

    accel, found = perform(work)
    python = {"machine": PYTHON_VERSION, "host": platform.python_version()}
    how = "emulation (no usable KVM)" if accel == EMULATION else str(accel).upper()
    about = (
        f", machines by {how}; Python {python['machine']} in the machine, {python['host']} on the "
        f"host; p50 of {words.count(turns, 'turn')}."
    )
    report(found, about, as_json=as_json, acceleration=accel, python=python)
    return 0


async def _measure(stage: Stage, turns: int) -> tuple[Took, Took]:
    stage.tell("making a machine")
    deployed = await stage.service.agents.deploy(read_agent(AGENT), lambda *_: None, qemu.NAME)
    machine, host = [], []
    for turn in range(turns):
        stage.tell(f"turn {turn + 1} of {turns}")
        await stage.service.machines.settled()
        row = await ended(stage, deployed["version"])
        if not isinstance(row.result, dict):
            raise GuestError(f"the load has failed in its machine: {row.error}")
        machine.append(row.result)
        host.append(_on_host())
    return machine, host


def _on_host() -> dict[str, float]:
    done = subprocess.run([sys.executable, str(AGENT)], capture_output=True, text=True)
    if done.returncode:
        raise HostError(f"the load has failed on this host: {done.stderr[-2000:]}")
    took: dict[str, float] = json.loads(done.stdout)
    return took


def figures(machine: Took, host: Took) -> list[Figure]:
    """Each part, and all of them together."""
    ours, theirs = (_medians(took) for took in (machine, host))
    ours["all of it"], theirs["all of it"] = sum(ours.values()), sum(theirs.values())
    return [
        Figure(
            key=f"computing_{name.lower().replace(' ', '_').replace('-', '')}_ms",
            title=name,
            unit="ms",
            value=value,
            samples=len(machine),
            peers={HOST: theirs[name]},
            bound="the host's processor",
            bound_value=theirs[name],
        )
        for name, value in ours.items()
    ]


def _medians(took: Took) -> dict[str, float]:
    return {name: percentile([each[name] for each in took], 0.5) for name in took[0]}
