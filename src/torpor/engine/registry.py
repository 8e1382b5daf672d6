"""The engines that there are. An engine is a row of `ENGINES` and a package with its parts.

Only names, capabilities and words are here, so that every command can load this. What an engine
needs on the host, and how it is opened, is in its own package (`torpor.engine.host`), and is
loaded when somebody asks.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from torpor.core.errors import Invalid
from torpor.engine import process, qemu
from torpor.engine.capabilities import Capabilities

if TYPE_CHECKING:
    from torpor.core.rules import Rules
    from torpor.engine.host import HostPart

SETTING = "TORPOR_ENGINE"


@dataclass(frozen=True)
class Entry:
    name: str
    summary: str  # completes "NAME: …", for help texts
    capabilities: Capabilities
    package: str
    # What an agent's version is made of besides its source: two engines must not give the same
    # version. Never changed: versions are in logs.
    stands_on: str = "{engine}:{image}"

    def on_host(self) -> HostPart:
        return cast("HostPart", importlib.import_module(f"{self.package}.host"))

    def base_of(self, image: str) -> str:
        """What versions of agents on this engine, and this image, are made of besides sources."""
        return self.stands_on.format(engine=self.name, image=image)


# The first whose needs are met is the one that is used where none is named; the last has none.
_ENTRIES = (
    Entry(
        name=qemu.NAME,
        summary="a microVM of its own",
        capabilities=Capabilities(
            isolates=True, freezes=True, becomes=True, reports_changes=True, boots_kernel=True
        ),
        package="torpor.engine.qemu",
        stands_on="{image}",
    ),
    Entry(
        name=process.NAME,
        summary="a plain process, isolated from nothing",
        capabilities=Capabilities(isolates=False),
        package="torpor.engine.process",
        stands_on="{engine}",
    ),
)
ENGINES = {entry.name: entry for entry in _ENTRIES}
NAMES = tuple(ENGINES)
# The engine that every host has.
FALLBACK = _ENTRIES[-1]


def get(name: str) -> Entry:
    """Raises Invalid, naming what there is."""
    return ENGINES[check(name, "engine")]


def check(value: Any, what: str) -> str:
    """`value`, if it names an engine. `what` begins the message of the Invalid that is raised."""
    if value not in ENGINES:
        raise Invalid(
            f"{what}={value}: there is no such engine", hint=f"Use one of: {', '.join(NAMES)}."
        )
    return str(value)


def checked(rules: Rules, what: str) -> Rules:
    """`rules`, if there is the engine that they name. What is stored is not checked again: it may
    be of a version of torpor that has others. Raises Invalid."""
    if rules.engine is not None:
        check(rules.engine, f"{what}: engine")
    return rules


def from_environment() -> str | None:
    """The engine that `$TORPOR_ENGINE` names, if it does. Raises Invalid."""
    name = os.environ.get(SETTING) or None
    return name and check(name, SETTING)


def isolates(name: str) -> bool:
    """Whether agents on the engine are in machines of their own. A client may meet the name of an
    engine that only a newer server has: nothing bad is said of that."""
    return name not in ENGINES or ENGINES[name].capabilities.isolates


def in_words() -> str:
    """All engines, for a help text."""
    return "; ".join(f"{name}: {entry.summary}" for name, entry in ENGINES.items())


def freezing() -> Iterator[Entry]:
    return (entry for entry in _ENTRIES if entry.capabilities.freezes)
