"""The measured agent's file is in the package and can be deployed."""

from __future__ import annotations

from dataclasses import replace

from torpor.bench.sleep import AGENT
from torpor.model.agentfile import read_agent


def test_the_agent_is_shipped_and_readable() -> None:
    source = read_agent(AGENT)
    assert source.entry == "asleep.py"
    assert source.dependencies == ()  # nothing to fetch before a measurement
    assert replace(source, memory_mib=256).version("image") != source.version("image")
