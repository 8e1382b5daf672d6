"""What the engine `qemu` says of the host. See `torpor.engine.host.HostPart`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torpor.core.checks import Check
from torpor.engine.capabilities import EMULATED, FASTER
from torpor.engine.host import Boot, Need
from torpor.engine.qemu.engine import QemuEngine
from torpor.engine.qemu.probe import KVM_DEVICE, find_qemu, host_tsc_khz, probe

NEEDS = (Need("QEMU", lambda: "{} {}".format(*find_qemu())),)


def open_engine(boot: Boot, cache: Path) -> QemuEngine:
    return QemuEngine(probe(boot.kernel, boot.initramfs, cache))


def before_probe() -> Iterator[Check]:
    if KVM_DEVICE.exists():
        detail = f"{KVM_DEVICE} exists; probed once there is an image"
    else:
        detail = f"emulation: there is no {KVM_DEVICE}; {EMULATED}"
    yield Check("acceleration", None, detail, "" if KVM_DEVICE.exists() else FASTER)


def remarks() -> Iterator[Check]:
    khz = host_tsc_khz()
    if khz is None:
        hint = "Emulated machines may not boot here; KVM is not affected."
        yield Check("time stamp counter", False, "its rate is not constant", hint)
    else:
        yield Check("time stamp counter", True, f"{khz / 1000:.0f} MHz, constant")
