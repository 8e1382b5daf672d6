"""Which stored pages to store again although a reference would do, so that what a snapshot needs
does not grow with its ancestors.

Two things would. *Frames*: a resume decompresses every frame that holds one of its hot pages, and
after many snapshots these lie one here and one there in many small layers. *Layers*: one that a
few pages still need is a file to open, a line in every manifest, and none of its bytes can be
collected. So once there are more than SPARSE_FRAMES_MAX frames with a few hot pages each, or more
than LAYERS_MAX layers, pages are moved: the next snapshot stores them side by side in its own
layer. It costs their bytes, once in many snapshots.

A page moves as it is stored, be it plain or an XOR, and all that refer to it refer to its new
place: nothing is compared anew, and a page that is its base stays where it is unless it has to
move itself. The template's layers stay, the first and as many more as the facts say: all runs of an
agent share them and warm machines have them at hand, and no snapshot makes their part in a restore
larger.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from torpor.snapshot.layer import FRAME_PAGES
from torpor.snapshot.manifest import Manifest
from torpor.snapshot.refs import Refs, layer_numbers, positions

TEMPLATE_LAYERS = "template_layers"  # among a manifest's facts
SPARSE_FRAMES_MAX = 24
# A frame with at most so many hot pages is not worth decompressing for them.
SPARSE_PAGES_MAX = 3
LAYERS_MAX = 48
# What is left of them when there were more: moving a few layers at a time costs less, as their
# pages have had time to be written anew.
LAYERS_LEFT = 32
# The most pages that one snapshot moves for the sake of fewer layers.
MOVED_PAGES_MAX = 2048


def to_move(parent: Manifest, hot: npt.NDArray[np.integer[Any]]) -> Refs:
    """Refs of the stored pages that the next snapshot should store again, ascending."""
    return np.union1d(_scattered(parent, hot), _stragglers(parent))


def _scattered(parent: Manifest, hot: npt.NDArray[np.integer[Any]]) -> Refs:
    memory = parent.memory
    if memory is None:
        return np.empty(0, np.uint64)
    pages: npt.NDArray[np.int64] = np.unique(hot).astype(np.int64)
    pages = pages[pages < len(memory.refs)]
    needed = _movable(parent, memory.refs[pages], memory.bases[pages])
    frames = (layer_numbers(needed) << 32) | (positions(needed) // FRAME_PAGES)
    known, counts = np.unique(frames, return_counts=True)
    sparse = known[counts <= SPARSE_PAGES_MAX]
    if len(sparse) <= SPARSE_FRAMES_MAX:
        return np.empty(0, np.uint64)
    return needed[np.isin(frames, sparse)]


def _stragglers(parent: Manifest) -> Refs:
    """The pages of the layers that are needed for the fewest, if there are too many layers."""
    if sum(layer.kind != "raw" for layer in parent.layers) <= LAYERS_MAX:
        return np.empty(0, np.uint64)
    columns = [(region.refs, region.bases) for region in parent.regions.values()]
    needed = _movable(parent, *(refs for pair in columns for refs in pair))
    numbers = layer_numbers(needed)
    known, counts = np.unique(numbers, return_counts=True)
    fewest = counts.argsort(kind="stable")[: max(0, len(known) - LAYERS_LEFT)]
    fewest = fewest[counts[fewest].cumsum() <= MOVED_PAGES_MAX]
    return needed[np.isin(numbers, known[fewest])]


def _movable(parent: Manifest, *columns: Refs) -> Refs:
    """The stored pages that these name, each once, ascending; none of images or the template."""
    compressed = [
        number for number, layer in enumerate(parent.layers, start=1) if layer.kind != "raw"
    ]
    movable = np.zeros(len(parent.layers) + 1, bool)
    movable[compressed[parent.facts.get(TEMPLATE_LAYERS, 1) :]] = True
    found = [column[movable[layer_numbers(column)]] for column in columns]
    return np.unique(np.concatenate(found))
