"""Manifests: encode and decode are inverse, and nothing malformed is taken."""

from __future__ import annotations

import dataclasses
import json
import struct
from typing import Any

import numpy as np
import pytest
import xxhash
import zstandard
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from torpor.core.errors import Damaged, InternalError
from torpor.snapshot.layer import PAGE
from torpor.snapshot.manifest import MAGIC, MAGIC_1, LayerRef, Manifest, Region
from torpor.snapshot.refs import make_refs

LAYERS = (
    LayerRef("raw", "aa" * 16, 1000),
    LayerRef("zstd", "bb" * 32, 300),
    LayerRef("zstd", "cc" * 32, 40),
)


def same(a: Manifest, b: Manifest) -> bool:
    def plain(m: Manifest) -> Any:
        regions = [
            (key, r.name, r.length, r.refs.tolist(), r.bases.tolist())
            for key, r in m.regions.items()
        ]
        return m.layers, regions, m.hot.tolist(), m.facts, m.parent

    return bool(plain(a) == plain(b))


@st.composite
def region_of(draw: st.DrawFn, name: str) -> Region:
    """Pages in runs: zeros, in the order of a layer or not, with bases in some."""
    refs: list[int] = []
    bases: list[int] = []
    for _ in range(draw(st.integers(0, 8))):
        count = draw(st.integers(1, 20))
        layer = draw(st.integers(-1, len(LAYERS) - 1))
        if layer < 0:
            refs += [0] * count
            bases += [0] * count
            continue
        start = draw(st.integers(0, LAYERS[layer].pages - count))
        refs += make_refs(layer, np.arange(start, start + count)).tolist()
        base = draw(st.one_of(st.none(), st.integers(0, 900)))
        step = draw(st.integers(0, 1))
        bases += [
            int(make_refs(0, np.array([base + step * i]))[0]) if base is not None else 0
            for i in range(count)
        ]
    length = len(refs) * PAGE - (draw(st.integers(0, PAGE - 1)) if refs else 0)
    return Region(name, length, np.array(refs, np.uint64), np.array(bases, np.uint64))


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    regions = {name: draw(region_of(name)) for name in ("memory", "disk", "device")}
    pages = len(regions["memory"].refs)
    hot = draw(st.sets(st.integers(0, pages - 1))) if pages else set()
    facts = draw(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5)))
    parent = draw(st.none() | st.just("dd" * 32))
    return Manifest(LAYERS, regions, np.array(sorted(hot), np.uint32), facts, parent)


@settings(max_examples=50, deadline=None)
@given(manifests())
def test_decode_inverts_encode(manifest: Manifest) -> None:
    data = manifest.encode()
    decoded = Manifest.decode(data)
    assert same(decoded, manifest)
    assert decoded.digest == blake3(data).hexdigest()
    assert decoded.encode() == data


def small() -> Manifest:
    refs = np.concatenate(
        (np.zeros(3), make_refs(1, np.arange(5, 15)), make_refs(2, np.array([7])))
    ).astype(np.uint64)
    bases = np.zeros(14, np.uint64)
    bases[13] = make_refs(0, np.array([999]))[0]
    region = Region("memory", 14 * PAGE, refs, bases)
    return Manifest(LAYERS, {"memory": region}, np.array([3, 9], np.uint32), {"engine": "qemu"})


def test_every_flipped_byte_is_found_or_without_effect() -> None:
    good = small().encode()
    for at in range(len(good)):
        for mask in (0x01, 0x10, 0x80, 0xFF):
            try:
                read = Manifest.decode(good[:at] + bytes([good[at] ^ mask]) + good[at + 1 :])
            except Damaged as error:
                assert "manifest" in error.message
            else:
                assert same(read, small()), f"byte {at} ^ {mask:#x}"


def test_every_truncation_is_found() -> None:
    good = small().encode()
    for length in range(len(good)):
        with pytest.raises(Damaged):
            Manifest.decode(good[:length])


@given(st.binary(max_size=100))
def test_garbage_is_refused(data: bytes) -> None:
    for bad in (data, MAGIC + data, MAGIC_1 + data):
        with pytest.raises(Damaged):
            Manifest.decode(bad)


def sealed(body: bytes, magic: bytes = MAGIC) -> bytes:
    """A body as a file whose checksums are right: only its content can be refused."""
    header = struct.pack("<8sQQ", magic, len(body), xxhash.xxh64_intdigest(body))
    return header + zstandard.ZstdCompressor().compress(body)


def body_of(head: Any, *columns: int) -> bytes:
    text = json.dumps(head).encode()
    return struct.pack("<I", len(text)) + text + struct.pack(f"<{len(columns)}I", *columns)


def head(**changes: Any) -> dict[str, Any]:
    return {
        "layers": [["zstd", "bb" * 32, 10]],
        "regions": [["memory", 8 * PAGE, 1]],
        "hot": 1,
        "facts": {},
        "parent": None,
    } | changes


# Pages 2, 3, 4 are pages 4, 5, 6 of the layer. One number in planes looks like one that is not.
RUN = (2, 3, 1, 0, 2 * 4)
RUN_1 = (2, 3, 1, 4, 0, 0)
HOT = (2,)


@pytest.mark.parametrize(("magic", "run"), [(MAGIC, RUN), (MAGIC_1, RUN_1)], ids=["2", "1"])
def test_the_body_that_the_refusals_start_from_is_taken(magic: bytes, run: tuple[int, ...]) -> None:
    manifest = Manifest.decode(sealed(body_of(head(), *run, *HOT), magic))
    refs = [0, 0, *make_refs(0, np.arange(4, 7)).tolist(), 0, 0, 0]
    assert manifest.regions["memory"].refs.tolist() == refs
    assert manifest.hot.tolist() == [2]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (body_of(head(), *RUN), "shorter"),
        (body_of(head(), *RUN, *HOT, 0), "longer"),
        (body_of(head(hot=2), *RUN, *HOT, 0), "hot pages"),
        (body_of(head(hot=-1), *RUN, *HOT), "no size or count"),
        (body_of(head(), *RUN, 8), "hot pages"),
        (body_of(head(), 6, 3, 1, 0, 8, *HOT), "leave it"),
        (body_of(head(), 2, 0, 1, 0, 8, *HOT), "leave it"),
        (body_of(head(), 2, 3, 0, 0, 8, *HOT), "no layer"),
        (body_of(head(), 2, 3, 2, 0, 8, *HOT), "leaves its layer"),
        (body_of(head(), 2, 3, 1, 0, 16, *HOT), "leaves its layer"),
        (body_of(head(), 2, 3, 1, 0, 1, *HOT), "leaves its layer"),
        (body_of(head(), 2, 3, 1, 2, 8, 0, *HOT), "leaves its layer"),
        (body_of(head(), 2, 3, 1, 1, 8, 16, *HOT), "leaves its layer"),
        (body_of(head(regions=[["memory", 1 << 60, 1]]), *RUN, *HOT), "no size or count"),
        (body_of(head(regions=[["memory", 8.5, 1]]), *RUN, *HOT), "no size or count"),
        (body_of(head(regions=[["memory"]]), *RUN, *HOT), "malformed"),
        (body_of(head(regions={}), *RUN, *HOT), "no list"),
        (body_of(head(layers=[["tar", "bb" * 32, 10]]), *RUN, *HOT), "malformed"),
        (body_of(head(layers=[["zstd", "../../passwd", 10]]), *RUN, *HOT), "malformed"),
        (body_of(head(facts=[]), *RUN, *HOT), "malformed"),
        (body_of(head(parent=3), *RUN, *HOT), "malformed"),
        (body_of([]), "not a JSON object"),
        (struct.pack("<I", 3) + b"{,}", "not JSON"),
        (struct.pack("<I", 200_000) + b"[" * 200_000, "not JSON"),
        (struct.pack("<I", 900) + b"{}", "shorter"),
        (b"", "shorter"),
    ],
)
def test_a_body_that_makes_no_sense_is_refused(body: bytes, complaint: str) -> None:
    with pytest.raises(Damaged, match=complaint):
        Manifest.decode(sealed(body))


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        (RUN_1, "shorter"),
        ((6, 3, 1, 4, 0, 0, *HOT), "leave it"),
        ((2, 0, 1, 4, 0, 0, *HOT), "leave it"),
        ((2, 3, 0, 4, 0, 0, *HOT), "no layer"),
        ((2, 3, 2, 4, 0, 0, *HOT), "leaves its layer"),
        ((2, 3, 1, 8, 0, 0, *HOT), "leaves its layer"),
        ((2, 3, 1, 4, 2, 0, *HOT), "leaves its layer"),
        ((2, 3, 1, 4, 1, 8, *HOT), "leaves its layer"),
    ],
)
def test_a_body_of_version_1_that_makes_no_sense_is_refused(
    columns: tuple[int, ...], complaint: str
) -> None:
    with pytest.raises(Damaged, match=complaint):
        Manifest.decode(sealed(body_of(head(), *columns), MAGIC_1))


@pytest.mark.parametrize("hot", [[3, 2], [2, 2], [14]])
def test_hot_pages_that_could_not_be_read_again_are_not_written(hot: list[int]) -> None:
    with pytest.raises(InternalError, match="hot pages"):
        dataclasses.replace(small(), hot=np.array(hot, np.uint32))


def test_a_length_that_would_exhaust_memory_is_refused_before_it_is_allocated() -> None:
    packed = zstandard.ZstdCompressor().compress(b"x")
    data = struct.pack("<8sQQ", MAGIC, 1 << 50, 0) + packed
    with pytest.raises(Damaged, match="length"):
        Manifest.decode(data)


def test_a_large_machine_has_a_small_manifest() -> None:
    """512 MiB of memory, a fifth of it in use and scattered, and a large empty disk."""
    random = np.random.default_rng(3)
    layers = (LayerRef("zstd", "bb" * 32, 20_000),)
    used = np.sort(random.choice(131_072 // 8, 2_500, replace=False))
    refs = np.zeros((131_072 // 8, 8), np.uint64)
    refs[used] = make_refs(0, np.arange(20_000)).reshape(-1, 8)
    none = np.zeros(524_288, np.uint64)
    manifest = Manifest(
        layers,
        {
            "memory": Region("memory", 131_072 * PAGE, refs.reshape(-1), none[:131_072]),
            "disk": Region("disk", 524_288 * PAGE, none, none),
        },
        np.arange(2_000, dtype=np.uint32),
        {},
    )
    data = manifest.encode()
    assert len(data) <= 64 * 1024
    assert same(Manifest.decode(data), manifest)
