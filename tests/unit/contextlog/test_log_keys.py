"""Keys of runs: recorded once, gone from the file when nothing is left that they open."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from torpor.contextlog.keys import any_key, destroy_key, destroy_unused_keys, find_key, put_key
from torpor.contextlog.runs import transition
from torpor.contextlog.snapshots import NewSnapshot, reclaim, record_snapshot
from torpor.core.ids import RunId
from torpor.core.states import RunState
from torpor.logstore.sqlite import SqliteStore

FIGURES: dict[str, Any] = {"manifest": "m", "bytes": 1, "pause_ms": 1.0, "freeze_ms": 1.0}


def test_the_first_key_of_a_run_stays(commit: Any) -> None:
    run, other = commit.queued(), commit.queued()
    assert commit(lambda c: find_key(c, run)) is None
    assert commit(any_key) is None
    commit(lambda c: put_key(c, run, b"first"))
    commit(lambda c: put_key(c, run, b"second"))
    assert commit(lambda c: find_key(c, run)) == b"first"
    assert commit(lambda c: find_key(c, other)) is None
    assert commit(any_key) == (run, b"first")


@pytest.mark.parametrize(
    ("ended", "reclaimed", "destroyed"),
    [(False, False, False), (False, True, False), (True, False, False), (True, True, True)],
)
def test_a_key_goes_when_its_run_has_ended_and_nothing_is_left(
    commit: Any, ended: bool, reclaimed: bool, destroyed: bool
) -> None:
    run, epoch = commit.claimed()
    of: dict[str, Any] = {"run": run, "epoch": epoch, "seq": 2, "created_at": 12.0}
    taken = [
        commit(
            lambda c: record_snapshot(c, NewSnapshot(version=commit.version, **of, **FIGURES))
        ).id
        for _ in range(2)
    ]
    commit(lambda c: put_key(c, run, b"wrapped"))
    if ended:
        commit(lambda c: transition(c, run, epoch, RunState.COMPLETED, 13.0))
    commit(lambda c: reclaim(c, taken[:1], 14.0))
    assert commit(destroy_unused_keys) == []
    if reclaimed:
        commit(lambda c: reclaim(c, taken[1:], 15.0))
    assert commit(destroy_unused_keys) == ([run] if destroyed else [])
    assert commit(lambda c: find_key(c, run)) == (None if destroyed else b"wrapped")


def test_a_destroyed_key_is_in_no_file(tmp_path: Path, commit: Any) -> None:
    wrapped = b"what the host's key made of a run's, in seventy-six bytes or so"
    run: RunId = commit.queued()
    commit(lambda c: put_key(c, run, wrapped))
    store: SqliteStore = commit._store
    files = list(store.path.parent.glob(store.path.name + "*"))
    assert any(wrapped in path.read_bytes() for path in files)
    commit(lambda c: destroy_key(c, run))
    asyncio.run(store.scrub())
    assert not [path for path in files if wrapped in path.read_bytes()]
