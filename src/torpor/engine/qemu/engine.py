"""The engine: boots machines, prepares empty ones that wait for a snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torpor.engine.capabilities import EMULATION
from torpor.engine.protocol import Files, Shape
from torpor.engine.qemu import NAME
from torpor.engine.qemu.command import CPU, MACHINE, command
from torpor.engine.qemu.machine import QemuMachine
from torpor.engine.qemu.probe import Probe


@dataclass(frozen=True)
class QemuEngine:
    """See `torpor.engine.protocol.Engine`."""

    probe: Probe

    @property
    def name(self) -> str:
        return NAME

    @property
    def accel(self) -> str:
        return self.probe.accel

    @property
    def why(self) -> str:
        return self.probe.why

    @property
    def learns(self) -> bool:
        return self.probe.accel == EMULATION

    def shape(self, *, memory_mib: int, disk_mib: int, image: str, deps: str) -> Shape:
        return Shape(
            engine=NAME,
            engine_version=self.probe.version,
            accel=self.probe.accel,
            cpu=CPU[self.probe.accel],
            machine=MACHINE,
            memory_mib=memory_mib,
            disk_mib=disk_mib,
            image=image,
            deps=deps,
        )

    async def start(self, shape: Shape, files: Files, directory: Path) -> QemuMachine:
        def argv(monitor_fd: int, link_fd: int, memory_fd: int) -> list[str]:
            return command(
                self.probe.binary,
                shape,
                files,
                monitor_fd=monitor_fd,
                link_fd=link_fd,
                memory_fd=memory_fd,
                tsc_khz=self.probe.tsc_khz,
            )

        return await QemuMachine.start(argv, directory, files.memory, shape.memory_mib << 20)
