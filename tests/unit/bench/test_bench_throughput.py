"""Capture is measured beside zstd on the same bytes, sealed or not, and leaves nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from torpor.bench import throughput
from torpor.snapshot.layer import PAGE
from torpor.snapshot.seal import Key


@pytest.mark.parametrize("key", [None, Key.new()], ids=["clear", "sealed"])
def test_capture_is_measured_and_leaves_nothing(tmp_path: Path, key: Key | None) -> None:
    if shutil.which("zstd") is None:
        pytest.skip("there is no zstd to compare with")
    pages = np.random.default_rng(1).integers(0, 256, (200, PAGE), np.uint8)
    rates = throughput.capture(pages, tmp_path, key)
    assert rates.ours > 0
    assert rates.peer > 0
    assert list(tmp_path.iterdir()) == []
