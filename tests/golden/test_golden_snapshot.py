"""Files of the first version of each snapshot format, kept to be read for ever.

When a format changes, its old file stays here with the test that reads it; the new version gets
a file of its own. Nothing in this directory is ever written again.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import zstandard
from blake3 import blake3

from torpor.snapshot.layer import PAGE, LayerReader, Pages
from torpor.snapshot.manifest import LayerRef, Manifest, Refs, Region, make_refs
from torpor.snapshot.reader import FrameCache, PageReader

HERE = Path(__file__).parent
LAYER = "ebbc8db8a43bc951be1c984f69830ced711bebf80b43007b4c95226a83b29fd6"
MANIFEST = "aeb513397a809996f5db11ef1f59ec02a27054747e7e423f8c6138e3f03c37b9"


def layer_pages() -> Pages:
    """What layer-1.zst holds: 20 pages, so two frames; byte j of page k is k if 7 divides j."""
    pages = np.zeros((20, PAGE), np.uint8)
    pages[:, ::7] = np.arange(20)[:, np.newaxis]
    return pages


def refs(layer: int, *positions: int) -> list[int]:
    made: list[int] = make_refs(layer, np.array(positions)).tolist()
    return made


def manifest(layer: str) -> Manifest:
    """What manifest-1.bin holds, `layer` being the digest of layer-1.zst."""

    def column(*parts: list[int]) -> Refs:
        return np.array(list(itertools.chain(*parts)), np.uint64)

    zeros = [0] * 5
    return Manifest(
        layers=(LayerRef("raw", "0123456789abcdef" * 2, 500), LayerRef("zstd", layer, 20)),
        regions={
            "memory": Region(
                "memory",
                16 * PAGE,
                column(zeros, refs(1, 4, 5, 6, 7), refs(1, 2), zeros, refs(1, 19)),
                column(zeros, [0, 0], refs(1, 1, 1), [0], zeros, refs(1, 3)),
            ),
            "disk": Region("disk", 5 * PAGE, column(zeros), column(zeros)),
            "device": Region(
                "device", 5000, column(refs(0, 498), refs(1, 18)), column([0], refs(0, 499))
            ),
        },
        hot=np.array([5, 6, 9], np.uint32),
        facts={"engine": "qemu", "machine": {"memory_mib": 512}},
        parent="fedcba9876543210" * 4,
    )


def test_layer_1() -> None:
    path = HERE / "layer-1.zst"
    assert blake3(path.read_bytes()).hexdigest() == LAYER
    reader = LayerReader(path)
    assert (reader.pages, reader.frames) == (20, 2)
    assert reader.frame(0) + reader.frame(1) == layer_pages().tobytes()


def test_manifest_1() -> None:
    data = (HERE / "manifest-1.bin").read_bytes()
    decoded, expected = Manifest.decode(data), manifest(LAYER)
    assert decoded.digest == MANIFEST
    assert decoded.layers == expected.layers
    assert decoded.facts == expected.facts
    assert decoded.parent == expected.parent
    assert decoded.hot.tolist() == expected.hot.tolist()
    assert list(decoded.regions) == list(expected.regions)
    for name, region in expected.regions.items():
        assert decoded.regions[name].length == region.length
        assert decoded.regions[name].refs.tolist() == region.refs.tolist()
        assert decoded.regions[name].bases.tolist() == region.bases.tolist()


def test_manifest_1_is_what_is_written_today() -> None:
    """The header and the body, that is: another zstd may compress the body otherwise."""
    data, today = (HERE / "manifest-1.bin").read_bytes(), manifest(LAYER).encode()
    assert data[:24] == today[:24]
    assert zstandard.decompress(data[24:]) == zstandard.decompress(today[24:])


def test_pages_of_manifest_1_in_layer_1() -> None:
    decoded = Manifest.decode((HERE / "manifest-1.bin").read_bytes())
    reader = PageReader(decoded, lambda _: HERE / "layer-1.zst", cache=FrameCache(1 << 20))
    stored = layer_pages()
    memory = np.zeros((16, PAGE), np.uint8)
    memory[5:10] = stored[[4, 5, 6, 7, 2]]
    memory[7:9] ^= stored[1]
    memory[15] = stored[19] ^ stored[3]
    assert reader.read("memory", 0, 16 * PAGE) == memory.tobytes()
    assert reader.read("disk", 0, 5 * PAGE) == bytes(5 * PAGE)
