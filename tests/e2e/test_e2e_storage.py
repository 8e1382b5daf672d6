"""What snapshots take: verified, reclaimed, collected; and a run that moves to another torpor."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Start
from tests.e2e.stage import Model, Stage, Watch, base_home, own_home, wait_gone

from torpor.blobs.local import LocalBlobs
from torpor.control.storage.backup import restore
from torpor.core.errors import Conflict, Invalid
from torpor.core.home import Home
from torpor.snapshot.store import SnapshotStore


@pytest.fixture
def elsewhere(session_stage: Stage, model: Model) -> Iterator[Stage]:
    """Another torpor, with the same image."""
    with own_home(base_home()) as home:
        stage = Stage(home, model)
        stage.start()
        yield stage
        stage.stop()
        for pid in stage.processes():
            wait_gone(pid)


def test_a_suspended_run_goes_on_elsewhere(
    stage: Stage, start: Start, elsewhere: Stage, tmp_path: Path
) -> None:
    watch = start("keeper", mib=2)
    watch.until("run.started")
    with pytest.raises(Conflict, match="is running"):
        list(stage.client.export(watch.run, None))
    watch.until("run.suspended")
    file = tmp_path / "run.torpor"
    file.write_bytes(b"".join(stage.client.export(watch.run, None)))

    data = file.read_bytes()
    broken = data[: len(data) // 2] + b"?" + data[len(data) // 2 + 1 :]
    for bad in (data[: len(data) // 2], broken, b"x" * 5000):
        with pytest.raises(Exception, match=r"complete export|damaged") as refused:
            elsewhere.client.import_run([bad])
        assert type(refused.value).__name__ in ("Invalid", "Damaged")
    assert elsewhere.client.runs() == []
    assert not list((elsewhere.home.blobs / "tmp").iterdir())

    taken = elsewhere.client.import_run([data])
    assert (taken["id"], taken["state"]) == (watch.run, "suspended")
    entries = list(stage.client.entries(watch.run))
    assert list(elsewhere.client.entries(watch.run)) == entries
    assert elsewhere.client.verify(watch.run)["problems"] == []
    with pytest.raises(Conflict, match="is here already"):
        elsewhere.client.import_run([data])

    there = Watch(elsewhere.client, watch.run)
    elsewhere.client.complete(elsewhere.open_wait(watch.run)["id"], approved=True)
    ended = there.ended()
    assert (ended["state"], ended["result"]) == ("completed", 2 << 20), there
    assert there.count("run.recovered") == 0
    # It was a copy: here it sleeps as before.
    assert list(stage.client.entries(watch.run)) == entries
    # A run that has ended is its log.
    log = b"".join(elsewhere.client.export(watch.run, None))
    assert len(log) < len(data) / 4


def test_a_sleeping_run_goes_on_from_a_backup(
    stage: Stage, start: Start, model: Model, tmp_path: Path
) -> None:
    watch = start("twin")
    watch.until("run.suspended")
    kept = tmp_path / "kept"
    made = stage.client.backup(str(kept), key=True)
    assert made["problems"] == [] and made["key"]
    stage.client.cancel(watch.run)
    with tempfile.TemporaryDirectory(prefix="torpor-e2e-") as directory:
        told = restore(Home(Path(directory)), kept)
        assert told["runs"] == made["runs"] and told["key_there"]
        other = Stage(Home(Path(directory)), model)
        other.start()
        try:
            there = Watch(other.client, watch.run)
            other.client.complete(other.open_wait(watch.run)["id"], approved=True, note="kept")
            ended = there.ended()
            assert (ended["state"], ended["result"]["note"]) == ("completed", "kept"), there
            assert ended["result"]["doubled"] == 42
            assert there.count("machine.failed") == there.count("run.recovered") == 0
            assert other.client.verify(watch.run)["problems"] == []
        finally:
            other.stop()
            for pid in other.processes():
                wait_gone(pid)


def test_a_damaged_layer_is_named_with_the_runs_it_touches(stage: Stage, start: Start) -> None:
    watch, other = start("sleeper"), start("sleeper")
    for each in (watch, other):
        each.until("run.suspended")
    newest = stage.client.snapshots(watch.run)[0]
    found = stage.client.verify(watch.run)
    assert [s["template"] for s in found["snapshots"]] == [False, True]
    assert found["problems"] == []
    manifest = next(stage.home.blobs.glob(f"manifests/*/{newest['manifest']}"))
    good = manifest.read_bytes()
    manifest.write_bytes(good[:-1])
    (problem,) = stage.client.verify(watch.run)["problems"]
    assert newest["manifest"] in problem["problem"]
    assert problem["runs"] == [watch.run]
    collected = stage.client.gc(dry_run=True)
    assert any(newest["manifest"] in said for said in collected["problems"])
    manifest.write_bytes(good)

    store = SnapshotStore(LocalBlobs(stage.home.blobs), lambda image: Path(image))
    layers = [each for each in store.layers(newest["manifest"]) if each.kind != "raw"]
    largest = max(map(store.layer_path, layers), key=lambda path: path.stat().st_size)
    data = largest.read_bytes()
    largest.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    (problem,) = stage.client.verify(watch.run)["problems"]
    largest.write_bytes(data)
    assert f"layer {largest.name} is damaged" in problem["problem"], "the template's"
    assert {watch.run, other.run} <= set(problem["runs"])
    assert stage.client.verify(watch.run)["problems"] == []


def test_what_ended_runs_kept_is_reclaimed_but_for_what_is_pinned(
    stage: Stage, start: Start
) -> None:
    watch, sleeping = start("chatter", rounds=3, lines=1), start("sleeper")
    for turn in range(3):
        watch.until("run.suspended")
        stage.client.complete(stage.open_wait(watch.run)["id"], data=turn)
    watch.ended()
    sleeping.until("run.suspended")
    taken = stage.client.snapshots(watch.run)
    assert len(taken) == 3
    pinned = taken[1]["id"]
    assert stage.client.pin(watch.run, pinned, True)["pinned"]
    with pytest.raises(Exception, match="not a snapshot of"):
        stage.client.pin(sleeping.run, pinned, True)

    ids = {each["id"] for each in taken} - {pinned}
    wanted = stage.client.gc(dry_run=True)
    assert ids <= {each["id"] for each in wanted["reclaimed"]}
    assert all(each["reclaimed_at"] is None for each in stage.client.snapshots(watch.run))
    done = stage.client.gc(dry_run=False)
    assert ids <= {each["id"] for each in done["reclaimed"]}
    assert sleeping.run not in [each["run"] for each in done["reclaimed"]]
    left = {s["id"] for s in stage.client.snapshots(watch.run) if s["reclaimed_at"] is None}
    assert left == {pinned}
    assert stage.client.gc(dry_run=False)["reclaimed"] == []
    for each in (watch, sleeping):
        assert stage.client.verify(each.run)["problems"] == []
    gone = next(iter(ids))
    with pytest.raises(Conflict, match="has been removed"):
        stage.client.pin(watch.run, gone, True)
    with pytest.raises((Conflict, Invalid), match="has been removed"):
        list(stage.client.export(watch.run, gone))
    stage.client.complete(stage.open_wait(sleeping.run)["id"], approved=True)
    assert sleeping.ended()["result"] is True
