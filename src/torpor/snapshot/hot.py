"""A snapshot with other hot pages: once it is known what a restore of it touches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from torpor.snapshot.build import build
from torpor.snapshot.gather import TEMPLATE_LAYERS
from torpor.snapshot.reader import FrameCache
from torpor.snapshot.store import SnapshotStore, Stored

_FRAMES_BYTES = 4 << 20


def as_template(store: SnapshotStore, manifest: str, hot: npt.NDArray[np.integer[Any]]) -> Stored:
    """Store the snapshot, which is in the clear, with `hot` instead, and noting that its layers are
    a template's. Pages are only stored again where many would lie scattered. Blocks. Raises
    NotFound, Damaged, Exhausted."""
    parent = store.load(manifest)
    reader = store.reader(parent, FrameCache(_FRAMES_BYTES))
    with store.draft() as draft:
        built = build(parent, reader, {}, hot=hot, facts=parent.facts, out=draft)
        layers = sum(layer.kind != "raw" for layer in built.manifest.layers)
        facts = {**built.manifest.facts, TEMPLATE_LAYERS: layers}
        return store.put(replace(built, manifest=replace(built.manifest, facts=facts)))
