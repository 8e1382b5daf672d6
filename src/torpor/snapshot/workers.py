"""The threads that compress and decompress.

zstd, pread and large copies release the interpreter's lock, so plain threads use all
processors. One pool serves the process: tasks are leaves (they never submit or wait), so
sharing it cannot deadlock.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")
_P = ParamSpec("_P")

THREADS = min(8, os.cpu_count() or 1)
_pool = ThreadPoolExecutor(THREADS, thread_name_prefix="pages")


def submit(work: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> Future[_R]:
    """Have `work` done, which is a leaf."""
    return _pool.submit(work, *args, **kwargs)


def map_batches(
    work: Callable[[Sequence[_T]], _R], items: Sequence[_T], *, batch: int
) -> Iterator[_R]:
    """`work` of each run of `batch` items, in order, as they get ready.

    A single batch runs in the caller's thread: the hand-over would cost small requests more.
    """
    batches = [items[start : start + batch] for start in range(0, len(items), batch)]
    return map(work, batches) if len(batches) <= 1 else _pool.map(work, batches)
