"""Whether a snapshot can be restored on this host: it takes an engine of the version that took it,
the same kind of processor, and its image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torpor.core.errors import Unfit
from torpor.core.home import Home
from torpor.engine.protocol import Engine, Shape
from torpor.image.build import Image
from torpor.snapshot.manifest import Manifest
from torpor.snapshot.store import SnapshotStore


class Fit:
    def __init__(self, home: Home, store: SnapshotStore, engine: Engine, image: Image) -> None:
        self.image = image
        self._home, self._store, self._engine = home, store, engine
        self._facts: dict[str, dict[str, Any]] = {}  # of templates, by manifest

    def shape_of(self, manifest: Manifest) -> Shape:
        """The shape of the machine that it is of. Raises Unfit, HostError."""
        return self._like(manifest.facts["shape"])

    def obstacle(self, template: str) -> str:
        """What keeps a snapshot in the clear from being restored on this host; "" if nothing does
        that its manifest tells. Raises Damaged, NotFound, HostError."""
        try:
            self._like(self.facts_of(template)["shape"])
        except Unfit as unfit:
            return unfit.message
        return ""

    def facts_of(self, template: str) -> dict[str, Any]:
        """What the manifest of a snapshot in the clear tells. Raises Damaged, NotFound."""
        if template not in self._facts:
            self._facts[template] = dict(self._store.load(template).facts)
        return self._facts[template]

    def require_image(self, shape: Shape) -> None:
        """Raises Unfit unless the image that a snapshot refers to is here."""
        name = Path(shape.image).name  # what came with an export may name anything
        if name != shape.image or not (self._home.images / name / "root.erofs").is_file():
            raise Unfit(
                f"it needs the guest image {shape.image}, which is not here and "
                f"which this version of torpor cannot build: it builds {self.image.digest}",
                hint="Use the version of torpor that made it, or copy that image's directory "
                f"to {self._home.images}.",
            )

    def _like(self, facts: dict[str, Any]) -> Shape:
        """The shape that this host's engine gives what `facts` ask for, if that is all of them."""
        given = ("memory_mib", "disk_mib", "image", "deps")
        shape = self._engine.shape(**{name: facts[name] for name in given})
        shape.require_equal(facts)
        if shape.image != self.image.digest:  # its own is built again where it was lost
            self.require_image(shape)
        return shape
