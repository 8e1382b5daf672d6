"""Compiled packages on a real machine; `scripts/wheels.py` checks all of scripts/wheels.txt."""

from __future__ import annotations

from tests.e2e.conftest import HERE
from tests.e2e.stage import Stage, Watch

from torpor.project.reading import read_agent

LIST = HERE.parents[1] / "scripts" / "wheels.txt"


def test_a_dozen_compiled_packages_work_in_a_machine(stage: Stage) -> None:
    source = read_agent(HERE / "compiled.py")
    listed = [line.split()[0] for line in LIST.read_text().splitlines() if line.strip()]
    assert set(source.dependencies) <= set(listed)
    told: list[str] = []
    deployed = stage.client.deploy(source, lambda stage, message, fraction: told.append(message))
    # Under emulation pandas takes its seconds, and who waits sees that it does.
    assert any(message.startswith("importing compiled.py") for message in told), told
    run = stage.client.start(deployed["version"], "go", {}, None)
    ended = Watch(stage.client, run["id"]).ended()
    assert ended["error"] is None, ended["error"]
    assert ended["result"] == {
        "sum": 10,
        "text": "b",
        "json": [1],
        "psycopg": "binary",
        "git": "true",
        "curl": "curl",
        "program": "2",
    }
