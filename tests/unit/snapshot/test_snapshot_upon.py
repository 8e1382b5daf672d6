"""One snapshot seen from another, against arrays that are compared byte by byte; and what was seen
of it already."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torpor.blobs.local import LocalBlobs
from torpor.snapshot.build import Changed, build
from torpor.snapshot.layer import PAGE, Pages
from torpor.snapshot.manifest import Manifest
from torpor.snapshot.pages import InMemory
from torpor.snapshot.reader import FrameCache, PageReader
from torpor.snapshot.seen import Seen
from torpor.snapshot.store import SnapshotStore
from torpor.snapshot.upon import Upon

COUNT = 48
# What becomes of a page: nothing, zeros, another, a little different, another's content.
CHANGES = st.sampled_from(["zero", "new", "little", "copy"])


class Memory:
    """Snapshots of one memory, each on the one before, and the pages as they were."""

    def __init__(self, directory: Path) -> None:
        self.store = SnapshotStore(LocalBlobs(directory), lambda _: directory / "none")
        rng = np.random.default_rng(0)
        self.pages: Pages = rng.integers(1, 9, (COUNT, PAGE)).astype(np.uint8)
        self.pages[::5] = 0
        self.manifest: Manifest | None = None
        self.taken: list[tuple[Manifest, Pages]] = []
        self.take(np.arange(COUNT))

    def change(self, number: int, how: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        match how:
            case "zero":
                self.pages[number] = 0
            case "new":
                self.pages[number] = rng.integers(1, 256, PAGE)
            case "little":
                self.pages[number, int(rng.integers(PAGE))] ^= 1
            case "copy":
                self.pages[number] = self.pages[int(rng.integers(COUNT))]

    def take(self, numbers: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        built = build(
            self.manifest,
            self.reader(self.manifest) if self.manifest else None,
            {"memory": Changed.at_hand(COUNT * PAGE, numbers, self.pages[numbers])},
            hot=np.zeros(0, np.uint32),
            facts={},
        )
        self.manifest = self.store.load(self.store.put(built).manifest_digest)
        self.taken.append((self.manifest, self.pages.copy()))

    def reader(self, manifest: Manifest) -> PageReader:
        return self.store.reader(manifest, FrameCache(1 << 20))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.dictionaries(st.integers(0, COUNT - 1), CHANGES), max_size=4), st.data())
def test_what_differs_and_what_is_there(
    tmp_path_factory: object, steps: list[dict[int, str]], data: st.DataObject
) -> None:
    directory: Path = tmp_path_factory.mktemp("upon")  # type: ignore[attr-defined]
    memory = Memory(directory)
    for turn, step in enumerate(steps):
        for number, how in step.items():
            memory.change(number, how, seed=turn * COUNT + number)
        memory.take(np.array(sorted(step), np.int64))
    below, under = data.draw(st.sampled_from(memory.taken))
    above, over = data.draw(st.sampled_from(memory.taken))
    upon = Upon("memory", below, above)
    unequal = np.flatnonzero((under != over).any(axis=1))
    assert set(unequal) <= set(upon.differing.tolist())
    # None of the others has to be read, whatever is asked for.
    asked = np.union1d(upon.differing, data.draw(st.lists(st.integers(0, COUNT - 1))))
    asked = asked.astype(np.int64)
    assert (upon.pages(asked, InMemory(under), memory.reader(above)) == over[asked]).all()
    if below is above:
        assert not len(upon.differing)


def test_only_what_is_not_as_it_was_last_time() -> None:
    pages = np.random.default_rng(5).integers(0, 256, (6, PAGE)).astype(np.uint8)
    numbers = np.array([1, 4, 9, 10, 11, 30])
    changed = Changed.at_hand(32 * PAGE, numbers, pages).hashed()
    seen = Seen()
    assert seen.without_known(changed) is changed
    seen.note(changed.only(np.arange(4)))
    fresh = seen.without_known(changed)
    assert fresh.numbers.tolist() == [11, 30]
    assert (fresh.pages.read(np.arange(2)) == pages[4:]).all()
    pages[1, 7] ^= 1
    again = seen.without_known(Changed.at_hand(32 * PAGE, numbers, pages).hashed())
    assert again.numbers.tolist() == [4, 11, 30]
    nothing = Changed.at_hand(32 * PAGE, numbers[:0], pages[:0]).hashed()
    assert not len(seen.without_known(nothing).numbers)
