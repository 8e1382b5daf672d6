"""The difference builder against a plain model: numpy arrays that are changed in place."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torpor.blobs.local import LocalBlobs, LocalDraft
from torpor.core.errors import InternalError, Invalid
from torpor.snapshot import build as building
from torpor.snapshot import gather
from torpor.snapshot import pages as sources
from torpor.snapshot.baselines import ImageIndex, build_index
from torpor.snapshot.build import Built, Changed, build
from torpor.snapshot.layer import FRAME_PAGES, PAGE, Pages, write_layer
from torpor.snapshot.manifest import Manifest, page_count
from torpor.snapshot.pages import InMemory, Rows
from torpor.snapshot.reader import FrameCache, PageReader
from torpor.snapshot.refs import Refs, layer_numbers, positions
from torpor.snapshot.store import SnapshotStore

NO_HOT = np.zeros(0, np.uint32)


def distinct(count: int, seed: int = 0) -> Pages:
    return np.random.default_rng(seed).integers(1, 256, (count, PAGE)).astype(np.uint8)


def whole(pages: Pages) -> Changed:
    return Changed.at_hand(len(pages) * PAGE, np.arange(len(pages)), pages)


def part(pages: Pages, numbers: list[int]) -> Changed:
    return Changed.at_hand(len(pages) * PAGE, np.array(numbers, np.int64), pages[numbers])


class Chain:
    """Snapshots in a store, each built on the one before."""

    def __init__(self, directory: Path, image: ImageIndex | None = None) -> None:
        self.blobs = LocalBlobs(directory / "blobs")
        self.store = SnapshotStore(self.blobs, lambda _: directory / "root.erofs")
        self.image = image
        self.manifest: Manifest | None = None

    def add(self, changed: Mapping[str, Changed], hot: object = NO_HOT) -> Built:
        built = self._build(changed, hot)
        self.manifest = self.store.load(self.store.put(built).manifest_digest)
        return built

    def add_in_chunks(
        self, changed: Mapping[str, Changed], hot: object, chunk_pages: int, *, hashed: bool
    ) -> None:
        """Read some pages at a time, written to a draft, and the same as if they were not."""
        whole = self._build(changed, hot)
        counted = {name: Counted(each) for name, each in changed.items()}
        with pytest.MonkeyPatch.context() as limits, self.blobs.draft() as draft:
            limits.setattr(sources, "CHUNK_PAGES", chunk_pages)
            limits.setattr(building, "_XORS_KEPT", chunk_pages // FRAME_PAGES - 1)
            pieces = {name: each.changed(hashed) for name, each in counted.items()}
            built = self._build(pieces, hot, draft)
            assert built.manifest.encode() == whole.manifest.encode()
            assert built.stats == whole.stats
            if whole.layer is not None:
                assert draft.path.read_bytes() == b"".join(whole.layer.chunks)
            self.manifest = self.store.load(self.store.put(built).manifest_digest)
        assert all(each.most <= chunk_pages for each in counted.values())
        assert not list((self.blobs.root / "tmp").iterdir())

    def _build(
        self, changed: Mapping[str, Changed], hot: object, out: LocalDraft | None = None
    ) -> Built:
        return build(
            self.manifest,
            self.reader() if self.manifest else None,
            changed,
            hot=np.asarray(hot, np.uint32),
            facts={},
            dedup=None if self.manifest else self.image,
            out=out,
        )

    def reader(self) -> PageReader:
        assert self.manifest is not None
        return self.store.reader(self.manifest, FrameCache(1 << 20))

    def pages(self, region: str) -> Pages:
        assert self.manifest is not None
        return self.reader().pages(region, np.arange(len(self.manifest.regions[region].refs)))


class Counted:
    """A source that knows how many pages it was asked for at a time, at most."""

    def __init__(self, changed: Changed) -> None:
        self.most = 0
        self._changed = changed

    def changed(self, hashed: bool) -> Changed:
        region = Changed(self._changed.length, self._changed.numbers, self)
        return region.hashed() if hashed else region

    def __len__(self) -> int:
        return len(self._changed.pages)

    def read(self, rows: Rows) -> Pages:
        self.most = max(self.most, len(rows))
        return self._changed.pages.read(rows)


def counts(built: Built) -> dict[str, int]:
    stats = vars(built.stats).copy()
    stats.pop("stored_bytes")
    stats.pop("moved")
    assert stats.pop("changed") == sum(stats.values())
    return {name: count for name, count in stats.items() if count}


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path)


def test_each_kind_of_page(chain: Chain) -> None:
    memory = distinct(12)
    memory[3] = 0
    memory[5] = memory[4]
    assert counts(chain.add({"memory": whole(memory)})) == {"zero": 1, "dup": 1, "plain": 10}
    memory[0] = 0  # zero
    memory[1, 7] ^= 1  # xor
    memory[2] = distinct(1, seed=9)[0]  # plain
    memory[3] = memory[2]  # dup
    assert counts(chain.add({"memory": part(memory, [0, 1, 2, 3, 4])})) == {
        "zero": 1,
        "xor": 1,
        "plain": 1,
        "dup": 1,
        "same": 1,
    }
    assert (chain.pages("memory") == memory).all()


def test_an_xor_of_an_xor_goes_back_to_the_plain_page(chain: Chain) -> None:
    memory = distinct(4)
    chain.add({"memory": whole(memory)})
    assert chain.manifest is not None
    root = chain.manifest.regions["memory"].refs[1]
    for i in range(5):
        memory[1, i] ^= 0xFF
        assert counts(chain.add({"memory": part(memory, [1])})) == {"xor": 1}
        assert chain.manifest.regions["memory"].bases[1] == root
        assert (chain.pages("memory") == memory).all()
    assert len(chain.manifest.layers) == 2, "the XORs in between are needed no more"


def test_an_xor_page_that_did_not_change_is_kept(chain: Chain) -> None:
    memory = distinct(4)
    chain.add({"memory": whole(memory)})
    memory[1, 5] ^= 1
    chain.add({"memory": part(memory, [1])})
    built = chain.add({"memory": part(memory, [0, 1, 2])})
    assert counts(built) == {"same": 3}
    assert built.layer is None
    assert (chain.pages("memory") == memory).all()


def test_a_page_that_changes_back_is_a_reference_again(chain: Chain) -> None:
    memory = distinct(4)
    chain.add({"memory": whole(memory)})
    before = memory[1].copy()
    memory[1, 5] ^= 1
    chain.add({"memory": part(memory, [1])})
    memory[1] = before
    built = chain.add({"memory": part(memory, [1])})
    assert counts(built) == {"same": 1}
    assert not built.manifest.regions["memory"].bases.any()
    assert len(built.manifest.layers) == 1
    assert (chain.pages("memory") == memory).all()


def test_a_page_that_changed_much_is_stored_plain(chain: Chain) -> None:
    memory = distinct(1)
    chain.add({"memory": whole(memory)})
    memory[0, :: PAGE // 256] ^= 1  # 256 of 512 words
    assert counts(chain.add({"memory": whole(memory)})) == {"xor": 1}
    memory[0, 8 :: PAGE // 256] ^= 1  # all but the first
    assert counts(chain.add({"memory": whole(memory)})) == {"plain": 1}


def test_equal_pages_are_shared_across_regions(chain: Chain) -> None:
    """What a guest writes to its disk is in its page cache too."""
    pages = distinct(20)
    built = chain.add({"memory": whole(pages), "disk": whole(pages)})
    assert counts(built) == {"plain": 20, "dup": 20}
    assert (chain.pages("disk") == pages).all()


def test_regions_that_are_not_mentioned_are_the_parents(chain: Chain) -> None:
    memory, disk = distinct(3, 1), distinct(3, 2)
    chain.add({"memory": whole(memory), "disk": whole(disk)})
    memory[0] = 0
    chain.add({"memory": part(memory, [0])})
    assert (chain.pages("memory") == memory).all()
    assert (chain.pages("disk") == disk).all()


def test_a_region_may_grow_and_shrink(chain: Chain) -> None:
    """The device state is a little longer or shorter each time."""
    for length in (9_000, 20_000, 4_096, 5_000):
        pages = distinct(page_count(length), seed=length)
        pages.reshape(-1)[length:] = 0
        chain.add({"device": Changed.at_hand(length, np.arange(len(pages)), pages)})
        data = chain.reader().read("device", 0, 1 << 20)
        assert data == pages.tobytes()[:length]


def test_hot_pages_lie_together(chain: Chain) -> None:
    memory = distinct(20 * FRAME_PAGES)
    hot = np.arange(7, len(memory), 20)
    built = chain.add({"memory": whole(memory)}, hot[::-1])
    refs = built.manifest.regions["memory"].refs[hot]
    assert sorted(positions(refs)) == list(range(len(hot)))
    assert built.manifest.hot.tolist() == hot.tolist()
    assert (chain.pages("memory") == memory).all()


def text(count: int, seed: int) -> Pages:
    """Pages of letters, of which harder compression makes less."""
    words = np.random.default_rng(seed).integers(97, 105, (count, PAGE // 8, 4)).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(words, 2, axis=1).reshape(count, PAGE))


@pytest.mark.parametrize(("pages", "level"), [(100, 1), (600, 6)])
def test_layers_are_compressed_as_their_size_allows(chain: Chain, pages: int, level: int) -> None:
    first = text(pages, seed=1)
    built = chain.add({"memory": whole(first)})
    assert built.stats.stored_bytes == write_layer(first, level=9).size, "all runs read it"
    second = text(pages, seed=2)
    built = chain.add({"memory": whole(second)})
    assert built.stats.stored_bytes == write_layer(second, level=level).size
    assert (chain.pages("memory") == second).all()


def test_a_large_snapshot_takes_little_memory(tmp_path: Path) -> None:
    """128 MiB that do not compress, of which half is on the disk too."""
    count, block = 32_768, distinct(256)

    class Random:
        def __len__(self) -> int:
            return count

        def read(self, rows: Rows) -> Pages:
            pages = block[rows % len(block)]
            pages[:, :8] = (rows % (count // 2)).astype("<i8").view(np.uint8).reshape(-1, 8)
            return pages

    chain, pages = Chain(tmp_path), Changed(count * PAGE, np.arange(count), Random())
    tracemalloc.start()
    try:
        with chain.store.draft() as draft:
            built = build(None, None, {"memory": pages}, hot=NO_HOT, facts={}, level=1, out=draft)
            chain.store.put(built)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert built.stats.plain == built.stats.dup == count // 2
    assert peak < 48 << 20


def test_manifests_name_their_parents(chain: Chain) -> None:
    first = chain.store.put(chain.add({"memory": whole(distinct(1))})).manifest_digest
    assert chain.manifest is not None
    assert chain.manifest.parent is None
    chain.add({})
    assert chain.manifest.parent == first


@pytest.fixture
def image(tmp_path: Path) -> Pages:
    pages = distinct(50, seed=77)
    pages[10] = 0
    pages[20] = pages[21]
    (tmp_path / "root.erofs").write_bytes(pages.tobytes())
    np.save(tmp_path / "pages.npy", build_index(tmp_path / "root.erofs"))
    return pages


def open_index(directory: Path) -> ImageIndex:
    return ImageIndex.open("ab" * 16, directory / "root.erofs", directory / "pages.npy")


def test_pages_of_the_image_are_references_and_bases(tmp_path: Path, image: Pages) -> None:
    chain = Chain(tmp_path, open_index(tmp_path))
    memory = np.concatenate((image[30:40], distinct(5), image[20:22], np.zeros_like(image[:1])))
    built = chain.add({"memory": whole(memory)})
    assert counts(built) == {"image": 11, "dup": 1, "plain": 5, "zero": 1}
    assert [layer.kind for layer in built.manifest.layers] == ["raw", "zstd"]
    memory[0, 0] ^= 1
    assert counts(chain.add({"memory": part(memory, [0, 1])})) == {"xor": 1, "same": 1}
    assert (chain.pages("memory") == memory).all()


def test_a_hash_alone_shares_nothing(tmp_path: Path, image: Pages) -> None:
    """A table that sends every hash to a wrong page, as a made collision would."""
    index = open_index(tmp_path)
    table = build_index(tmp_path / "root.erofs")
    table["page"] = 10
    lying = ImageIndex(index.digest, index.pages, table)
    chain = Chain(tmp_path, lying)
    assert counts(chain.add({"memory": whole(image[:10].copy())})) == {"plain": 10}
    assert (chain.pages("memory") == image[:10]).all()


def test_an_index_of_another_image_is_refused(tmp_path: Path, image: Pages) -> None:
    table = build_index(tmp_path / "root.erofs")
    with pytest.raises(Invalid, match="does not belong"):
        ImageIndex("ab" * 16, InMemory(image[:20]), table)


def test_an_image_without_content_has_an_empty_index(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(bytes(4 * PAGE))
    table = build_index(tmp_path / "empty")
    index = ImageIndex("ab" * 16, InMemory(np.zeros((4, PAGE), np.uint8)), table)
    assert index.find(np.array([1, 2], np.uint64)).tolist() == [-1, -1]
    (tmp_path / "empty").write_bytes(b"x")
    with pytest.raises(Invalid, match="whole pages"):
        build_index(tmp_path / "empty")


@pytest.mark.parametrize("numbers", [[1, 0], [0, 0], [0, 2], [-1, 0], [0]])
def test_page_numbers_that_make_no_sense_are_refused(numbers: list[int]) -> None:
    with pytest.raises(InternalError, match="page numbers"):
        Changed.at_hand(2 * PAGE, np.array(numbers, np.int64), distinct(2))


# What may happen to a page between two snapshots.
CHANGES = ("zero", "new", "tweak", "half", "copy", "image", "touch", "revert")


def change(
    kind: str, page: int, model: Mapping[str, Pages], region: str, origin: Pages, seed: int
) -> None:
    random = np.random.default_rng(seed)
    pages = model[region]
    match kind:
        case "zero":
            pages[page] = 0
        case "new":
            pages[page] = random.integers(0, 256, PAGE)
        case "tweak":
            pages[page, random.integers(0, PAGE, 3)] ^= 1
        case "half":
            pages[page, : PAGE // 2] = random.integers(0, 256, PAGE // 2)
        case "copy":
            other = model["disk" if region == "memory" else "memory"]
            pages[page] = other[seed % len(other)]
        case "image":
            pages[page] = origin[seed % len(origin)]
        case "revert":
            pages[page] = origin[page]


STEPS = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(("memory", "disk")),
            st.integers(0, 39),
            st.sampled_from(CHANGES),
            st.integers(0, 1 << 30),
        ),
        max_size=12,
    ),
    max_size=6,
)


@settings(max_examples=20, deadline=None)
@given(
    steps=STEPS,
    hot=st.sets(st.integers(0, 39)),
    used=st.integers(0, 40),
    with_image=st.booleans(),
    eager=st.booleans(),
    frames=st.integers(1, 4),
    hashed=st.booleans(),
)
def test_any_sequence_of_snapshots_reads_back(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[list[tuple[str, int, str, int]]],
    hot: set[int],
    used: int,
    with_image: bool,
    eager: bool,
    frames: int,
    hashed: bool,
) -> None:
    """`eager`: pages move at once, not only when there are many frames or layers. `frames`: as
    many of pages are read at a time."""
    directory = tmp_path_factory.mktemp("chain")
    origin = distinct(40, seed=5)
    (directory / "root.erofs").write_bytes(origin[::2].tobytes())
    np.save(directory / "pages.npy", build_index(directory / "root.erofs"))
    chain = Chain(directory, open_index(directory) if with_image else None)
    model = {"memory": origin.copy(), "disk": np.zeros((40, PAGE), np.uint8)}
    model["memory"][used:] = 0
    first = {name: whole(pages) for name, pages in model.items()}
    chain.add_in_chunks(first, sorted(hot), frames * FRAME_PAGES, hashed=hashed)
    history = [(chain.manifest, {name: pages.copy() for name, pages in model.items()})]
    with pytest.MonkeyPatch.context() as limits:
        for name in ("SPARSE_FRAMES_MAX", "LAYERS_MAX", "LAYERS_LEFT") if eager else ():
            limits.setattr(gather, name, 1)
        for step in steps:
            touched: dict[str, set[int]] = {}
            for name, page, kind, seed in step:
                change(kind, page, model, name, origin, seed)
                touched.setdefault(name, set()).add(page)
            changed = {name: part(model[name], sorted(at)) for name, at in touched.items()}
            chain.add_in_chunks(changed, sorted(hot), frames * FRAME_PAGES, hashed=hashed)
            history.append((chain.manifest, {name: pages.copy() for name, pages in model.items()}))

    cache = FrameCache(1 << 20)
    plain: set[tuple[str, int]] = set()
    xored: set[tuple[str, int]] = set()
    for manifest, expected in history:
        assert manifest is not None
        assert chain.store.verify(str(manifest.digest)) == []
        reader = chain.store.reader(manifest, cache)
        used_layers: set[int] = set()
        for name, pages in expected.items():
            assert (reader.pages(name, np.arange(40)) == pages).all()
            region = manifest.regions[name]
            plain |= places(manifest, region.refs[region.bases == 0])
            used_layers |= set(layer_numbers(region.refs)) | set(layer_numbers(region.bases))
        for region in manifest.regions.values():
            xors = region.bases != 0
            xored |= places(manifest, region.refs[xors])
            bases = places(manifest, region.bases[xors])
            assert eager or bases <= plain, "a base was once plain itself"
            assert not bases & xored
            assert not xored & plain
        assert used_layers - {0} == set(range(1, len(manifest.layers) + 1))


def places(manifest: Manifest, refs: Refs) -> set[tuple[str, int]]:
    """Where the refs lead, whatever number a layer has in this manifest."""
    numbers = zip(layer_numbers(refs).tolist(), positions(refs).tolist(), strict=True)
    return {(manifest.layers[layer - 1].digest, position) for layer, position in numbers if layer}
