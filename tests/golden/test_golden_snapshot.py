"""Files of each version of each snapshot format, kept to be read for ever.

When a format changes, its old file stays here with the test that reads it; the new version gets
a file of its own. Nothing in this directory is ever written again.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from torpor.snapshot.layer import PAGE, LayerReader, Pages, SealedReader
from torpor.snapshot.manifest import LayerRef, Manifest, Region, read_layers
from torpor.snapshot.reader import FrameCache, PageReader
from torpor.snapshot.refs import Refs, make_refs
from torpor.snapshot.seal import Key

HERE = Path(__file__).parent
LAYER = "ebbc8db8a43bc951be1c984f69830ced711bebf80b43007b4c95226a83b29fd6"
MANIFEST = "aeb513397a809996f5db11ef1f59ec02a27054747e7e423f8c6138e3f03c37b9"
MANIFEST_2 = "84ae3c9b03c3539ad347f657cd9c6c0b5225197ef40b57f006ef015cf8876868"
SEALED_LAYER = "b016e79f74903084e55f5d543d409cdaae36743eadbab92f40b908414897144b"
SEALED_MANIFEST = "fcc1838cab78cec88bf09c322cb69abe232268132940b9284b95aa4f89bb6a49"
KEY = Key(bytes(range(32)))


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


@pytest.mark.parametrize(
    ("name", "digest"), [("manifest-1.bin", MANIFEST), ("manifest-2.bin", MANIFEST_2)]
)
def test_manifests(name: str, digest: str) -> None:
    data = (HERE / name).read_bytes()
    decoded, expected = Manifest.decode(data), manifest(LAYER)
    assert decoded.digest == digest
    assert decoded.layers == expected.layers
    assert decoded.facts == expected.facts
    assert decoded.parent == expected.parent
    assert decoded.hot.tolist() == expected.hot.tolist()
    assert list(decoded.regions) == list(expected.regions)
    for name, region in expected.regions.items():
        assert decoded.regions[name].length == region.length
        assert decoded.regions[name].refs.tolist() == region.refs.tolist()
        assert decoded.regions[name].bases.tolist() == region.bases.tolist()


def test_manifest_2_is_what_is_written_today() -> None:
    """The header and the body, that is: another zstd may compress the body otherwise."""
    data, today = (HERE / "manifest-2.bin").read_bytes(), manifest(LAYER).encode()
    assert data[:24] == today[:24]
    assert zstandard.decompress(data[24:]) == zstandard.decompress(today[24:])


def column(body: bytes, at: int, count: int) -> list[int]:
    """`count` numbers of manifest-2.bin, as docs/formats/manifest.md says."""
    planes = [body[at + plane * count : at + (plane + 1) * count] for plane in range(4)]
    return [sum(plane[i] << 8 * n for n, plane in enumerate(planes)) for i in range(count)]


def signed(number: int) -> int:
    return -(number + 1) // 2 if number % 2 else number // 2


def test_the_documents_suffice_to_read_manifest_2() -> None:
    """The memory of it, with nothing of ours."""
    body = zstandard.decompress((HERE / "manifest-2.bin").read_bytes()[24:])
    at = 4 + int.from_bytes(body[:4], "little")
    (name, _, runs) = json.loads(body[4:at])["regions"][0]
    assert (name, runs) == ("memory", 5)
    columns = [column(body, at + 20 * n, runs) for n in range(5)]
    gaps, lengths, layers, base_layers, places = columns
    assert gaps == [5, 0, 0, 0, 5]
    assert lengths == [2, 1, 1, 1, 1]
    assert layers == [2] * 5
    assert base_layers == [0, 2, 2, 0, 2]
    assert [signed(place) for place in places] == [4, 0, 0, 2 - 8, 19 - 3]
    assert [signed(place) for place in column(body, at + 100, 3)] == [1, 1 - 2, 3 - 2]


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


def test_sealed_layer_1() -> None:
    path = HERE / "layer-sealed-1.bin"
    assert blake3(path.read_bytes()).hexdigest() == SEALED_LAYER
    reader = SealedReader(path, KEY)
    assert (reader.pages, reader.frames) == (20, 2)
    assert reader.frame(0) + reader.frame(1) == layer_pages().tobytes()


def test_sealed_manifest_1() -> None:
    data = (HERE / "manifest-sealed-1.bin").read_bytes()
    decoded, expected = Manifest.decode(data, KEY), manifest(LAYER)
    assert decoded.digest == SEALED_MANIFEST
    sealed = LayerRef("sealed", SEALED_LAYER, 20)
    assert read_layers(data) == decoded.layers == (expected.layers[0], sealed)
    assert decoded.facts == expected.facts
    assert decoded.regions["memory"].refs.tolist() == expected.regions["memory"].refs.tolist()


def opened(purpose: bytes, salt: bytes, part: int, sealed: bytes, clear: bytes | None) -> bytes:
    """As docs/formats/layer.md says, and with nothing of ours."""
    key = HKDF(SHA256(), 32, salt, purpose).derive(KEY.secret)
    return AESGCM(key).decrypt(part.to_bytes(12, "big"), sealed, clear)


def test_the_documents_suffice_to_open_what_is_sealed() -> None:
    data = (HERE / "layer-sealed-1.bin").read_bytes()
    assert data[:8] == b"TORPORL1"
    table = data[-(17 + 8 * 2) :]
    assert table[:8] == bytes.fromhex("5e2a4d18") + (9 + 8 * 2).to_bytes(4, "little")
    assert table[-9:] == (2).to_bytes(4, "little") + b"\0" + bytes.fromhex("b1ea928f")
    at, pages = 40, b""
    for part in range(2):
        stored = int.from_bytes(table[8 + 8 * part : 12 + 8 * part], "little")
        frame = opened(b"torpor layer 1", data[8:40], part, data[at : at + stored], None)
        pages += zstandard.decompress(frame)
        at += stored
    assert at == len(data) - len(table)
    assert pages == layer_pages().tobytes()

    data = (HERE / "manifest-sealed-1.bin").read_bytes()
    assert data[:8] == b"TORPORS1"
    end = 44 + int.from_bytes(data[40:44], "little")
    assert json.loads(data[44:end])[1] == ["sealed", SEALED_LAYER, 20]
    inside = opened(b"torpor snapshot 1", data[8:40], 0, data[end:], data[:end])
    assert Manifest.decode(inside).parent == "fedcba9876543210" * 4
