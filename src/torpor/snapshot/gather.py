"""Which pages to store again although a reference would do: dedup that knows what a restore costs.

A resume decompresses every frame that holds one of its hot pages. After many snapshots these lie
one here and one there in many small layers, and each lone page costs a frame of 64 KiB, and
perhaps an open file. So once more than SPARSE_FRAMES_MAX frames are needed for a few pages each,
those pages are stored once more, side by side. That costs their bytes, about once in
SPARSE_FRAMES_MAX snapshots, and keeps the cost of a restore independent of depth.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from torpor.snapshot.layer import FRAME_PAGES
from torpor.snapshot.manifest import Manifest, Refs, layer_numbers, positions

SPARSE_FRAMES_MAX = 24
# A frame with at most so many hot pages is not worth decompressing for them.
SPARSE_PAGES_MAX = 3


def scattered(parent: Manifest, hot: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """Numbers of the hot memory pages that the next snapshot should store again, ascending."""
    memory = parent.regions.get("memory")
    if memory is None:
        return np.empty(0, np.int64)
    pages: npt.NDArray[np.int64] = np.unique(hot).astype(np.int64)
    pages = pages[(pages < len(memory.refs))]
    pages = pages[memory.refs[pages] != 0]
    # Two columns: the frame of the page, and of its base.
    frames = np.stack([_frames(parent, memory.refs[pages]), _frames(parent, memory.bases[pages])])
    known, counts = np.unique(frames[frames != 0], return_counts=True)
    sparse = known[counts <= SPARSE_PAGES_MAX]
    if len(sparse) <= SPARSE_FRAMES_MAX:
        return np.empty(0, np.int64)
    return pages[np.isin(frames, sparse).any(axis=0)]


def _frames(parent: Manifest, refs: Refs) -> npt.NDArray[np.int64]:
    """A number for the compressed frame that each ref needs; 0 where it needs none."""
    numbers = layer_numbers(refs)
    compressed = np.array([False, *(layer.kind != "raw" for layer in parent.layers)])
    frame = (numbers << 32) | (positions(refs) // FRAME_PAGES)
    return np.where(compressed[numbers], frame, 0)
