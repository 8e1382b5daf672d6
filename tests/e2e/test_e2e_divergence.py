"""An agent that does something else after a crash than its log says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Start
from tests.e2e.stage import Stage, Watch, end

from torpor.project.reading import read_agent

SOURCE = read_agent(Path(__file__).parent / "agents.py")


@pytest.fixture
def policy(stage: Stage) -> Iterator[Callable[[str], None]]:
    """Sets the agents' word for it; their template stays."""

    def deploy(word: str) -> None:
        source = replace(SOURCE, on_divergence=word)
        assert stage.client.deploy(source, lambda stage, message, fraction: None)["cached"]

    yield deploy
    deploy("stop")


def diverge(stage: Stage, start: Start, word: str) -> Watch:
    watch = start("fickle", name=word)
    stage.model.wait_asked(f"hold {word}")
    end(stage.machine(watch.run))
    stage.model.let(f"hold {word}")
    return watch


def ops(stage: Stage, run: str, kind: str) -> list[Any]:
    return [e["op"] for e in stage.client.entries(run) if e["kind"] == kind]


def test_it_stops_and_shows_both_sides(stage: Stage, start: Start) -> None:
    ended = diverge(stage, start, "stop").ended()
    assert (ended["state"], ended["error"]["type"]) == ("failed", "Divergence")
    _, recorded, now, _ = ended["error"]["message"].splitlines()
    assert "recorded: step:in machine 1#1 " in recorded and "at agents.py:" in recorded
    assert "now:      step in machine 2 " in now and "at agents.py:" in now


def test_it_goes_on_as_it_now_is(stage: Stage, start: Start, policy: Callable[[str], None]) -> None:
    policy("latest")
    watch = diverge(stage, start, "latest")
    ended = watch.ended()
    assert ended["state"] == "completed", watch
    assert ended["result"][::2] == [2, watch.run]
    (given_up,) = [e for e in watch.entries if e["kind"] == "log.superseded"]
    assert "step:in machine 1#1" in given_up["data"]["ops"]
    assert "step:in machine 2#1" in ops(stage, watch.run, "op.end")


def test_a_fork_goes_on_instead(stage: Stage, start: Start, policy: Callable[[str], None]) -> None:
    policy("fork")
    watch = diverge(stage, start, "fork")
    ended = watch.ended()
    assert (ended["state"], ended["error"]["type"]) == ("failed", "Divergence"), watch
    fork = Watch(stage.client, ended["successor"])
    went_on = fork.ended()
    assert went_on["state"] == "completed", fork
    assert went_on["result"][::2] == [2, fork.run]
    mine = ops(stage, fork.run, "op.begin")
    assert "step:in machine 1#1" not in mine and "step:double#1" in mine
