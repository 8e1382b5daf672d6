"""The threads that compress and decompress.

zstd, pread and large copies release the interpreter's lock, so plain threads use all
processors. One pool serves the process: tasks are leaves (they never submit or wait), so
sharing it cannot deadlock.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")

_pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="pages")


def map_batches(
    work: Callable[[Sequence[_T]], _R], items: Sequence[_T], *, batch: int
) -> Iterator[_R]:
    """`work` of each run of `batch` items, in order, as they get ready.

    A single batch runs in the caller's thread: the hand-over would cost small requests more.
    """
    batches = [items[start : start + batch] for start in range(0, len(items), batch)]
    return map(work, batches) if len(batches) <= 1 else _pool.map(work, batches)
