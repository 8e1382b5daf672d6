"""An agent that was edited: its template is made upon what the last one was made upon."""

from __future__ import annotations

import pytest
from tests.e2e.stage import Stage, Watch

from torpor.core.agentfile import AgentSource

# Imports that take long; then effects, in an order that the result tells.
EFFECTS = """
import lib2to3.refactor
import pydoc
import sqlite3
import unittest.mock
import xmlrpc.server
from pathlib import Path

import torpor

Path("seen").write_text("first")

import os

os.environ["LATE"] = Path("seen").read_text() + Path("given.txt").read_text()

import {last}

seen = [os.environ["LATE"], sorted(os.listdir(".")), Path("given.txt").read_text()]

@torpor.agent
def main(): return [{number}, *seen, os.environ["LATE"], __name__, __file__.rpartition("/")[2]]
"""


def deploy(stage: Stage, text: str, given: str = "data") -> tuple[dict[str, object], set[str]]:
    """As deployed, and what was told of that."""
    files = {"agent.py": text.encode(), "given.txt": given.encode()}
    source = AgentSource("agent.py", files, memory_mib=256, disk_mib=128)  # of a size with others'
    told: set[str] = set()
    deployed = stage.client.deploy(source, lambda name, message, fraction: told.add(message))
    return deployed, told


def result(stage: Stage, deployed: dict[str, object]) -> object:
    run = stage.client.start(str(deployed["version"]), "main", {}, None)
    ended = Watch(stage.client, run["id"]).ended()
    assert ended["error"] is None, ended["error"]
    return ended["result"]


@pytest.mark.parametrize("last", ["colorsys", "this"])  # the other prints
def test_a_changed_agent_is_deployed_without_a_boot_and_does_what_it_says(
    stage: Stage, last: str
) -> None:
    """Thrice with other text: each time it begins where the one before had imported. What has
    effects is done each time, in its order, as if nothing had been imported before."""
    deploy(stage, EFFECTS.replace("{last}", last).replace("{number}", "-1"))  # may boot, and import
    for number, given in enumerate(("data", "data", "other")):
        text = EFFECTS.replace("{last}", last).replace("{number}", str(number))
        deployed, told = deploy(stage, text, given)
        assert "booting a machine" not in told, told
        assert deployed["boot_ms"] is None
        late, files = f"first{given}", ["agent.py", "given.txt", "seen"]
        expected = [number, late, files, given, late, "agent", "agent.py"]
        assert result(stage, deployed) == expected
    again, told = deploy(stage, text, given)
    assert (again["version"], again["cached"], told) == (deployed["version"], True, set())


def test_what_does_not_import_fails_as_ever(stage: Stage) -> None:
    with pytest.raises(Exception, match=r"agent\.py does not load: ModuleNotFoundError") as failed:
        deploy(stage, "import sqlite3\nimport nowhere\nimport torpor\n@torpor.agent\ndef f(): ...")
    assert "line 2, in <module>" in str(failed.value), failed.value


def test_what_templates_share_is_counted_and_stays(stage: Stage) -> None:
    text = EFFECTS.replace("{last}", "colorsys").replace("{number}", "7")
    deployed, _ = deploy(stage, text)
    collected = stage.client.gc(dry_run=False)
    assert collected["problems"] == []
    assert collected["kept_bases"] >= 1
    assert result(stage, deployed) is not None
    run = stage.client.start(str(deployed["version"]), "main", {}, None)
    Watch(stage.client, run["id"]).ended()
    assert stage.client.verify(run["id"])["problems"] == []
