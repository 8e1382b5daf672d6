"""The engine that tests play (`torpor.testing.fakes.machines`) keeps the contract, too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.unit.engine.contract import *  # noqa: F403

from torpor.engine.protocol import Files, Machine
from torpor.testing.fakes.machines import PlayedEngine, PlayedMachine

pytestmark = pytest.mark.anyio


@dataclass
class Quiet:
    """Surroundings in which nothing happens."""

    machines_started: list[PlayedMachine] = field(default_factory=list)
    let: set[str] = field(default_factory=set)
    lagging: bool = False
    timers: list[float] = field(default_factory=list)
    disk_full: bool = False
    engine_version: str = "1"

    async def at(self, point: str) -> None: ...

    def report(self, what: str, op: str) -> None: ...

    def refuses(self, t: str) -> bool:
        return False


class Played:
    def __init__(self, directory: Path) -> None:
        self.surroundings = Quiet()
        self.engine = PlayedEngine(self.surroundings)
        self._directory = directory

    async def _start(self, kernel: Path | None) -> Machine:
        shape = self.engine.shape(memory_mib=64, disk_mib=1, image="", deps="")
        here = self._directory
        files = Files(here / "memory", here / "disk", here / "root", None, kernel)
        return await self.engine.start(shape, files, here)

    async def empty(self) -> Machine:
        return await self._start(None)

    async def running(self) -> Machine:
        return await self._start(self._directory / "kernel")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def bench(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Played]:
    played = Played(tmp_path)
    yield played
    for machine in played.surroundings.machines_started:
        await machine.kill()
