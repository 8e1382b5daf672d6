"""The database's part of a backup: what a copy of a database (`Store.copy_to`) needs beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torpor.contextlog import agents, runs, snapshots
from torpor.core.states import FINAL, RunState
from torpor.logstore.sqlite import make_engine


@dataclass(frozen=True)
class Contents:
    """What a database names."""

    manifests: frozenset[str]  # of all snapshots that were not reclaimed
    specs: tuple[Mapping[str, Any], ...]  # of the agents that these are of
    runs: int
    unfinished: int


def contents(copy: Path) -> Contents:
    """Of a copy, which is only read. Blocks."""
    engine = make_engine(copy, connections=1, begin="BEGIN", read_only=True, wal=False)
    try:
        with engine.begin() as c:
            live = snapshots.live_snapshots(c)
            used = {row.version for row in live}
            specs = [agent.spec for agent in agents.list_agents(c) if agent.version in used]
            states = [row.state for row in runs.runs_in(c, list(RunState))]
    finally:
        engine.dispose()
    return Contents(
        manifests=frozenset(row.manifest for row in live),
        specs=tuple(specs),
        runs=len(states),
        unfinished=sum(state not in FINAL for state in states),
    )
