"""What this host can do, which engine it would use, and why. Needs no server and builds nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from torpor.control.engines import choose
from torpor.core.engines import EMULATED, EMULATION, NOT_ISOLATED, PROCESS
from torpor.core.errors import TorporError
from torpor.core.home import Home
from torpor.engine.qemu.probe import KVM_DEVICE, find_qemu, host_tsc_khz, probe
from torpor.image.build import Image, image_damage, open_image
from torpor.image.deps import layer_damage
from torpor.pager.launch import require_fuse
from torpor.setup.checks import attempt, debian_packages, subordinate_ids
from torpor.setup.system import Check

FREE_DISK_MIN = 2 << 30
FASTER = (
    "Waiting, model calls, freezing and waking do not. For agents that compute much: a host with "
    "KVM, or --engine process for agents that you trust; `torpor bench computing` measures it."
)


def checks(home: Home) -> list[Check]:
    """All checks, in the order in which a person would mend them."""
    return [
        _engine(),
        attempt("QEMU", lambda: "{} {}".format(*find_qemu())),
        attempt("FUSE", _fuse),
        debian_packages(),
        *subordinate_ids(),
        *_images(home),
        *_time_stamps(),
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


def _fuse() -> str:
    require_fuse()
    return "/dev/fuse opens, fusermount3 is here"


def _images(home: Home) -> Iterator[Check]:
    """The newest image that is whole, and what is damaged."""
    built = _built(home.images)
    whole: Image | None = None
    for path in built:
        if wrong := image_damage(path):
            hint = (
                "The next deployment makes the image of this version of torpor anew; what was made "
                "with another has to be deployed again."
            )
            yield Check("guest image", False, f"{wrong}: {path}", hint)
        else:
            whole = open_image(home, path.name)
    for path in _built(home.deps):
        if wrong := layer_damage(path):
            hint = "The next deployment of an agent with these dependencies installs them anew."
            yield Check("dependencies", False, f"{wrong}: {path}", hint)
    if whole is None:
        if not built:
            built_soon = "not built yet; the first deployment builds it (a minute)"
            yield Check("guest image", None, built_soon)
        if KVM_DEVICE.exists():
            yield Check("acceleration", None, f"{KVM_DEVICE} exists; probed once there is an image")
        else:
            absent = f"emulation: there is no {KVM_DEVICE}; {EMULATED}"
            yield Check("acceleration", None, absent, FASTER)
    else:
        yield Check("guest image", True, f"{whole.digest} in {whole.directory}")
        yield _acceleration(whole, home)


def _acceleration(image: Image, home: Home) -> Check:
    try:
        found = probe(image.kernel, image.initramfs, home.create().cache)
    except TorporError as error:
        return Check("acceleration", False, error.message, error.hint)
    if found.accel != EMULATION:
        return Check("acceleration", True, found.why)
    return Check("acceleration", None, f"{found.why}; {EMULATED}", FASTER)


def _built(parent: Path) -> list[Path]:
    """What was built there, the oldest first."""
    found = parent.glob("?" * 32) if parent.is_dir() else ()
    return sorted((path for path in found if path.is_dir()), key=_age)


def _time_stamps() -> Iterator[Check]:
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
