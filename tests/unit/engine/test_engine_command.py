"""QEMU's command line, word by word."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from torpor.core.errors import Unfit
from torpor.engine.protocol import Files, Shape
from torpor.engine.qemu.command import CPU, KERNEL_ARGUMENTS, MACHINE, SANDBOX, command

SHAPE = Shape("qemu", "7.2.22", "tcg", CPU["tcg"], MACHINE, 512, 2048, "image", "")
RESTORED = Files(Path("/m/memory"), Path("/m/disk"), Path("/i/root.erofs"), None)
BOOTED = replace(RESTORED, kernel=Path("/i/vmlinuz"), initramfs=Path("/i/initramfs"))

COMMON = [
    *("/usr/bin/qemu", "-nodefaults", "-no-user-config", "-nographic", "-display", "none"),
    *("-no-reboot", "-sandbox", SANDBOX),
    *("-M", f"{MACHINE},memory-backend=m0", "-accel", "tcg,thread=single,tb-size=64"),
    *("-cpu", "Nehalem", "-smp", "1", "-m", "512"),
    "-object",
    "memory-backend-file,id=m0,size=512M,mem-path=/m/memory,share=off",
    *("-chardev", "socket,id=mon,fd=7", "-mon", "chardev=mon,mode=control"),
    *("-device", "virtio-serial-device,id=vs", "-chardev", "socket,id=link,fd=8"),
    *("-device", "virtserialport,chardev=link,name=torpor,nr=1"),
    *("-drive", "if=none,id=root,file=/i/root.erofs,format=raw,readonly=on"),
    *("-device", "virtio-blk-device,drive=root,cyls=1024,heads=16,secs=63,werror=enospc"),
    *("-drive", "if=none,id=disk,file=/m/disk,format=raw,readonly=off,cache=unsafe"),
    *("-device", "virtio-blk-device,drive=disk,cyls=1024,heads=16,secs=63,werror=enospc"),
]
MEMORY = ["-chardev", "socket,id=memory,fd=9"]
MEMORY += ["-object", "qtest,id=qtest,chardev=memory,log=none"]
STANDS = ["-S", "-incoming", "defer", "-global", "migration.send-configuration=off"]
WAITS = MEMORY + STANDS
DEPS = [
    *("-drive", "if=none,id=deps,file=/d/deps.erofs,format=raw,readonly=on"),
    *("-device", "virtio-blk-device,drive=deps,cyls=1024,heads=16,secs=63,werror=enospc"),
]


def boots(arguments: str) -> list[str]:
    return ["-kernel", "/i/vmlinuz", "-initrd", "/i/initramfs", "-append", arguments]


def argv(files: Files, shape: Shape = SHAPE, **options: Any) -> list[str]:
    options = {"monitor_fd": 7, "link_fd": 8, "memory_fd": 9, "tsc_khz": None} | options
    return command("/usr/bin/qemu", shape, files, **options)


def test_an_empty_machine() -> None:
    assert argv(RESTORED) == COMMON + WAITS
    # What is restored knows its counter's rate already.
    assert argv(RESTORED, tsc_khz=2_000_000) == COMMON + WAITS


def test_a_boot() -> None:
    assert argv(BOOTED) == COMMON + boots(KERNEL_ARGUMENTS)
    told = f"{KERNEL_ARGUMENTS} tsc_early_khz=2000000"
    assert argv(BOOTED, tsc_khz=2_000_000) == COMMON + boots(told)


def test_dependencies_are_the_third_disk() -> None:
    deps = Path("/d/deps.erofs")
    assert argv(replace(RESTORED, deps=deps)) == COMMON + DEPS + WAITS
    told = f"{KERNEL_ARGUMENTS} torpor.deps=vdc"
    assert argv(replace(BOOTED, deps=deps)) == COMMON + DEPS + boots(told)


def test_a_console() -> None:
    told = [*COMMON, "-serial", "file:/c", *boots(f"{KERNEL_ARGUMENTS} console=ttyS0")]
    assert argv(BOOTED, console="/c") == told


def test_kvm() -> None:
    kvm = argv(RESTORED, replace(SHAPE, accel="kvm", cpu=CPU["kvm"]))
    assert kvm[kvm.index("-accel") + 1] == "kvm"
    assert kvm[kvm.index("-cpu") + 1] == "host,migratable=on"
    assert kvm[-len(STANDS) :] == STANDS and not [word for word in kvm if "qtest" in word]


def test_a_restored_machine_has_the_devices_of_the_booted_one_in_the_same_order() -> None:
    def devices(files: Files) -> list[str]:
        words = argv(replace(files, deps=Path("/d")))
        return [word for option, word in itertools.pairwise(words) if option == "-device"]

    assert devices(RESTORED) == devices(BOOTED)


def test_nothing_that_brings_stale_memory_back() -> None:
    for files in (RESTORED, BOOTED):
        assert not [word for word in argv(files) if "balloon" in word]
        assert "share=off" in argv(files)[argv(files).index("-object") + 1]


def test_commas_in_paths() -> None:
    files = Files(Path("/a,b/m"), Path("/a,b/d"), Path("/a,b/r"), Path("/a,b/e"))
    words = " ".join(argv(files))
    for part in ("mem-path=/a,,b/m,share", *(f"file=/a,,b/{name},format" for name in "dre")):
        assert part in words


def test_a_snapshot_of_another_host_is_refused_with_the_reasons() -> None:
    SHAPE.require_equal(SHAPE.facts() | {"more": 1})
    with pytest.raises(Unfit) as refused:
        SHAPE.require_equal(SHAPE.facts() | {"accel": "kvm", "engine_version": "9.0"})
    assert refused.value.message == (
        "it was taken with qemu 9.0, accelerator kvm; this host has qemu 7.2.22, accelerator tcg"
    )
    with pytest.raises(Unfit, match="taken with CPU model unknown; this host has CPU model"):
        SHAPE.require_equal({key: value for key, value in SHAPE.facts().items() if key != "cpu"})
