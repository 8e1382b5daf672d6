"""Homes short enough for the path of a Unix socket, which pytest's own are not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from torpor.control.engines import Engines
from torpor.core.home import Home
from torpor.testing.fakes.service import close_stores


@pytest.fixture
def home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="torpor-") as folder:
        yield Home(Path(folder))
        close_stores()


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are created, and nothing carries them."""
    monkeypatch.setattr(Engines, "ready_soon", lambda self, engine: None)
