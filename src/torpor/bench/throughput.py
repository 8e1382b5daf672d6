"""How many bytes a second become a snapshot, and come back out of one, beside the plainest programs
for it on the same bytes. In turns, so that whatever else the host does meets both."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torpor.bench.peer import ZSTD
from torpor.bench.stats import percentile
from torpor.blobs.local import LocalBlobs
from torpor.machines.host import READAHEAD_KB, Machines
from torpor.machines.pool import new_name
from torpor.snapshot.build import Changed, build
from torpor.snapshot.layer import Pages
from torpor.snapshot.seal import Key
from torpor.snapshot.store import SnapshotStore

TURNS = 3
_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Rates:
    """p50 in MB/s."""

    ours: float
    peer: float


def capture(pages: Pages, directory: Path, key: Key | None) -> Rates:
    """Compared, compressed, sealed if there is a key, and durable; the peer is zstd from a file in
    the page cache to one that is not synced. Blocks; leaves nothing in `directory`."""
    source, packed, blobs = (directory / name for name in ("pages", "pages.zst", "capture"))
    source.write_bytes(pages.data)
    store = SnapshotStore(LocalBlobs(blobs), lambda image: directory / image)
    changed = {"memory": Changed.at_hand(pages.nbytes, np.arange(len(pages)), pages)}

    def ours() -> None:
        built = build(None, None, changed, hot=np.empty(0, np.int64), facts={}, level=1, key=key)
        store.put(built, key)

    def peer() -> None:
        subprocess.run([*ZSTD.compress, str(packed), str(source)], check=True)

    def forget() -> None:
        for manifest in store.manifests():
            for layer in store.layers(manifest):
                store.delete_layer(layer.digest)
            store.delete_manifest(manifest)

    ours_s, peer_s = [], []
    try:
        for _ in range(TURNS):
            ours_s.append(_seconds(ours))
            peer_s.append(_seconds(peer))
            forget()  # the same bytes again would be there already
    finally:
        shutil.rmtree(blobs, ignore_errors=True)
        source.unlink(missing_ok=True)
        packed.unlink(missing_ok=True)
    return _rates(pages.nbytes, ours_s, peer_s)


async def serve(machines: Machines, digest: str, key: Key | None, directory: Path) -> Rates:
    """All memory of a snapshot copied to a file, nothing of it in any cache but the layers in the
    page cache; the peer's source is the same memory as a file in the page cache. The kernel reads
    ahead as it does for a copy, not as for faults."""
    manifest = await asyncio.to_thread(machines.store.load, digest, key)
    memory, disk = (manifest.regions[name].length for name in ("memory", "disk"))
    plain, target = directory / "memory", directory / "memory.copy"
    ours_s, peer_s = [], []
    try:
        for _ in range(TURNS):
            await machines.drop_caches()
            name = new_name()
            slot = machines.home.machines / name
            slot.mkdir(parents=True)
            await machines.pager.create(name, memory=memory, disk=disk)
            try:
                await machines.pager.bind(name, digest, hot=False, key=key)
                await machines.pager.readahead(_COPY_BYTES >> 10)
                source = machines.home.mount / name / "memory"
                ours_s.append(await asyncio.to_thread(_copy_s, source, plain))
            finally:
                await machines.pager.readahead(READAHEAD_KB)
                await machines.pager.drop(name)
                shutil.rmtree(slot, ignore_errors=True)
            peer_s.append(await asyncio.to_thread(_copy_s, plain, target))
    finally:
        plain.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
    return _rates(memory, ours_s, peer_s)


def _copy_s(source: Path, target: Path) -> float:
    """Read and written, as cp did before file systems helped it: no reflink, no holes."""
    target.unlink(missing_ok=True)
    buffer = memoryview(bytearray(_COPY_BYTES))

    def copy() -> None:
        with source.open("rb", buffering=0) as file, target.open("wb", buffering=0) as to:
            while count := file.readinto(buffer):
                to.write(buffer[:count])

    return _seconds(copy)


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _rates(count: int, ours_s: list[float], peer_s: list[float]) -> Rates:
    return Rates(*(count / percentile(each, 0.5) / 1e6 for each in (ours_s, peer_s)))
