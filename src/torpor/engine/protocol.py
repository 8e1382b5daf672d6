"""What every engine offers: the contract that control relies on.

A `Machine` is one microVM of one epoch. Its life:

    start (booting, or empty and waiting)
        │ load(device state)          only a restored machine
        ▼
      paused ──resume()──► running ──pause()──► paused ──resume()──► …
        │ └─────────── kill() at any time, idempotent ─────────────┘
        └─── forget(pages), become(another snapshot) ──► paused         at most once

Memory and disk come from files that somebody else serves (`Backing`); the engine knows which
pages of memory changed against that file. Nothing here assumes how an engine finds that out.
"""

from __future__ import annotations

import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from torpor.core.errors import Unfit
from torpor.engine.capabilities import Capabilities
from torpor.engine.memory import PageNumbers, Pages


@dataclass(frozen=True)
class Shape:
    """All that must be equal between a machine and a snapshot that it is to be restored from.

    Stored in the manifest's facts; compared before anything is started.
    """

    engine: str  # "qemu"
    engine_version: str  # "7.2.22"
    accel: str  # "tcg" | "kvm"
    cpu: str  # CPU model as the engine names it
    machine: str  # machine type and flags
    memory_mib: int
    disk_mib: int
    image: str  # digest of the guest image
    deps: str  # digest of the dependency layer, "" for none

    def facts(self) -> dict[str, Any]:
        return asdict(self)

    def require_equal(self, facts: dict[str, Any]) -> None:
        """Raises Unfit for the facts of a snapshot that this host cannot restore, naming what
        differs: first of all the version of the engine, which an upgrade of the host changes."""
        ours = self.facts()
        pairs = [(_named(facts), _named(ours))]
        pairs += [
            (f"{words} {facts.get(name, 'unknown')}", f"{words} {ours[name]}")
            for name, words in _WORDS.items()
            if facts.get(name) != ours[name]
        ]
        differing = [(theirs, our) for theirs, our in pairs if theirs != our]
        if differing:
            theirs, our = (", ".join(each) for each in zip(*differing, strict=True))
            raise Unfit(f"it was taken with {theirs}; this host has {our}")


# Of a shape's facts, those that are not the engine's name and version.
_WORDS = {
    "accel": "accelerator",
    "cpu": "CPU model",
    "machine": "machine type",
    "memory_mib": "MiB of memory:",
    "disk_mib": "MiB of disk:",
    "image": "guest image",
    "deps": "dependency layer",
}


def _named(facts: dict[str, Any]) -> str:
    return f"{facts.get('engine', 'unknown engine')} {facts.get('engine_version', '')}".rstrip()


@dataclass(frozen=True)
class Files:
    """The files a machine stands on. Memory and disk are its own, the others are shared."""

    memory: Path
    disk: Path
    root: Path
    deps: Path | None
    # Only for a boot; a restored machine has kernel and initramfs in its memory.
    kernel: Path | None = None
    initramfs: Path | None = None


@dataclass(frozen=True)
class Regions:
    """What a machine consists of, by the names that its snapshots have for it. In a manifest they
    stand in this order: the first is the one that hot pages are of."""

    memory: str  # pages that `Machine.changed_memory` and `read_memory` are about
    disk: str  # a file that the machine writes to: `Files.disk`
    state: str  # what `Machine.device_state` gives, whole


class Machine(Protocol):
    @property
    def pid(self) -> int: ...

    @property
    def alive(self) -> bool: ...

    @property
    def link(self) -> socket.socket:
        """The byte channel to the guest, non-blocking. EOF when the machine is gone."""

    async def load(self, device_state: bytes) -> None:
        """Give an empty machine the state of its devices. It is paused then."""

    async def forget(self, numbers: PageNumbers) -> None:
        """Pages of a paused machine are about to change: whatever the engine has derived from
        them goes. What is in them until then has no meaning."""

    async def become(self, numbers: PageNumbers, pages: Pages, device_state: bytes) -> None:
        """Turn a paused machine, or an empty one, into another: these pages, which it was made to
        forget, and this state of its devices. All other pages are the same in both. Raises
        Damaged (the state does not allow it), HostError; the machine is to be killed then."""

    async def resume(self) -> None: ...

    async def pause(self) -> None:
        """Stop the CPU and drain the devices: when this returns, memory and disk are still."""

    async def stalled(self) -> str:
        """Return once the machine stands still though nobody paused it, because a file of its own
        could not be written (a full disk): which, and why. `resume` has it try that again. Raises
        HostError if it stopped for anything else, from which it cannot go on."""

    async def device_state(self) -> bytes:
        """State of CPU and devices of a paused machine, without memory."""

    def changed_memory(self) -> PageNumbers:
        """Pages written since the start. It must be paused (rule 7)."""

    def read_memory(self, numbers: PageNumbers, into: Pages) -> None:
        """Copy these pages, in this order. It must be paused, or they may be of different times.
        Raises OSError, HostError: it has ended."""

    def touched_memory(self) -> PageNumbers:
        """Pages read or written since the start, perhaps with some of their neighbours."""

    def cpu_s(self) -> float:
        """CPU time the machine has used, in seconds."""

    async def kill(self) -> None: ...

    async def ended(self) -> str:
        """Wait until the machine is gone; the end of what it printed on the way, for an error."""


class Engine(Protocol):
    """One that freezes, as it was opened on this host."""

    @property
    def name(self) -> str:
        """As the registry has it."""

    @property
    def accel(self) -> str:
        """What runs the guest's code, in the engine's terms: "kvm", "tcg"."""

    @property
    def why(self) -> str:
        """Why it runs in this way here, for people."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def regions(self) -> Regions: ...

    @property
    def learns(self) -> bool:
        """Whether a machine that has been through something once does it faster afterwards: one
        that translates the guest's code, and keeps the translation, does."""

    def shape(self, *, memory_mib: int, disk_mib: int, image: str, deps: str) -> Shape: ...

    async def start(self, shape: Shape, files: Files, directory: Path) -> Machine:
        """Start a machine: it boots if `files` has a kernel, else it is empty, waits for `load`
        and reads nothing of its memory before. `directory` is for scratch files and exists."""
