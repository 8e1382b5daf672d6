from __future__ import annotations

from tests.unit.control.conftest import anyio_backend, world

__all__ = ["anyio_backend", "world"]
