"""The engine `qemu` keeps the contract: real QEMU processes, of machines without a kernel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.engine.contract import *  # noqa: F403
from tests.unit.engine.stand import BINARY, MIB, VERSION, Stand

from torpor.engine.protocol import Machine
from torpor.engine.qemu.engine import QemuEngine
from torpor.engine.qemu.probe import Probe

pytestmark = pytest.mark.anyio


class Real:
    def __init__(self, directory: Path) -> None:
        self.engine = QemuEngine(Probe(BINARY, VERSION, "tcg", "", None))
        self._directory = directory
        self.stands: list[Stand] = []

    def _stand(self) -> Stand:
        directory = self._directory / str(len(self.stands))
        directory.mkdir()
        self.stands.append(Stand(directory))
        return self.stands[-1]

    async def empty(self) -> Machine:
        stand = self._stand()
        shape = self.engine.shape(memory_mib=MIB, disk_mib=1, image="", deps="")
        machine = await self.engine.start(shape, stand.files, stand.directory)
        stand.started.append(machine)
        return machine

    async def running(self) -> Machine:
        machine = await self._stand().paused()
        await machine.resume()
        return machine


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def bench(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Real]:
    real = Real(tmp_path)
    yield real
    for stand in real.stands:
        for machine in stand.started:
            await machine.kill()
