"""What the engine `process` says of the host: nothing. See `torpor.engine.host.HostPart`."""

from __future__ import annotations

from pathlib import Path

from torpor.core.checks import Check
from torpor.core.errors import InternalError
from torpor.engine.host import Boot, Need
from torpor.engine.protocol import Engine

NEEDS: tuple[Need, ...] = ()


def open_engine(boot: Boot, cache: Path) -> Engine:
    raise InternalError("a plain process is no machine")


def before_probe() -> tuple[Check, ...]:
    return ()


def remarks() -> tuple[Check, ...]:
    return ()
