"""A host whose QEMU is upgraded under a run that sleeps.

There is one QEMU here. The other version is the same program behind a script that answers
`--version` otherwise: all of the way from the refused snapshot to a new template and a replay is
real, but what two versions of QEMU really make of each other's snapshots is not seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Start
from tests.e2e.stage import Stage
from tests.e2e.test_e2e_crashes import WHOLE

from torpor.engine.qemu.probe import BINARY, find_qemu

OTHER = "99.0.1"


@pytest.fixture
def upgraded(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of programs whose QEMU is of another version. The next server has the one that
    there is again."""
    binary, _ = find_qemu()
    script = tmp_path / BINARY
    answer = f'if [ "$1" = --version ]; then echo "QEMU emulator version {OTHER}"; exit; fi'
    script.write_text(f'#!/bin/sh\n{answer}\nexec {binary} "$@"\n')
    script.chmod(0o755)
    yield tmp_path
    monkeypatch.undo()
    stage.stop()
    stage.start()


def test_a_run_that_slept_through_an_upgrade_of_qemu_is_replayed(
    stage: Stage, start: Start, upgraded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, version = find_qemu()
    for number in (1, 2):
        stage.model.let(f"hold upgraded {number}")
    watch = start("crash", name="upgraded")
    watch.until("run.suspended")
    (frozen,) = stage.client.snapshots(watch.run)
    stage.stop()
    monkeypatch.setenv("PATH", f"{upgraded}{os.pathsep}{os.environ['PATH']}")
    stage.start()
    stage.client.complete(stage.open_wait(watch.run)["id"], approved=True)
    unfit = watch.until("snapshot.unfit")["data"]
    assert unfit == {
        "snapshots": [frozen["id"]],
        "reason": f"it was taken with qemu {version}; this host has qemu {OTHER}",
        "seq": 0,
    }
    ended = watch.ended()
    assert ended["state"] == "completed", watch
    assert ended["result"]["held"] == [f"answer 1 to hold upgraded {n}" for n in (1, 2)]
    # Nothing is done, asked or printed twice.
    assert watch.output() == WHOLE.format("upgraded")
    assert {stage.model.requests[f"hold upgraded {number}"] for number in (1, 2)} == {1}
    assert watch.count("machine.failed") == watch.count("run.recovered") == 0
