"""What this host can do, which engine it would use, and why. Needs no server and builds nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torpor.control.engines import choose
from torpor.engine.qemu.probe import KVM_DEVICE, find_qemu, host_tsc_khz, probe
from torpor.image.build import open_image
from torpor.model.engines import NOT_ISOLATED, PROCESS
from torpor.model.errors import TorporError
from torpor.model.home import Home
from torpor.pager.launch import require_fuse

FREE_DISK_MIN = 2 << 30
_BUILDERS = ("mmdebstrap", "mkfs.erofs", "mkfs.ext4", "dpkg-deb")


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report. `ok` is None for what is only told."""

    name: str
    ok: bool | None
    detail: str
    hint: str = ""


def checks(home: Home) -> list[Check]:
    """All checks, in the order in which a person would mend them."""
    return [
        _engine(),
        _attempt("QEMU", lambda: "{} {}".format(*find_qemu())),
        _attempt("FUSE", _fuse),
        *_builders(),
        *_accelerator(home),
        _disk(home),
        *_host_key(home),
        Check("cores and memory", None, f"{os.cpu_count()} cores, {_memory_gib():.1f} GiB"),
    ]


def can_run(found: list[Check]) -> bool:
    """Whether the engine that would be used is usable: what decides the exit code."""
    process = any(check.name == "engine" and check.ok is None for check in found)
    return process or all(check.ok for check in found if check.name in ("engine", "QEMU", "FUSE"))


def _engine() -> Check:
    try:
        choice = choose()
    except TorporError as error:
        return Check("engine", False, error.message, error.hint)
    if choice.engine == PROCESS:
        return Check("engine", None, f"{PROCESS}: {choice.why}; {NOT_ISOLATED}")
    return Check("engine", True, f"{choice.engine}: {choice.why}")


def _attempt(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except TorporError as error:
        return Check(name, False, error.message, error.hint)


def _fuse() -> str:
    require_fuse()
    return "/dev/fuse opens, fusermount3 is here"


def _builders() -> Iterator[Check]:
    # Debian keeps some of them where an ordinary user's PATH does not look.
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    needed = _BUILDERS if os.geteuid() == 0 else (*_BUILDERS, "newuidmap")
    missing = [name for name in needed if shutil.which(name, path=path) is None]
    if missing:
        hint = "apt-get install mmdebstrap erofs-utils e2fsprogs debian-archive-keyring"
        hint += "" if os.geteuid() == 0 else " uidmap, and a line for this user in /etc/subuid"
        yield Check("image tools", False, f"absent: {', '.join(missing)}", hint)
    else:
        yield Check("image tools", True, "mmdebstrap, erofs-utils, e2fsprogs")


def _accelerator(home: Home) -> Iterator[Check]:
    images = sorted(home.images.iterdir(), key=_age) if home.images.is_dir() else []
    built = [path for path in images if (path / "vmlinuz").is_file()]
    if not built:
        yield Check("guest image", None, "not built yet; the first deploy builds it (a minute)")
        state = "exists" if KVM_DEVICE.exists() else "is absent"
        yield Check("acceleration", None, f"{KVM_DEVICE} {state}; probed once there is an image")
    else:
        image = open_image(home, built[-1].name)
        yield Check("guest image", True, f"{image.digest} in {image.directory}")
        yield _attempt(
            "acceleration", lambda: probe(image.kernel, image.initramfs, home.create().cache).why
        )
    khz = host_tsc_khz()
    if khz is None:
        hint = "Emulated machines may not boot here; KVM is not affected."
        yield Check("time stamp counter", False, "its rate is not constant", hint)
    else:
        yield Check("time stamp counter", True, f"{khz / 1000:.0f} MHz, constant")


def _disk(home: Home) -> Check:
    place = next(path for path in (home.root, *home.root.parents) if path.exists())
    free = shutil.disk_usage(place).free
    detail = f"{free / (1 << 30):.1f} GiB free at {home.root}"
    hint = "" if free >= FREE_DISK_MIN else "Building the image takes about 1 GiB for a while."
    return Check("disk", free >= FREE_DISK_MIN, detail, hint)


def _host_key(home: Home) -> Iterator[Check]:
    if home.host_key.exists():
        detail = f"all snapshots of runs need {home.host_key}: keep a copy apart from them"
        yield Check("encryption", None, detail)


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
