"""A tool asks for permission on a real machine, which is frozen until a person has decided."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import Start
from tests.e2e.stage import Stage


def torpor(stage: Stage, *command: str) -> str:
    done = subprocess.run(
        [Path(sys.executable).with_name("torpor"), *command],
        env={**os.environ, "TORPOR_HOME": str(stage.home.root)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_a_frozen_tool_goes_on_as_a_person_decides(stage: Stage, start: Start) -> None:
    watch = start("clerk", orders=[1, 2, 3, 4])
    watch.until("run.suspended")
    assert stage.client.run(watch.run)["state"] == "suspended"
    assert '"order": 1' in torpor(stage, "waits", watch.run)
    torpor(stage, "approve", watch.run)
    watch.until("op.begin", lambda entry: entry["op"] == "permission:refund#2")
    watch.until("run.suspended")
    # It crosses a kill of the server, too, and the question stays.
    stage.kill()
    stage.start()
    assert '-  "order": 1' in torpor(stage, "waits", watch.run)
    torpor(stage, "deny", watch.run, "--note", "not twice")
    watch.until("op.begin", lambda entry: entry["op"] == "permission:refund#3")
    watch.until("run.suspended")
    torpor(stage, "approve", watch.run, "--for-run")
    ended = watch.ended()
    by = stage.client.waits(watch.run, all=True)[0]["by"]
    assert ended["result"] == [
        "order 1: 9.5 euros",
        f"{by}: not twice",
        "order 3: 9.5 euros",
        "order 4: 9.5 euros",
    ]
    assert watch.output() == "refunding 1\nrefunding 3\nrefunding 4\n"
    decided = [each["data"] for each in watch.entries if each["kind"] == "wait.completed"]
    assert [each.get("origin") for each in decided] == [*["the local socket"] * 3, None]
    assert decided[3]["remembered"] == decided[2]["wait"]
