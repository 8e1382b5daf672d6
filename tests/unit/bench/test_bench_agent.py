"""The measured agents' files are in the package and can be deployed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from torpor.bench import sleep, snapshots
from torpor.project.reading import read_agent


@pytest.mark.parametrize("agent", [sleep.AGENT, snapshots.AGENT], ids=lambda path: path.name)
def test_the_agent_is_shipped_and_readable(agent: Path) -> None:
    source = read_agent(agent)
    assert source.entry == agent.name
    assert source.dependencies == ()  # nothing to fetch before a measurement
    assert replace(source, memory_mib=256).version("image") != source.version("image")
