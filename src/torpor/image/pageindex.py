"""The index of an image's pages, beside the image: built once, and kept in its directory."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from torpor.core.errors import Invalid
from torpor.image.build import Image
from torpor.image.publish import Workspace, build_once
from torpor.snapshot.baselines import ImageIndex, build_index

log = logging.getLogger(__name__)


def ensure_index(image: Image) -> ImageIndex:
    """Blocks. Raises Exhausted, HostError."""

    def make(workspace: Workspace) -> Path:
        table = workspace.directory / "pages.npy"
        np.save(table, build_index(image.root))
        return table

    def damage(table: Path) -> str:
        try:
            ImageIndex.open(image.digest, image.root, table)
        except (ValueError, EOFError, LookupError, Invalid) as error:
            return f"the index of its pages is damaged: {error}"
        return ""

    table = build_once(image.directory / "pages.npy", make, damage=damage, damaged=log.warning)
    return ImageIndex.open(image.digest, image.root, table)
