"""Freezes at bad moments: in the midst of talk, as the answer comes, with no room to store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.e2e.conftest import Start
from tests.e2e.stage import Stage, Watch, little_room

ROUNDS = 6
LINES = 4_000


def test_what_is_said_while_freezing_arrives_once(stage: Stage, start: Start) -> None:
    """Each round prints 200 kB at once before the wait, and the answer comes into the freeze."""
    watch = start("chatter", rounds=ROUNDS, lines=LINES)
    for turn in range(ROUNDS):
        watch.until("op.begin")
        _until_freezing(stage, watch)
        stage.client.complete(stage.open_wait(watch.run)["id"], data=turn)
    ended = watch.ended()
    assert (ended["state"], ended["result"]) == ("completed", list(range(ROUNDS))), watch
    wanted = "".join(f"line {number} {'x' * 40}\n" for number in range(ROUNDS * LINES))
    printed = watch.output()
    assert len(printed) == len(wanted)
    assert printed == wanted
    assert watch.count("run.recovered") == watch.count("freeze.failed") == 0


def _until_freezing(stage: Stage, watch: Watch) -> None:
    while True:
        run = stage.client.run(watch.run)
        if run["state"] == "suspended" or (run["machine"] or {}).get("state") == "freezing":
            return


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can be mounted by root only")
def test_a_full_disk_keeps_the_run_awake_and_unharmed(stage: Stage, start: Start) -> None:
    with little_room(stage.home.blobs, free_bytes=1 << 20) as ballast:
        watch = start("keeper", mib=8)
        failed = watch.until("freeze.failed")
        assert "No space left" in failed["data"]["reason"]
        awake = stage.client.run(watch.run)
        assert awake["state"] == "running"
        assert awake["machine"]["pid"] is not None
        assert not list((stage.home.blobs / "tmp").iterdir())
        ballast.unlink()
        watch.until("run.suspended")
        stage.client.complete(stage.open_wait(watch.run)["id"], approved=True)
        ended = watch.ended()
        assert (ended["state"], ended["result"]) == ("completed", 8 << 20), watch
        assert watch.count("run.recovered") == 0
    assert _stored(stage, watch)


def _stored(stage: Stage, watch: Watch) -> bool:
    """The run's newest snapshot is where it belongs."""
    manifest = stage.client.snapshots(watch.run)[0]["manifest"]
    found: list[Path] = list(stage.home.blobs.glob(f"manifests/*/{manifest}"))
    return len(found) == 1
