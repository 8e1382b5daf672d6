"""What an engine says of the host that it is to run on.

Each engine's package has a module `host` with what `HostPart` names. It is loaded when somebody
wants to know (`torpor.engine.registry.Entry.on_host`), so that a command line that only needs the
names of engines loads none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torpor.core.checks import Check, attempt
from torpor.engine.protocol import Engine


@dataclass(frozen=True)
class Need:
    """Something that must be on the host. `find` returns what was found, or raises Missing."""

    name: str
    find: Callable[[], str]

    def check(self) -> Check:
        return attempt(self.name, self.find)


@dataclass(frozen=True)
class Boot:
    """What of an image an engine may have to boot, to see what works on this host."""

    kernel: Path
    initramfs: Path


class HostPart(Protocol):
    @property
    def NEEDS(self) -> tuple[Need, ...]:  # noqa: N802
        """In the order in which a person would mend them."""

    def open_engine(self, boot: Boot, cache: Path) -> Engine:
        """The engine in the best way that works on this host. Blocks; `cache` is a directory that
        keeps the answer. Raises Missing. Only of engines that freeze."""

    def before_probe(self) -> Iterable[Check]:
        """What can be said of the host's speed before there is an image to try it with."""

    def remarks(self) -> Iterable[Check]:
        """What else a person should know of this host."""
