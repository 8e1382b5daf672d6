"""A snapshot with other hot pages: once it is known what a restore of it touches."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from torpor.snapshot.build import build
from torpor.snapshot.reader import FrameCache
from torpor.snapshot.store import SnapshotStore, Stored

_FRAMES_BYTES = 4 << 20


def with_hot(
    store: SnapshotStore, manifest: str, hot: npt.NDArray[np.integer[Any]]
) -> Stored | None:
    """Store the snapshot, which is in the clear, with `hot` instead; None if that is what it has.
    Pages are only stored again where many would lie scattered. Blocks. Raises NotFound, Damaged,
    Exhausted."""
    parent = store.load(manifest)
    if np.array_equal(parent.hot, hot):
        return None
    reader = store.reader(parent, FrameCache(_FRAMES_BYTES))
    with store.draft() as draft:
        return store.put(build(parent, reader, {}, hot=hot, facts=parent.facts, out=draft))
