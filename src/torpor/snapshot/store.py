"""Snapshots on the disk: layers and manifests, each under the BLAKE3 of its bytes.

Snapshots of runs are sealed: a `key` is needed to put and to read them, not to list, size or
collect them, nor to tell whether their bytes are those that were written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from torpor.blobs.protocol import Blob, Blobs, Draft
from torpor.core.errors import Damaged, NotFound, TorporError
from torpor.snapshot.build import Built
from torpor.snapshot.layer import LayerReader, RawReader, SealedReader
from torpor.snapshot.manifest import LayerRef, Manifest, is_sealed, read_layers
from torpor.snapshot.reader import FrameCache, PageReader
from torpor.snapshot.seal import Key

LAYERS = "layers"
MANIFESTS = "manifests"
_FRAMES_SHOWN = 8


@dataclass(frozen=True)
class Stored:
    """What `put` stored. `bytes` is what the snapshot added to the disk."""

    manifest_digest: str
    layer_digest: str | None
    bytes: int


class SnapshotStore:
    """Snapshots in `blobs`. `resolve_image` says where the root file system of an image,
    given by its digest, is. Thread-safe."""

    def __init__(self, blobs: Blobs, resolve_image: Callable[[str], Path]) -> None:
        self.blobs = blobs
        self._resolve_image = resolve_image

    def put(self, built: Built, key: Key | None = None) -> Stored:
        """Store a snapshot durably: rule 5's first half, to be done before it is recorded.
        `key` is the one that it was built with; it seals the manifest.

        The layer is brought to the disk while the manifest is encoded, both are fsynced side by
        side, and the manifest gets its name last. Raises Exhausted if the disk is full, and then
        leaves nothing behind.
        """
        stored: list[Blob] = []

        def blobs() -> Iterator[Blob]:
            if built.layer is not None:
                layer = built.layer
                stored.append(Blob(LAYERS, layer.digest, layer.draft or layer.chunks))
                yield stored[-1]
            encoded = built.manifest.encode(key)
            stored.append(Blob(MANIFESTS, blake3(encoded).hexdigest(), (encoded,)))
            yield stored[-1]

        self.blobs.put_all(blobs())
        return Stored(
            manifest_digest=stored[-1].name,
            layer_digest=built.layer.digest if built.layer else None,
            bytes=sum(blob.size for blob in stored),
        )

    def draft(self) -> AbstractContextManager[Draft]:
        """What a layer can be built into, to be put inside: it is never in memory as a whole."""
        return self.blobs.draft()

    def load(self, manifest_digest: str, key: Key | None = None) -> Manifest:
        """The manifest, verified. Raises NotFound or Damaged."""
        return Manifest.decode(self.manifest_bytes(manifest_digest), key)

    def layers(self, manifest_digest: str) -> tuple[LayerRef, ...]:
        """The layers of a manifest, quicker than `load`. Raises NotFound or Damaged."""
        return read_layers(self.manifest_bytes(manifest_digest))

    def manifest_bytes(self, manifest_digest: str) -> bytes:
        """A manifest as it is stored; its name fits. Raises NotFound or Damaged."""
        data = self.blobs.get(MANIFESTS, manifest_digest)
        if blake3(data).hexdigest() != manifest_digest:
            raise Damaged(
                f"manifest {manifest_digest} is damaged: its bytes do not match its name",
                hint="The snapshot cannot be restored; restore the file from a copy.",
            )
        return data

    def manifests(self) -> list[str]:
        """The digests of all manifests there are."""
        return [blob.name for blob in self.blobs.present(MANIFESTS)]

    def held(self, manifest_digest: str) -> AbstractContextManager[None]:
        """Inside, garbage collection leaves the snapshot and all it reaches alone (rule 12)."""
        return self.blobs.held(MANIFESTS, [manifest_digest])

    def reader(self, manifest: Manifest, cache: FrameCache, key: Key | None = None) -> PageReader:
        return PageReader(manifest, self.layer_path, cache=cache, key=key)

    def layer_path(self, layer: LayerRef) -> Path:
        """A file of this host with a manifest's layer. Raises Damaged if there is none."""
        if layer.kind == "raw":
            return self._resolve_image(layer.digest)
        try:
            return self.blobs.materialize(LAYERS, layer.digest)
        except NotFound as error:
            raise Damaged(
                f"layer {layer.digest} cannot be opened: {error.message}",
                hint="Snapshots that need it cannot be restored; restore the file from a copy.",
            ) from error

    def verify(self, manifest_digest: str, key: Key | None = None) -> list[str]:
        """Read all that a snapshot needs; what is wrong with it, a line each. Slow: every byte
        of its layers is hashed. Images are only looked at for size. Of a sealed one without its
        key, the bytes are still verified, but not that anybody can open them."""
        try:
            data = self.manifest_bytes(manifest_digest)
            layers = read_layers(data)
            if key is not None or not is_sealed(data):
                Manifest.decode(data, key)
        except TorporError as error:
            return [error.message]
        problems = (self.verify_layer(layer, key) for layer in layers)
        return [problem for problem in problems if problem]

    def delete_layer(self, digest: str) -> None:
        self.blobs.delete(LAYERS, digest)

    def delete_manifest(self, digest: str) -> None:
        self.blobs.delete(MANIFESTS, digest)

    def size(self, manifest_digest: str) -> int:
        """Bytes on the disk of a snapshot's manifest and all its layers, which it may share with
        others; images are not counted. Raises NotFound or Damaged."""
        layers = self.layers(manifest_digest)
        blobs = {(LAYERS, layer.digest) for layer in layers if layer.kind != "raw"}
        blobs.add((MANIFESTS, manifest_digest))
        return sum(self.blobs.size(*blob) or 0 for blob in blobs)

    def verify_layer(self, layer: LayerRef, key: Key | None = None) -> str | None:
        """What is wrong with a layer's file, with its frames if some of them are it."""
        try:
            path = self.layer_path(layer)
            if layer.kind == "raw":
                pages = RawReader(path).pages
            else:
                sealed = layer.kind == "sealed"
                reader = SealedReader(path, key) if sealed else LayerReader(path)
                pages = reader.pages
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, blake3).hexdigest()  # type: ignore[arg-type]
                if digest != layer.digest:
                    bad = [] if sealed and key is None else _bad_frames(reader)
                    return f"layer {layer.digest} is damaged: {_damage(reader, bad, digest)}"
        except TorporError as error:
            return error.message
        except OSError as error:
            return f"layer {layer.digest} cannot be read: {error.strerror}"
        if pages != layer.pages:
            return f"layer {layer.digest} is damaged: it has {pages} pages, not {layer.pages}"
        return None


def _bad_frames(reader: LayerReader | SealedReader) -> list[int]:
    bad = []
    for number in range(reader.frames):
        try:
            reader.frame(number)
        except Damaged:
            bad.append(number)
    return bad


def _damage(reader: LayerReader | SealedReader, bad: list[int], digest: str) -> str:
    """What is wrong with a layer whose bytes have this other digest."""
    if not bad:  # a byte that no frame's content depends on, or nobody can tell
        return f"its bytes have digest {digest}"
    shown = ", ".join(map(str, bad[:_FRAMES_SHOWN])) + " …" * (len(bad) > _FRAMES_SHOWN)
    return f"{len(bad)} of its {reader.frames} frames cannot be read ({shown})"
