"""The engine: boots machines, prepares empty ones that wait for a snapshot."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from torpor.engine import registry
from torpor.engine.capabilities import EMULATION, Capabilities
from torpor.engine.protocol import Files, Regions, Shape
from torpor.engine.qemu import NAME
from torpor.engine.qemu.command import CPU, MACHINE, command
from torpor.engine.qemu.machine import QemuMachine
from torpor.engine.qemu.probe import Probe, find_qemu


@dataclass
class QemuEngine:
    """See `torpor.engine.protocol.Engine`."""

    probe: Probe
    _file: tuple[int, ...] | None = field(init=False)  # what was probed

    def __post_init__(self) -> None:
        self._file = _identity(self.probe.binary)

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
    def capabilities(self) -> Capabilities:
        return registry.get(NAME).capabilities

    @property
    def regions(self) -> Regions:
        return Regions(memory="memory", disk="disk", state="device")

    @property
    def learns(self) -> bool:
        return self.probe.accel == EMULATION

    def shape(self, *, memory_mib: int, disk_mib: int, image: str, deps: str) -> Shape:
        """Raises Missing: an upgrade has just removed the program."""
        return Shape(
            engine=NAME,
            engine_version=self._version(),
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

    def _version(self) -> str:
        """Of the program as it is now: the host may be upgraded under a server that runs."""
        file = _identity(self.probe.binary)
        if file != self._file:
            _, version = find_qemu()
            self.probe, self._file = replace(self.probe, version=version), file
        return self.probe.version


def _identity(binary: str) -> tuple[int, ...] | None:
    try:
        found = Path(binary).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
