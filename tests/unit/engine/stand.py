"""Files that real QEMU processes of machines without a kernel can stand on."""

from __future__ import annotations

from pathlib import Path

import pytest

from torpor.core.errors import Missing
from torpor.engine.protocol import Files, Machine, Shape
from torpor.engine.qemu.command import CPU, MACHINE, command
from torpor.engine.qemu.machine import ArgvFor, QemuMachine
from torpor.engine.qemu.probe import find_qemu

MIB = 64

try:
    BINARY, VERSION = find_qemu()
except Missing as missing:
    pytest.skip(missing.message, allow_module_level=True)

SHAPE = Shape("qemu", VERSION, "tcg", CPU["tcg"], MACHINE, MIB, 1, "", "")


class Stand:
    """Files a machine can stand on, in a directory whose name QEMU could misread."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "a, b=c"
        self.directory.mkdir()
        memory, disk, root = (self.directory / name for name in ("memory", "disk", "root"))
        self.files = Files(memory, disk, root, None)
        for path, size in ((self.files.memory, MIB << 20), (self.files.disk, 1 << 20)):
            with path.open("wb") as file:
                file.truncate(size)
        self.files.root.write_bytes(bytes(1 << 20))
        self.started: list[Machine] = []

    def argv(self, *words: str, without: tuple[str, ...] = ()) -> ArgvFor:
        def argv_for(monitor_fd: int, link_fd: int, memory_fd: int) -> list[str]:
            argv = command(
                BINARY,
                SHAPE,
                self.files,
                monitor_fd=monitor_fd,
                link_fd=link_fd,
                memory_fd=memory_fd,
                tsc_khz=None,
            )
            return [word for word in argv if word not in without] + list(words)

        return argv_for

    async def start(self, argv_for: ArgvFor) -> QemuMachine:
        machine = await QemuMachine.start(
            argv_for, self.directory, self.files.memory, SHAPE.memory_mib << 20
        )
        self.started.append(machine)
        return machine

    async def empty(self) -> QemuMachine:
        return await self.start(self.argv())

    async def paused(self) -> QemuMachine:
        """One that has a state, of before its first instruction."""
        return await self.start(self.argv(without=("-incoming", "defer")))
