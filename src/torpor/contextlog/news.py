"""What a write may mean to the server that is at work: told to it once the write is committed
(`LogStore.listen`), whoever wrote. What is told is only a hint to look sooner: all of it stands in
the log, where a server that starts finds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torpor.core.ids import OpId, RunId


@dataclass(frozen=True)
class Claimable:
    """A run may be claimed, or is to be ended without that."""


@dataclass(frozen=True)
class Due:
    """Something falls due at a time that was not known before."""


@dataclass(frozen=True)
class Answered:
    """A wait of `run` has ended with `value`."""

    run: RunId
    op: OpId
    value: dict[str, Any]


@dataclass(frozen=True)
class CancelRequested:
    run: RunId


@dataclass(frozen=True)
class Overran:
    """A run that has a machine takes too long, unless it has only waited: its driver knows."""

    run: RunId


@dataclass(frozen=True)
class Replaced:
    """A run has ended, whatever its machine is at: another has its place (`contextlog.reloads`)."""

    run: RunId


News = Claimable | Due | Answered | CancelRequested | Overran | Replaced
