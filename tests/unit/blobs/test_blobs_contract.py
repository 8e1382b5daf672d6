"""Every store of blobs keeps the same promises (`contract.py`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.blobs.contract import BlobsContract

from torpor.blobs.local import LocalBlobs
from torpor.blobs.protocol import Blobs
from torpor.testing.fakes.blobs import MemoryBlobs, Shelf


class TestLocalBlobs(BlobsContract):
    @pytest.fixture
    def again(self, tmp_path: Path) -> Callable[[], Blobs]:
        return lambda: LocalBlobs(tmp_path / "blobs")


class TestMemoryBlobs(BlobsContract):
    @pytest.fixture
    def again(self) -> Callable[[], Blobs]:
        shelf = Shelf()
        return lambda: MemoryBlobs(shelf)
