"""Page numbers as ranges: `[start, count]` pairs, ascending."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]


def of_mask(mask: Mask) -> list[list[int]]:
    """The ranges of true elements, as lists because they travel as JSON."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return np.stack((edges[::2], edges[1::2] - edges[::2]), axis=1).tolist()  # type: ignore[no-any-return]


def bridged(numbers: Numbers, *, gap: int) -> Numbers:
    """`numbers` (ascending) and the pages between two of them that are at most `gap` apart."""
    if not numbers.size:
        return numbers
    cuts = np.flatnonzero(np.diff(numbers) > gap + 1)
    starts = numbers[np.concatenate(([0], cuts + 1))]
    ends = numbers[np.concatenate((cuts, [numbers.size - 1]))] + 1
    return np.concatenate([np.arange(a, b) for a, b in zip(starts, ends, strict=True)])


def chunks(numbers: Numbers, *, limit: int) -> Iterator[tuple[int, int, int]]:
    """Consecutive pages of `numbers` (ascending), at most `limit` together, as
    (index of the first in `numbers`, its page number, count)."""
    cuts = np.flatnonzero(np.diff(numbers) > 1) + 1
    bounds = [0, *cuts.tolist(), numbers.size]
    for low, high in pairwise(bounds):
        for index in range(low, high, limit):
            yield index, int(numbers[index]), min(limit, high - index)
