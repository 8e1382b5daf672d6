"""Garbage collection: what no live snapshot reaches goes (rule 12).

    roots (manifests of live snapshots)  ─►  manifests  ─►  layers

Mark is two facts: a manifest is live if it is a root, young, or held; a layer is live if any
manifest *that is there* names it, or it is young or held. So manifests go first, then the
directory is read anew, and only then layers go.

Why nothing that runs beside this loses anything. Blobs of a snapshot that is not recorded yet
are young (every put makes them so, also of names that exist), and held by whatever may take long
to record it. A new manifest names only new layers and layers of its parent; the parent is held
from before it is read until the new one is there. So whichever manifest appears after the
directory was read, its old layers are named by one that was there: itself or an ancestor.

A manifest that is kept and cannot be read might name anything: then no layer goes.

A crash at any point leaves at most garbage: no manifest ever loses a layer before it goes itself.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from torpor.blobs.protocol import Present
from torpor.core.errors import NotFound, TorporError
from torpor.snapshot.store import LAYERS, MANIFESTS, SnapshotStore


@dataclass(frozen=True)
class Swept:
    """What was removed, or would be. `bytes` are its size, `young_bytes` the size of what no root
    reaches but was put lately or is in use, `kept_bytes` that of all else."""

    manifests: tuple[str, ...]
    layers: tuple[str, ...]
    bytes: int
    young_bytes: int
    kept_bytes: int
    problems: tuple[str, ...]


def unreached(present: Iterable[Present], live: Collection[str]) -> list[Present]:
    """Mark, for one kind: those of `present` whose names are not `live`."""
    return [blob for blob in present if blob.name not in live]


def remove(store: SnapshotStore, manifests: Collection[str], roots: Collection[str]) -> None:
    """Remove these manifests, whose run was deleted, and the sealed layers that only they name, at
    once: whoever has not that run's key cannot have put them lately. What is wrong, or in the
    clear, is left to `collect`. Blocks."""
    dead = set(manifests) - set(roots)
    present = {blob.name for blob in store.blobs.present(MANIFESTS)}
    named, problems = _named_by(store, present, roots)
    if problems:
        return
    own = {
        layer.digest
        for name in dead & present
        for layer in store.layers(name)
        if layer.kind == "sealed"
    }
    needed = _all(layers for name, layers in named.items() if name not in dead)
    for kind, names in ((MANIFESTS, dead & present), (LAYERS, own - needed)):
        for name in names:
            store.blobs.delete_unused(kind, name, before=math.inf)


def collect(
    store: SnapshotStore, roots: Collection[str], *, before: float, dry_run: bool = False
) -> Swept:
    """Remove what `roots` do not reach and nobody put since `before` (unix seconds), or only say
    what that is. Blocks. One collection of a store at a time. Raises HostError."""
    unused = store.blobs.is_unused if dry_run else store.blobs.delete_unused

    def sweep(kind: str, unreached: list[Present]) -> dict[str, Present]:
        return {b.name: b for b in unreached if unused(kind, b.name, before=before)}

    dead = unreached(store.blobs.present(MANIFESTS), roots)
    gone = sweep(MANIFESTS, dead)
    there = [b for b in store.blobs.present(MANIFESTS) if not (dry_run and b.name in gone)]
    named, problems = _named_by(store, {*roots, *(blob.name for blob in there)}, roots)
    layers = store.blobs.present(LAYERS)
    removed = {} if problems else sweep(LAYERS, unreached(layers, _all(named.values())))

    left = [*there, *(blob for blob in layers if blob.name not in removed)]
    needed = {*roots, *_all(named[root] for root in roots if root in named)}
    young = [] if problems else unreached(left, needed)
    return Swept(
        manifests=tuple(gone),
        layers=tuple(removed),
        bytes=_bytes(gone.values()) + _bytes(removed.values()),
        young_bytes=_bytes(young),
        kept_bytes=_bytes(left) - _bytes(young),
        problems=tuple(problems),
    )


def _named_by(
    store: SnapshotStore, manifests: Collection[str], roots: Collection[str]
) -> tuple[dict[str, set[str]], list[str]]:
    """The layers that each of these manifests names, and what is wrong with those that could not
    be read."""
    named: dict[str, set[str]] = {}
    problems = []
    for digest in manifests:
        try:
            layers = store.layers(digest)
        except TorporError as error:
            if isinstance(error, NotFound) and digest not in roots:
                continue  # a draft, deleted meanwhile by its maker
            problems.append(f"{error.message}: no layer is removed, for it may name any")
        else:
            named[digest] = {layer.digest for layer in layers if layer.kind != "raw"}
    return named, problems


def _all(sets: Iterable[set[str]]) -> set[str]:
    return set().union(*sets)


def _bytes(blobs: Iterable[Present]) -> int:
    return sum(blob.size for blob in blobs)
