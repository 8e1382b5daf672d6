"""Refs: where a stored page is, in one number.

0 for a page of zeros, else `((layer index + 1) << 32) | position`, naming a page of one of a
manifest's layers. Arrays of them are what a manifest is in memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Refs = npt.NDArray[np.uint64]

POSITIONS = 1 << 32
_POSITION = np.uint64(0xFFFFFFFF)
_LAYER_SHIFT = np.uint64(32)


def make_refs(layer: int, positions: npt.NDArray[np.integer[Any]]) -> Refs:
    """Refs of pages at `positions` in the layer with index `layer`."""
    return (np.uint64(layer + 1) << _LAYER_SHIFT) | positions.astype(np.uint64)


def layer_numbers(refs: Refs) -> npt.NDArray[np.int64]:
    """Each ref's layer index + 1; 0 for a page of zeros."""
    return (refs >> _LAYER_SHIFT).astype(np.int64)


def positions(refs: Refs) -> npt.NDArray[np.int64]:
    """Each ref's page number within its layer."""
    return (refs & _POSITION).astype(np.int64)


def renumber(refs: Refs, numbers: npt.NDArray[np.int64]) -> Refs:
    """Refs with layer number n replaced by `numbers[n]`."""
    new = numbers[layer_numbers(refs)].astype(np.uint64)
    return (new << _LAYER_SHIFT) | (refs & _POSITION)
