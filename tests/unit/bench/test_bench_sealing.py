"""The measurement of sealing leaves nothing, and measures both ways."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from torpor.bench import sealing
from torpor.blobs.local import LocalBlobs
from torpor.snapshot.build import Changed, build
from torpor.snapshot.layer import PAGE
from torpor.snapshot.store import SnapshotStore


def test_both_ways_are_measured(tmp_path: Path) -> None:
    store = SnapshotStore(LocalBlobs(tmp_path / "blobs"), lambda digest: tmp_path / digest)
    pages = np.zeros((50, PAGE), np.uint8)
    pages[10:] = np.arange(40)[:, np.newaxis] + 1
    changed = {"memory": Changed.at_hand(pages.nbytes, np.arange(50), pages)}
    stored = store.put(build(None, None, changed, hot=np.array([], np.int64), facts={}))
    memory = sealing.memory_of(store, stored.manifest_digest)
    assert (memory == pages[10:]).all()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    cost = sealing.measure(memory, scratch)
    assert cost.bytes == 40 * PAGE
    assert list(scratch.iterdir()) == []
    spreads = [value for name, value in asdict(cost).items() if name != "bytes"]
    assert all(0 < each["p50"] <= each["p90"] <= each["max"] for each in spreads)
