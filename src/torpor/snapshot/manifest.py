"""Manifests: one flat map per snapshot, from every page to where its bytes are.

A snapshot has *regions* ("memory", "disk", "device"), each an array of pages. A page's *ref* is
0 for a page of zeros, else `((layer index + 1) << 32) | position`, naming a page of one of the
manifest's layers. A page that differs little from an older one is stored as the XOR of both:
its *base* is then the ref of the older page. A base is itself plain, never an XOR, so any page
is at most two reads away, however many ancestors its snapshot has.

In memory there is one ref and one base per page, in numpy arrays; in a file, runs of pages that
lie side by side in a layer. docs/formats/manifest.md has it byte by byte. `encode` and `decode`
are inverse; a manifest's name is the BLAKE3 of the encoded bytes.

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

from torpor.model.errors import Damaged, InternalError
from torpor.snapshot.layer import PAGE
from torpor.snapshot.seal import SALT_BYTES, Key, new_salt

Refs = npt.NDArray[np.uint64]
Kind = Literal["zstd", "sealed", "raw"]

MAGIC = b"TORPORM1"
SEALED_MAGIC = b"TORPORS1"
# No machine needs more: 64 GiB of memory or disk in runs of one page come to half of it.
BODY_BYTES_MAX = 1 << 30
_HEADER = struct.Struct("<8sQQ")  # magic, length and XXH64 of the body
_JSON_LENGTH = struct.Struct("<I")
_SEALED_HEADER = struct.Struct(f"<8s{SALT_BYTES}sI")  # magic, salt, length of the list of layers
_PURPOSE = b"torpor snapshot 1"
_LEVEL = 1  # 3 saves 5 % and takes twice as long, at each snapshot
_COLUMNS = 6
_POSITION = np.uint64(0xFFFFFFFF)
_LAYER_SHIFT = np.uint64(32)
_POSITIONS = 1 << 32
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
    """A snapshot's content. `hot`: numbers of the memory pages to have ready when the machine
    starts, sorted. `facts`: what the engine needs to know to restore it (JSON). `parent`: the
    digest of the manifest it was built on. `digest`: the name of the bytes it was decoded from,
    None if it was not."""

    layers: tuple[LayerRef, ...]
    regions: Mapping[str, Region]
    hot: npt.NDArray[np.uint32]
    facts: Mapping[str, Any]
    parent: str | None = None
    digest: str | None = None

    def __post_init__(self) -> None:
        if not _are_hot(self.hot, self.regions):
            raise InternalError("hot pages are not sorted, or not pages of the memory")

    def encode(self, key: Key | None = None) -> bytes:
        """The bytes of its file; sealed if there is a key."""
        columns = {name: _to_runs(region) for name, region in self.regions.items()}
        layers = [[layer.kind, layer.digest, layer.pages] for layer in self.layers]
        head = json.dumps(
            {
                "layers": layers,
                "regions": [
                    [name, self.regions[name].length, runs.shape[1]]
                    for name, runs in columns.items()
                ],
                "hot": len(self.hot),
                "facts": self.facts,
                "parent": self.parent,
            },
            separators=(",", ":"),
        ).encode()
        hot = np.diff(self.hot.astype("<u4"), prepend=np.uint32(0)).astype("<u4")
        body = b"".join(
            (
                _JSON_LENGTH.pack(len(head)),
                head,
                *(runs.astype("<u4").tobytes() for runs in columns.values()),
                hot.tobytes(),
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
        return _Decoder(digest, _body(encoded, digest)).manifest()


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


def make_refs(layer: int, positions: npt.NDArray[np.integer[Any]]) -> Refs:
    """Refs of pages at `positions` in the layer with index `layer`."""
    return (np.uint64(layer + 1) << _LAYER_SHIFT) | positions.astype(np.uint64)


def layer_numbers(refs: Refs) -> npt.NDArray[np.int64]:
    """Each ref's layer index + 1; 0 for a page of zeros."""
    return (refs >> _LAYER_SHIFT).astype(np.int64)


def positions(refs: Refs) -> npt.NDArray[np.int64]:
    """Each ref's page number within its layer."""
    return (refs & _POSITION).astype(np.int64)


def renumber(refs: Refs, numbers: npt.NDArray[np.int64]) -> Refs:
    """Refs with layer number n replaced by `numbers[n]`."""
    new = numbers[layer_numbers(refs)].astype(np.uint64)
    return (new << _LAYER_SHIFT) | (refs & _POSITION)


def _are_hot(hot: npt.NDArray[np.integer[Any]], regions: Mapping[str, Region]) -> bool:
    pages = len(regions["memory"].refs) if "memory" in regions else 0
    return not len(hot) or bool(hot[-1] < pages and (hot[1:] > hot[:-1]).all())


def _to_runs(region: Region) -> npt.NDArray[np.uint32]:
    """The region's pages that are not zero as runs, one a column of the (6, runs) array: gap,
    pages, layer, position, base layer, base position, all but `pages` and the layers as
    differences to what would follow the run before.

    Zeros are most of a region, so all but one look at it goes to the rest of it.
    """
    at = np.flatnonzero(region.refs)
    refs, bases = region.refs[at], region.bases[at]
    follows = (np.diff(at) == 1) & (np.diff(refs) == 1)
    follows &= bases[1:] == bases[:-1] + (bases[:-1] != 0)
    starts = np.flatnonzero(np.concatenate((np.ones(min(1, len(at)), bool), ~follows)))
    lengths = np.diff(starts, append=len(at))
    return np.stack(
        [
            _to_differences(at[starts], lengths),
            lengths,
            layer_numbers(refs[starts]),
            _to_differences(positions(refs[starts]), lengths),
            layer_numbers(bases[starts]),
            _to_differences(positions(bases[starts]), lengths),
        ]
    ).astype(np.uint32)


def _from_runs(name: str, length: int, runs: npt.NDArray[np.int64]) -> Region:
    gaps, lengths, layers, places, base_layers, base_places = runs
    refs = np.zeros(page_count(length), np.uint64)
    bases = np.zeros(page_count(length), np.uint64)
    within = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
    at = np.repeat(_from_differences(gaps, lengths), lengths) + within
    first = (layers << 32) | _from_differences(places, lengths)
    refs[at] = (np.repeat(first, lengths) + within).astype(np.uint64)
    if base_layers.any():
        first = (base_layers << 32) | _from_differences(base_places, lengths)
        based = np.repeat(base_layers != 0, lengths)
        bases[at] = ((np.repeat(first, lengths) + within) * based).astype(np.uint64)
    return Region(name, length, refs, bases)


def _to_differences(
    starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Each start less the end of the run before, modulo 2**32: small where runs are in order."""
    ends = np.concatenate((np.zeros(1, np.int64), starts + lengths))[:-1]
    return (starts - ends) & 0xFFFFFFFF


def _from_differences(
    differences: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    before = lengths.cumsum() - lengths
    return np.bitwise_and(differences.cumsum() + before, 0xFFFFFFFF)


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
            hint="Its run's key was destroyed or is kept elsewhere.",
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
    if magic != MAGIC:
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

    def __init__(self, digest: str, body: bytes) -> None:
        self._digest = digest
        self._body = body
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
        hot = self._u32(self._natural(head.get("hot"))).cumsum(dtype=np.int64)
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
        runs = self._u32(count * _COLUMNS).reshape(_COLUMNS, count).astype(np.int64)
        gaps, lengths, layer, places, base, base_places = runs
        if (lengths < 1).any() or gaps.sum() + lengths.sum() > page_count(length):
            self._refuse(f"the runs of region {name} leave it")
        if (layer < 1).any():
            self._refuse(f"a run of region {name} has no layer")
        sizes = np.array([_POSITIONS, *(one.pages for one in layers)])
        for numbers, differences in ((layer, places), (base, base_places)):
            if (numbers > len(layers)).any() or (
                _from_differences(differences, lengths) + lengths > sizes[numbers]
            ).any():
                self._refuse(f"a run of region {name} leaves its layer")
        return _from_runs(name, length, runs)

    def _list(self, head: dict[str, Any], key: str) -> list[Any]:
        value = head.get(key)
        if not isinstance(value, list):
            self._refuse(f"its {key} are no list")
        return value

    def _natural(self, value: Any) -> int:
        if type(value) is not int or not 0 <= value <= _REGION_BYTES_MAX:
            self._refuse(f"{value!r} is no size or count")
        return value

    def _u32(self, count: int) -> npt.NDArray[np.uint32]:
        return np.frombuffer(self._take(count * 4), "<u4")

    def _take(self, count: int) -> bytes:
        start, self._offset = self._offset, self._offset + count
        if self._offset > len(self._body):
            self._refuse("it is shorter than what it says it holds")
        return self._body[start : self._offset]

    def _refuse(self, what: str) -> NoReturn:
        raise _damaged(self._digest, what)
