"""What this host can do, which engine it would use, and why. Needs no server and builds nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torpor.control.engines import choose, needs_of
from torpor.core.checks import Check
from torpor.core.errors import Invalid, TorporError
from torpor.core.home import Home
from torpor.egress import hostfile
from torpor.engine import registry
from torpor.engine.capabilities import EMULATED, EMULATION, FASTER, NOT_ISOLATED
from torpor.engine.host import Boot
from torpor.engine.registry import Entry
from torpor.image.build import Image, image_damage, open_image
from torpor.image.deps import layer_damage
from torpor.policy.admission import capacity
from torpor.setup.checks import debian_packages, subordinate_ids
from torpor.worker.loading import host_memory_mib

FREE_DISK_MIN = 2 << 30


@dataclass(frozen=True)
class Findings:
    """`checks`: in the order in which a person would mend them. `engine`: that would be used; None:
    the setting that names it is wrong."""

    checks: list[Check]
    engine: str | None

    @property
    def can_run(self) -> bool:
        """Whether the engine that would be used is usable: what decides the exit code."""
        if self.engine is None:
            return False
        needed = {"engine", *(need.name for need in needs_of(registry.get(self.engine)))}
        return all(check.ok is not False for check in self.checks if check.name in needed)


def examine(home: Home) -> Findings:
    engine, choice = _choice()
    checks = [
        choice,
        *_needs(),
        debian_packages(),
        *subordinate_ids(),
        *_images(home),
        *(check for entry in registry.ENGINES.values() for check in entry.on_host().remarks()),
        _disk(home),
        *_host_key(home),
        *_host_rules(home),
        Check("cores and memory", None, _room()),
    ]
    return Findings(checks, engine)


def _choice() -> tuple[str | None, Check]:
    """Which engine would be used."""
    try:
        choice = choose()
    except TorporError as error:
        return None, Check("engine", False, error.message, error.hint)
    detail = f"{choice.engine}: {choice.why}"
    if registry.isolates(choice.engine):
        return choice.engine, Check("engine", True, detail)
    return choice.engine, Check("engine", None, f"{detail}; {NOT_ISOLATED}")


def _needs() -> Iterator[Check]:
    """What each of the engines needs."""
    needs = [need for entry in registry.ENGINES.values() for need in needs_of(entry)]
    for need in dict.fromkeys(needs):
        yield need.check()


def _images(home: Home) -> Iterator[Check]:
    """The newest image that is whole, and what is damaged."""
    built = _built(home.images)
    whole: Image | None = None
    for path in built:
        if wrong := image_damage(path):
            hint = (
                "The next deployment builds the image of this version of torpor. "
                "Agents deployed with another image must be deployed again."
            )
            yield Check("guest image", False, f"{wrong}: {path}", hint)
        else:
            whole = open_image(home, path.name)
    for path in _built(home.deps):
        if wrong := layer_damage(path):
            hint = "The next deployment of an agent with these dependencies installs them again."
            yield Check("dependencies", False, f"{wrong}: {path}", hint)
    if whole is None:
        if not built:
            built_soon = "not built yet; the first deployment builds it (a minute)"
            yield Check("guest image", None, built_soon)
        for entry in registry.freezing():
            yield from entry.on_host().before_probe()
    else:
        yield Check("guest image", True, f"{whole.digest} in {whole.directory}")
        yield from (_acceleration(entry, whole, home) for entry in registry.freezing())


def _acceleration(entry: Entry, image: Image, home: Home) -> Check:
    boot = Boot(image.kernel, image.initramfs)
    try:
        engine = entry.on_host().open_engine(boot, home.create().cache)
    except TorporError as error:
        return Check("acceleration", False, error.message, error.hint)
    if engine.accel != EMULATION:
        return Check("acceleration", True, engine.why)
    return Check("acceleration", None, f"{engine.why}; {EMULATED}", FASTER)


def _built(parent: Path) -> list[Path]:
    """What was built there, the oldest first."""
    found = parent.glob("?" * 32) if parent.is_dir() else ()
    return sorted((path for path in found if path.is_dir()), key=_age)


def _disk(home: Home) -> Check:
    place = next(path for path in (home.root, *home.root.parents) if path.exists())
    free = shutil.disk_usage(place).free
    detail = f"{free / (1 << 30):.1f} GiB free at {home.root}"
    hint = "" if free >= FREE_DISK_MIN else "Building the image needs about 1 GiB for a while."
    return Check("disk", free >= FREE_DISK_MIN, detail, hint)


def _host_key(home: Home) -> Iterator[Check]:
    if home.host_key.exists():
        detail = f"every snapshot of a run needs {home.host_key}: keep a copy elsewhere"
        yield Check("encryption", None, detail)


def _host_rules(home: Home) -> Iterator[Check]:
    """What the host says of all agents' requests, if it says anything."""
    if not home.egress.exists():
        return
    try:
        hostfile.read(home.egress)
    except Invalid as error:
        hint = "Until it is mended, agents reach nothing, not even a model."
        yield Check("egress.toml", False, error.message, hint)
    else:
        yield Check("egress.toml", True, str(home.egress))


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _room() -> str:
    cores, memory_mib = os.cpu_count() or 1, host_memory_mib()
    room = capacity(cores, memory_mib)
    what = f"{cores} cores, {memory_mib:,} MiB"
    return f"{what}; {room.mib:,} MiB for runs, at most {room.runs} of them awake"
