"""Manifests: one flat map per snapshot, from every page to where its bytes are.

A snapshot has *regions*, which its engine names ("memory", "disk", "device"), each an array of
pages. A page's *ref* (`torpor.snapshot.refs`) names a page of one of the manifest's layers. A page
that differs little from an older one is stored as the XOR of both: its *base* is then the ref of
the older page. A base is itself plain, never an XOR, so any page is at most two reads away, however
many ancestors its snapshot has.

In memory there is one ref and one base per page, in numpy arrays; in a file, ranges of pages that
lie side by side in a layer (`torpor.snapshot.columns`). docs/formats/manifest.md has it byte by
byte. Version 2 is written, both are read. `encode` and `decode` are inverse; a manifest's name is
the BLAKE3 of the encoded bytes.

The manifest of a run's snapshot is sealed (`torpor.snapshot.seal`), all but the list of its layers:
garbage collection and copying have to know that list, and must work where no key is.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt
import xxhash
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag

from torpor.core.errors import Damaged, InternalError
from torpor.snapshot import columns
from torpor.snapshot.columns import PageRanges
from torpor.snapshot.layer import PAGE
from torpor.snapshot.refs import POSITIONS, Refs
from torpor.snapshot.seal import SALT_BYTES, Key, new_salt

Kind = Literal["zstd", "sealed", "raw"]

MAGIC_1, MAGIC = b"TORPORM1", b"TORPORM2"
SEALED_MAGIC = b"TORPORS1"
# No machine needs more: 64 GiB of memory or disk in ranges of one page come to half of it.
BODY_BYTES_MAX = 1 << 30
_HEADER = struct.Struct("<8sQQ")  # magic, length and XXH64 of the body
_JSON_LENGTH = struct.Struct("<I")
_SEALED_HEADER = struct.Struct(f"<8s{SALT_BYTES}sI")  # magic, salt, length of the list of layers
_PURPOSE = b"torpor snapshot 1"
_LEVEL = 1  # 3 saves 5 % and takes twice as long, at each snapshot
# What a manifest may say a region has: far more than any machine, far less than hurts.
_REGION_BYTES_MAX = 1 << 38
_DIGEST = re.compile(r"[0-9a-f]{16,128}")


@dataclass(frozen=True)
class LayerRef:
    """A file of `pages` pages. `zstd`: a layer of the store; `sealed`: one that its run's key
    opens; `raw`: the root file system of the image `digest`, uncompressed."""

    kind: Kind
    digest: str
    pages: int


@dataclass(frozen=True, eq=False)
class Region:
    """`length` bytes as pages; the last one is filled up with zeros. `refs` and `bases` have an
    element for each page."""

    name: str
    length: int
    refs: Refs
    bases: Refs


@dataclass(frozen=True, eq=False)
class Manifest:
    """A snapshot's content. `hot`: numbers of the pages of the first region, which is the memory,
    to have ready when the machine starts, sorted. `facts`: what the engine needs to know to restore
    it (JSON). `parent`: the digest of the manifest it was built on. `digest`: the name of the bytes
    it was decoded from, None if it was not."""

    layers: tuple[LayerRef, ...]
    regions: Mapping[str, Region]
    hot: npt.NDArray[np.uint32]
    facts: Mapping[str, Any]
    parent: str | None = None
    digest: str | None = None

    def __post_init__(self) -> None:
        if not _are_hot(self.hot, self.regions):
            raise InternalError("hot pages are not sorted, or not pages of the memory")

    @property
    def memory(self) -> Region | None:
        """The region that the hot pages are of."""
        return memory_of(self.regions)

    def encode(self, key: Key | None = None) -> bytes:
        """The bytes of its file; sealed if there is a key."""
        ranges = {name: PageRanges.of(r.refs, r.bases) for name, r in self.regions.items()}
        layers = [[layer.kind, layer.digest, layer.pages] for layer in self.layers]
        head = json.dumps(
            {
                "layers": layers,
                "regions": [
                    [name, region.length, len(ranges[name].gaps)]
                    for name, region in self.regions.items()
                ],
                "hot": len(self.hot),
                "facts": self.facts,
                "parent": self.parent,
            },
            separators=(",", ":"),
        ).encode()
        body = b"".join(
            (
                _JSON_LENGTH.pack(len(head)),
                head,
                *map(columns.encode, ranges.values()),
                columns.to_planes(np.diff(self.hot, prepend=np.uint32(0))),
            )
        )
        header = _HEADER.pack(MAGIC, len(body), xxhash.xxh64_intdigest(body))
        encoded = header + zstandard.ZstdCompressor(level=_LEVEL).compress(body)
        return encoded if key is None else _seal(encoded, layers, key)

    @classmethod
    def decode(cls, data: bytes, key: Key | None = None) -> Manifest:
        """The manifest in `data`, every ref of it checked to lie within a layer. `key` opens it if
        it is sealed. Raises Damaged."""
        digest = blake3(data).hexdigest()
        encoded = _open(data, digest, key) if is_sealed(data) else data
        return _Decoder(digest, _body(encoded, digest), encoded.startswith(MAGIC_1)).manifest()


def is_sealed(data: bytes) -> bool:
    """Whether the manifest in `data` needs a key to be decoded."""
    return data.startswith(SEALED_MAGIC)


def read_layers(data: bytes) -> tuple[LayerRef, ...]:
    """The layers that the manifest in `data`, sealed or not, names, and no more than that decoded.
    Raises Damaged."""
    digest = blake3(data).hexdigest()
    if is_sealed(data):
        return _Decoder(digest, _in_the_clear(data, digest)[_SEALED_HEADER.size :]).bare_layers()
    return _Decoder(digest, _body(data, digest)).layers()


def page_count(length: int) -> int:
    """How many pages `length` bytes take."""
    return -(-length // PAGE)


def memory_of(regions: Mapping[str, Region]) -> Region | None:
    """The first is the one that hot pages are of."""
    return next(iter(regions.values()), None)


def _are_hot(hot: npt.NDArray[np.integer[Any]], regions: Mapping[str, Region]) -> bool:
    memory = memory_of(regions)
    pages = 0 if memory is None else len(memory.refs)
    return not len(hot) or bool(hot[-1] < pages and (hot[1:] > hot[:-1]).all())


def _damaged(digest: str, what: str) -> Damaged:
    return Damaged(
        f"manifest {digest} is damaged: {what}",
        hint="The snapshot cannot be restored; restore the file from a copy.",
    )


def _seal(encoded: bytes, layers: list[list[Any]], key: Key) -> bytes:
    listed = json.dumps(layers, separators=(",", ":")).encode()
    salt = new_salt()
    clear = _SEALED_HEADER.pack(SEALED_MAGIC, salt, len(listed)) + listed
    return clear + key.sealer(_PURPOSE, salt).seal(0, encoded, clear)


def _open(data: bytes, digest: str, key: Key | None) -> bytes:
    if key is None:
        raise Damaged(
            f"manifest {digest} is sealed, and there is no key for it",
            hint="Its run's key was destroyed, or is kept elsewhere.",
        )
    clear = _in_the_clear(data, digest)
    _, salt, _ = _SEALED_HEADER.unpack_from(clear)
    try:
        return key.sealer(_PURPOSE, salt).open(0, data[len(clear) :], clear)
    except InvalidTag as error:
        what = "it does not open: it was changed, or its run has another key"
        raise _damaged(digest, what) from error


def _in_the_clear(data: bytes, digest: str) -> bytes:
    """What a sealed manifest begins with: its header and the list of its layers."""
    if len(data) < _SEALED_HEADER.size:
        raise _damaged(digest, f"{len(data)} bytes are too few")
    _, _, length = _SEALED_HEADER.unpack_from(data)
    if length > len(data) - _SEALED_HEADER.size:
        raise _damaged(digest, "it is shorter than its list of layers")
    return data[: _SEALED_HEADER.size + length]


def _body(data: bytes, digest: str) -> bytes:
    if len(data) < _HEADER.size:
        raise _damaged(digest, f"{len(data)} bytes are too few")
    magic, length, check = _HEADER.unpack_from(data)
    if magic not in (MAGIC_1, MAGIC):
        raise _damaged(digest, f"it begins with {magic!r}, not {MAGIC!r}")
    packed = data[_HEADER.size :]
    try:
        # Asked first, because the decompressor allocates what the header says.
        if length > BODY_BYTES_MAX or zstandard.frame_content_size(packed) != length:
            raise _damaged(digest, "its length is wrong")
        body = zstandard.ZstdDecompressor().decompress(packed, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _damaged(digest, f"it does not decompress ({error})") from error
    if xxhash.xxh64_intdigest(body) != check:
        raise _damaged(digest, "it fails its checksum")
    return body


class _Decoder:
    """Reads a body that passed its checksum, trusting nothing in it still (rule 13). Or, as
    `bare_layers`, no more than a list of layers."""

    def __init__(self, digest: str, body: bytes, is_1: bool = False) -> None:
        self._digest = digest
        self._body = body
        self._is_1 = is_1
        self._offset = 0

    def layers(self) -> tuple[LayerRef, ...]:
        return self._layers(self._head())

    def bare_layers(self) -> tuple[LayerRef, ...]:
        return self._layers({"layers": self._json(self._body)})

    def manifest(self) -> Manifest:
        head = self._head()
        layers = self._layers(head)
        regions = {}
        for entry in self._list(head, "regions"):
            region = self._region(entry, layers)
            regions[region.name] = region
        hot = self._column(self._natural(head.get("hot"))).cumsum()
        facts, parent = head.get("facts"), head.get("parent")
        if not _are_hot(hot, regions):
            self._refuse("its hot pages are not sorted pages of its memory")
        if self._offset != len(self._body):
            self._refuse("it is longer than what it says it holds")
        if not isinstance(facts, dict) or not isinstance(parent, str | None):
            self._refuse("its facts or its parent are malformed")
        return Manifest(layers, regions, hot.astype(np.uint32), facts, parent, self._digest)

    def _head(self) -> dict[str, Any]:
        (length,) = _JSON_LENGTH.unpack(self._take(_JSON_LENGTH.size))
        head = self._json(self._take(length))
        if not isinstance(head, dict):
            self._refuse("its head is not a JSON object")
        return head

    def _json(self, text: bytes) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _damaged(self._digest, f"its head is not JSON ({error})") from error

    def _layers(self, head: dict[str, Any]) -> tuple[LayerRef, ...]:
        return tuple(self._layer(entry) for entry in self._list(head, "layers"))

    def _layer(self, entry: Any) -> LayerRef:
        match entry:
            case [("zstd" | "sealed" | "raw") as kind, str(digest), pages] if _DIGEST.fullmatch(
                digest
            ):
                return LayerRef(kind, digest, self._natural(pages))
        raise _damaged(self._digest, f"layer {entry!r} is malformed")

    def _region(self, entry: Any, layers: tuple[LayerRef, ...]) -> Region:
        match entry:
            case [str(name), length, count]:
                length, count = self._natural(length), self._natural(count)
            case _:
                self._refuse(f"region {entry!r} is malformed")
        read = columns.decode_1 if self._is_1 else columns.decode
        ranges = read(count, self._take)
        pages = page_count(length)
        if (ranges.lengths < 1).any() or ranges.gaps.sum() + ranges.lengths.sum() > pages:
            self._refuse(f"the page ranges of region {name} leave it")
        if (ranges.layers < 1).any():
            self._refuse(f"a run of region {name} has no layer")
        sizes = np.array([POSITIONS, *(one.pages for one in layers)])
        for numbers, places in (
            (ranges.layers, ranges.places),
            (ranges.base_layers, ranges.base_places),
        ):
            if (numbers > len(layers)).any() or (places + ranges.lengths > sizes[numbers]).any():
                self._refuse(f"a run of region {name} leaves its layer")
        return Region(name, length, *ranges.expand(pages))

    def _list(self, head: dict[str, Any], key: str) -> list[Any]:
        value = head.get(key)
        if not isinstance(value, list):
            self._refuse(f"its {key} are no list")
        return value

    def _natural(self, value: Any) -> int:
        if type(value) is not int or not 0 <= value <= _REGION_BYTES_MAX:
            self._refuse(f"{value!r} is no size or count")
        return value

    def _column(self, count: int) -> npt.NDArray[np.int64]:
        if self._is_1:
            return np.frombuffer(self._take(count * 4), "<u4").astype(np.int64)
        return columns.from_planes(count, self._take)

    def _take(self, count: int) -> bytes:
        start, self._offset = self._offset, self._offset + count
        if self._offset > len(self._body):
            self._refuse("it is shorter than what it says it holds")
        return self._body[start : self._offset]

    def _refuse(self, what: str) -> NoReturn:
        raise _damaged(self._digest, what)
