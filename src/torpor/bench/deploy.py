"""`torpor bench deploy`: what it takes until an agent that was edited can be run.

Two agents, one without and one with dependencies, are deployed on a host that has the image and
nothing else; then again with another comment, several times, and with nothing changed. Each changed
version is run, and must say what it says: one that is quick and stale would be worth nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torpor.bench.bars import Figure
from torpor.bench.stage import Stage, ended, figure_table, perform
from torpor.bench.stats import percentile
from torpor.core.agentfile import AgentSource
from torpor.core.errors import InternalError
from torpor.engine import qemu
from torpor.terminal.screen import show, show_json

CHANGED_MS = 5000.0
DEPENDENCIES = ("httpx", "openai", "pydantic")

_PLAIN = """import torpor

# Edited {n} times.


@torpor.agent
def main() -> int:
    return {n}
"""
_WITH_DEPENDENCIES = """import httpx
import openai
from pydantic import BaseModel

import torpor

# Edited {n} times.


class Answer(BaseModel):
    edited: int


@torpor.agent
def main() -> int:
    return Answer(edited={n}).edited
"""


@dataclass(frozen=True)
class Agent:
    key: str
    title: str
    text: str
    dependencies: tuple[str, ...] = ()

    def edited(self, n: int) -> AgentSource:
        entry = f"{self.key}.py"
        files = {entry: self.text.replace("{n}", str(n)).encode()}
        return AgentSource(entry, files, dependencies=self.dependencies)


AGENTS = (
    Agent("plain", "an agent of one file", _PLAIN),
    Agent("deps", f"one that imports {', '.join(DEPENDENCIES)}", _WITH_DEPENDENCIES, DEPENDENCIES),
)


@dataclass(frozen=True)
class Took:
    """How long deployments took, in ms."""

    full: float
    changed: Sequence[float]
    same: float


def main(edits: int, as_json: bool) -> int:
    """Measure and print: JSON or a table on stdout, progress on stderr. Raises TorporError."""
    took = perform(lambda stage: _measure(stage, edits))
    found = [figure for agent in AGENTS for figure in figures(agent, took[agent.key])]
    if as_json:
        show_json({figure.key: figure.to_json() for figure in found})
    else:
        show(figure_table(found))
    return 0


def figures(agent: Agent, took: Took) -> list[Figure]:
    full = {"in full": took.full}
    return [
        Figure(
            f"{agent.key}_full_ms",
            f"{agent.title}: deployed in full",
            "ms",
            took.full,
            "a boot, the imports, and three snapshots",
        ),
        Figure(
            f"{agent.key}_changed_ms",
            "a comment changed: p50",
            "ms",
            percentile(took.changed, 0.5),
            "two restores, a snapshot, and importing the agent's own file",
            len(took.changed),
            peers=full,
        ),
        Figure(
            f"{agent.key}_changed_max_ms",
            "a comment changed: max",
            "ms",
            max(took.changed),
            "the same",
            len(took.changed),
            peers=full,
            bar=CHANGED_MS,
        ),
        Figure(
            f"{agent.key}_same_ms",
            "nothing changed",
            "ms",
            took.same,
            "a commit of the log",
            peers=full,
        ),
    ]


async def _measure(stage: Stage, edits: int) -> dict[str, Took]:
    # The engine is made ready, and the image built, before anything is measured: by an agent of
    # another size, which leaves nothing that these are made upon.
    stage.tell("making the host ready")
    ready = replace(AGENTS[0].edited(0), memory_mib=256)
    await stage.service.agents.deploy(ready, lambda *_: None, qemu.NAME)
    return {agent.key: await _edit(stage, agent, edits) for agent in AGENTS}


async def _edit(stage: Stage, agent: Agent, edits: int) -> Took:
    full = await _deploy(stage, agent, 0)
    changed = [await _deploy(stage, agent, n) for n in range(1, edits + 1)]
    return Took(full, changed, await _deploy(stage, agent, edits))


async def _deploy(stage: Stage, agent: Agent, n: int) -> float:
    stage.tell(f"{agent.title}, edited {n} times")
    service = stage.service
    await service.machines.settled()  # what waits for runs is made in the background
    began = time.perf_counter()
    deployed = await service.agents.deploy(agent.edited(n), lambda *_: None, qemu.NAME)
    took_ms = (time.perf_counter() - began) * 1000
    row = await ended(stage, deployed["version"])
    if row.result != n:
        raise InternalError(f"{agent.title}, edited {n} times, gives {row.result or row.error}")
    return took_ms
