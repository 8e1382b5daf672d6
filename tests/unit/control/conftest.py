from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.control.plain import Plain
from tests.unit.control.world import World

from torpor.control.scheduler import scheduler
from torpor.core.home import Home
from torpor.policy import freeze
from torpor.worker import obstacles, pen
from torpor.worker.onmachines import MachineCarriers
from torpor.worker.onprocesses import ProcessCarriers


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


@pytest.fixture
async def plain(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Plain]:
    plain = Plain(tmp_path / "home")
    await plain.start()
    yield plain
    await plain.close()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without a machine that waits is suspended at once."""
    terms = replace(freeze.PROCESS, grace_s=0.0, worth_s=0.0)
    monkeypatch.setattr(ProcessCarriers, "terms", terms)
    monkeypatch.setattr(obstacles, "FREEZE_RETRY_S", 0.0)
