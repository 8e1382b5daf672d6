"""QEMU's command line, as a pure function.

Why what is here is here (all tried on QEMU 7.2):

- `-M microvm` with pit, pic, rtc and isa-serial off restores fastest and has 13 KB of device
  state. Its kernel cannot calibrate the TSC then, so it gets it: `tsc_early_khz`.
- `thread=single,tb-size=64`: one vCPU, and a translation cache that a short resume fills.
- `-cpu Nehalem` under emulation is x86-64-v2 (numpy 2 wants that); models with AVX run slower.
- `init_on_free=1` makes free pages zero, so that they cost nothing in a snapshot.
- `nokaslr`: templates refer to the kernel's pages in the image (torpor.image.kernelmem).
- psi, watchdogs and huge page collection are off: what the kernel does for its own sake when it
  wakes costs an emulated processor as much as what we need from it.
- A balloon device must never be added: it punches holes into the memory file or brings stale
  bytes of it back.
- `-no-reboot`: ROM regions are not restored, a guest that resets would hang.
- Under emulation, a restored machine has a `qtest` channel: a write to guest memory over it is the
  one way to have QEMU drop what it has translated of single pages (`QemuMachine.forget`).
- A restored machine has the same devices in the same order, without kernel and initramfs.
"""

from __future__ import annotations

from pathlib import Path

from torpor.engine.protocol import Files, Shape

MACHINE = "microvm,suppress-vmdesc=on,pit=off,pic=off,rtc=off,isa-serial=off"
CPU = {"tcg": "Nehalem", "kvm": "host,migratable=on"}
ACCEL = {"tcg": "tcg,thread=single,tb-size=64", "kvm": "kvm"}

# obsolete, elevateprivileges, spawn, resourcecontrol: QEMU needs none of them.
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

KERNEL_ARGUMENTS = (
    "reboot=t panic=-1 mitigations=off audit=0 random.trust_cpu=on cryptomgr.notests quiet "
    "init_on_free=1 nokaslr psi=0 tsc=reliable nowatchdog transparent_hugepage=never "
    "torpor.disk=vdb"
)


def command(
    binary: str,
    shape: Shape,
    files: Files,
    *,
    monitor_fd: int,
    link_fd: int,
    memory_fd: int,
    tsc_khz: int | None,
    console: str | None = None,
) -> list[str]:
    """The argument vector. A boot when `files` has a kernel, else an empty machine that waits.

    `monitor_fd`, `link_fd` and `memory_fd` are inherited sockets: no socket files, no polling, and
    the link is open from the first instant. `console` is a file for the kernel's own output: for
    finding faults in an image only, the machine type differs then.
    """
    boots = files.kernel is not None
    argv = [binary, "-nodefaults", "-no-user-config", "-nographic", "-display", "none"]
    argv += ["-no-reboot", "-sandbox", SANDBOX]
    argv += ["-M", f"{shape.machine},memory-backend=m0", "-accel", ACCEL[shape.accel]]
    argv += ["-cpu", shape.cpu, "-smp", "1", "-m", str(shape.memory_mib)]
    argv += [
        "-object",
        f"memory-backend-file,id=m0,size={shape.memory_mib}M,"
        f"mem-path={_escaped(files.memory)},share=off",
    ]
    argv += ["-chardev", f"socket,id=mon,fd={monitor_fd}", "-mon", "chardev=mon,mode=control"]
    argv += ["-device", "virtio-serial-device,id=vs"]
    argv += ["-chardev", f"socket,id=link,fd={link_fd}"]
    argv += ["-device", "virtserialport,chardev=link,name=torpor,nr=1"]
    argv += _disk("root", files.root, readonly=True)
    argv += _disk("disk", files.disk, readonly=False)
    if files.deps is not None:
        argv += _disk("deps", files.deps, readonly=True)
    if boots:
        arguments = KERNEL_ARGUMENTS
        if tsc_khz is not None:
            arguments += f" tsc_early_khz={tsc_khz}"
        if files.deps is not None:
            arguments += " torpor.deps=vdc"
        if console is not None:
            arguments += " console=ttyS0"
            argv += ["-serial", f"file:{console}"]
        argv += ["-kernel", str(files.kernel), "-initrd", str(files.initramfs)]
        argv += ["-append", arguments]
    else:
        if shape.accel == "tcg":
            argv += ["-chardev", f"socket,id=memory,fd={memory_fd}"]
            argv += ["-object", "qtest,id=qtest,chardev=memory,log=none"]
        argv += ["-S", "-incoming", "defer", "-global", "migration.send-configuration=off"]
    return argv


def _disk(name: str, path: Path, *, readonly: bool) -> list[str]:
    # cache=unsafe: a guest's flush need not reach this host's disk, since only a snapshot makes
    # anything durable, and it has its own fsync. Geometry is fixed so that it is never guessed
    # by reading a disk whose content is bound later. werror=enospc: on a full disk the machine
    # stands still, and nothing in it sees an error (`QemuMachine.stalled`).
    mode = "readonly=on" if readonly else "readonly=off,cache=unsafe"
    return [
        "-drive",
        f"if=none,id={name},file={_escaped(path)},format=raw,{mode}",
        "-device",
        f"virtio-blk-device,drive={name},cyls=1024,heads=16,secs=63,werror=enospc",
    ]


def _escaped(path: Path) -> str:
    """A path within an option whose parts commas divide."""
    return str(path).replace(",", ",,")
