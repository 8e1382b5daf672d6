from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.control.world import World

from torpor.control import obstacles, pen, scheduler
from torpor.control.onmachines import MachineCarriers
from torpor.model.home import Home
from torpor.policy import freeze


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for that is only there to be patient, and nothing is found by chance."""
    terms = replace(freeze.MACHINE, grace_s=0.0, worth_s=0.0)
    monkeypatch.setattr(MachineCarriers, "terms", terms)
    monkeypatch.setattr(obstacles, "FREEZE_RETRY_S", 0.0)
    monkeypatch.setattr(pen, "DISK_FULL_RETRY_S", 0.0)
    monkeypatch.setattr(scheduler, "HOST_RETRY_S", (0.0,) * 3)
    monkeypatch.setattr(scheduler, "SAFETY_NET_S", 3600.0)


@pytest.fixture
async def world(tmp_path: Path, quick: None, anyio_backend: str) -> AsyncIterator[World]:
    async with World(Home(tmp_path)) as world:
        yield world
