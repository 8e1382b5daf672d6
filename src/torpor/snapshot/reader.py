"""Pages of a snapshot, by region and number.

`PageReader` follows a manifest's refs to frames of layers, decompresses each frame that a
request needs once, on several threads when there are many, and copies the pages out. Frames
stay in a `FrameCache`, shared by all readers of a process: clones of a snapshot, and a snapshot
and its ancestors, have most layers in common.

The cache knows a layer by its digest, a sealed one by a name that only who has the key can tell:
a reader without it, or with another, meets neither its frames nor the open file.
"""

from __future__ import annotations

import copy
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from torpor.core.errors import Damaged
from torpor.snapshot.layer import FRAME_PAGES, PAGE, LayerReader, Pages, RawReader, SealedReader
from torpor.snapshot.manifest import LayerRef, Manifest
from torpor.snapshot.refs import Refs
from torpor.snapshot.seal import Key
from torpor.snapshot.workers import map_batches

_Layer = LayerReader | SealedReader | RawReader
_FRAMES_PER_TASK = 8
# Reads up to so many pages, as a pager serves by the thousand, are put together in plain Python:
# numpy's calls take longer than the copying there.
_SMALL_PAGES = 64
_ZEROS = bytes(256 * PAGE)  # as much as FUSE asks for at once
# The low bits of a ref count pages in a frame, the middle ones frames in a layer, the high ones
# layers.
_LAYER_FRAMES = (1 << 32) // FRAME_PAGES


@dataclass
class Tally:
    """How often a reader found a frame in the cache, and how often it had to decompress one."""

    hits: int = 0
    misses: int = 0


class FrameCache:
    """The frames used last, decompressed, up to `max_bytes` of them, and the layers that readers
    have open, so that a thousand clones of a snapshot open its files once. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.hits = 0
        self.misses = 0
        self._bytes = 0
        self._frames: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._layers: WeakValueDictionary[str, _Layer] = WeakValueDictionary()
        self._lock = threading.Lock()

    def get(self, layer: str, frame: int, tally: Tally) -> bytes | None:
        with self._lock:
            data = self._frames.get((layer, frame))
            if data is None:
                self.misses += 1
                tally.misses += 1
                return None
            self.hits += 1
            tally.hits += 1
            self._frames.move_to_end((layer, frame))
            return data

    def put(self, layer: str, frame: int, data: bytes) -> None:
        with self._lock:
            self._bytes += len(data) - len(self._frames.pop((layer, frame), b""))
            self._frames[layer, frame] = data
            while self._bytes > self.max_bytes:
                self._bytes -= len(self._frames.popitem(last=False)[1])

    def layer(self, name: str, open_: Callable[[], _Layer]) -> _Layer:
        """The layer, opened if no reader that shares this cache has it open."""
        with self._lock:
            layer = self._layers.get(name)
            if layer is None:
                layer = self._layers[name] = open_()
            return layer

    def clear(self) -> None:
        """Forget all frames; the counters stay."""
        with self._lock:
            self._frames.clear()
            self._bytes = 0


class PageReader:
    """Reads the pages of one snapshot. Thread-safe. `resolve` says where a layer's file is, `key`
    opens the sealed ones. `names` are those by which the cache knows the manifest's layers.

    Every method raises Damaged, naming the layer, when a file is not what was written.
    """

    def __init__(
        self,
        manifest: Manifest,
        resolve: Callable[[LayerRef], Path],
        *,
        cache: FrameCache,
        key: Key | None = None,
    ) -> None:
        self.manifest = manifest
        self.names = tuple(
            key.alias(ref.digest) if key and ref.kind == "sealed" else ref.digest
            for ref in manifest.layers
        )
        self.tally = Tally()
        self._resolve = resolve
        self._cache = cache
        self._key = key
        self._layers: dict[int, _Layer] = {}

    def counted_apart(self) -> PageReader:
        """The same reader with a tally of its own."""
        twin = copy.copy(self)
        twin.tally = Tally()
        return twin

    def read(self, region: str, offset: int, length: int) -> bytes:
        """Bytes of a region; fewer than `length` at its end, as pread(2) does."""
        end = min(offset + length, self.manifest.regions[region].length)
        if end <= offset:
            return b""
        first, stop = offset // PAGE, -(-end // PAGE)
        skip = offset - first * PAGE
        if end - offset <= len(_ZEROS) and not self.manifest.regions[region].refs[first:stop].any():
            return _ZEROS[: end - offset]
        if stop - first > _SMALL_PAGES:
            pages = self.pages(region, np.arange(first, stop))
            return pages.reshape(-1)[skip : skip + end - offset].tobytes()
        data = self._small(region, first, stop)
        return data if len(data) == end - offset else data[skip : skip + end - offset]

    def frames(self, region: str, offset: int, length: int) -> list[tuple[str, int]]:
        """What a small read needs, as the cache knows it: layers' names and frames in them. None
        for zeros."""
        whole = self.manifest.regions[region]
        pages = slice(offset // PAGE, -(-(offset + length) // PAGE))
        refs, bases = whole.refs[pages], whole.bases[pages]
        if not refs.any():
            return []
        needed = {ref // FRAME_PAGES for ref in refs.tolist()}
        if bases.any():
            needed |= {base // FRAME_PAGES for base in bases.tolist()}
        needed.discard(0)
        return [(self.names[f // _LAYER_FRAMES - 1], f % _LAYER_FRAMES) for f in needed]

    def _small(self, region: str, first: int, stop: int) -> bytes:
        whole = self.manifest.regions[region]
        data = self._joined(whole.refs[first:stop].tolist())
        bases = whole.bases[first:stop]
        if not bases.any():
            return data
        xor = np.frombuffer(data, np.uint64)
        return (xor ^ np.frombuffer(self._joined(bases.tolist()), np.uint64)).tobytes()

    def _joined(self, refs: list[int]) -> bytes:
        """The pages stored at `refs`, a slice of a frame for each run of them."""
        pieces = []
        start, count = refs[0], 1
        for ref in refs[1:]:
            if (ref == start + count and ref % FRAME_PAGES) or not (ref or start):
                count += 1
            else:
                pieces.append(self._piece(start, count))
                start, count = ref, 1
        pieces.append(self._piece(start, count))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _piece(self, ref: int, count: int) -> bytes:
        if not ref:
            return _ZEROS[: count * PAGE]
        frame, page = divmod(ref, FRAME_PAGES)
        data = self._frame(frame)
        return data[page * PAGE : (page + count) * PAGE]

    def pages(self, region: str, page_numbers: npt.NDArray[np.integer[Any]]) -> Pages:
        """The pages with these numbers, in this order, as a new (n, PAGE) array."""
        whole = self.manifest.regions[region]
        pages = self.at(whole.refs[page_numbers])
        bases = whole.bases[page_numbers]
        (differs,) = bases.nonzero()
        if len(differs):
            pages[differs] ^= self.at(bases[differs])
        return pages

    def at(self, refs: Refs) -> Pages:
        """The pages stored at `refs`, as they are stored: no base is applied."""
        pages = np.empty((len(refs), PAGE), np.uint8)
        # Sorted, refs to one frame are neighbours; those of zero pages form a group of their own.
        order = refs.argsort(kind="stable")
        frames, slots = np.divmod(refs[order], np.uint64(FRAME_PAGES))
        (changes,) = (frames[1:] != frames[:-1]).nonzero()
        edges = [0, *(changes + 1).tolist(), len(refs)]
        groups = [
            (int(frames[start]), start, stop)
            for start, stop in itertools.pairwise(edges)
            if start < stop
        ]

        def fill(some: Sequence[tuple[int, int, int]]) -> None:
            for frame, start, stop in some:
                to = order[start:stop]
                if frame == 0:
                    pages[to] = 0
                else:
                    stored = np.frombuffer(self._frame(frame), np.uint8).reshape(-1, PAGE)
                    pages[to] = stored[slots[start:stop]]

        for _ in map_batches(fill, groups, batch=_FRAMES_PER_TASK):
            pass
        return pages

    def _frame(self, frame: int) -> bytes:
        """The frame that refs // FRAME_PAGES name by `frame`."""
        number, index = divmod(frame, _LAYER_FRAMES)
        name = self.names[number - 1]
        data = self._cache.get(name, index, self.tally)
        if data is None:
            data = self._layer(number - 1).frame(index)
            self._cache.put(name, index, data)
        return data

    def _layer(self, index: int) -> _Layer:
        layer = self._layers.get(index)
        if layer is None:
            ref = self.manifest.layers[index]
            layer = self._cache.layer(self.names[index], lambda: self._open(ref))
            if layer.pages != ref.pages:
                raise Damaged(
                    f"layer {ref.digest} is damaged: it has {layer.pages} pages, not {ref.pages}",
                    hint="Snapshots that need it cannot be restored; restore the file from a copy.",
                )
            self._layers[index] = layer
        return layer

    def _open(self, ref: LayerRef) -> _Layer:
        path = self._resolve(ref)
        match ref.kind:
            case "zstd":
                return LayerReader(path)
            case "raw":
                return RawReader(path)
            case "sealed":
                return SealedReader(path, self._key)
