"""What carries a run's agent for one epoch, as its driver sees it: a machine, or whatever else an
engine has.

A driver knows no engine. It is given `Carriers`, has one made from a place in the run's log, talks
with the agent in it, and discards it. An engine that can freeze gives its carriers a `Freezer`. Of
one that cannot, a run that waits is suspended by discarding its carrier: the next one replays
the whole log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torpor.contextlog.runs import RunRow
from torpor.contextlog.snapshots import SnapshotRow
from torpor.core.ids import AgentVersion, Epoch, RunId, SnapshotId
from torpor.machines.capture import Captured, Taken
from torpor.machines.channel import Channel
from torpor.policy.freeze import Terms
from torpor.snapshot.seal import Key

Journal = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Origin:
    """Where a carrier begins: what it is made from, and who it is for."""

    row: RunRow
    snapshot: SnapshotRow | None  # of the run, or its template; None: the beginning
    key: Key | None = None  # opens and seals the run's snapshots


class Carriers(Protocol):
    """An engine, for scheduler and drivers."""

    terms: Terms  # when a wait is worth suspending its run

    def need_mib(self, memory_mib: int) -> int:
        """What a run takes of the host's memory whose agent's file asks for so much."""

    async def origins(self, row: RunRow) -> list[SnapshotRow | None]:
        """What one for this run may be made from, the best first."""

    async def restore(self, origin: Origin, changed: asyncio.Event) -> Carrier:
        """One whose agent is held, or has not begun. `changed` is set when something came from it.
        Raises Unfit, Damaged, NotFound (another origin may serve), HostError, GuestError."""

    async def renew(self, version: AgentVersion, useless: Collection[SnapshotId]) -> None:
        """None of the origins serves on this host: make one of the agent's source, unless another
        run has had it made and the template is not one of the `useless` any more. Raises
        TorporError."""

    async def tend(self) -> None:
        """Keep alive what all of them need, for ever."""

    async def close(self) -> None:
        """End what belongs to no run."""


class Carrier(Protocol):
    """Made for one epoch of one run."""

    @property
    def guest(self) -> Channel: ...

    @property
    def pid(self) -> int: ...

    @property
    def memory_mib(self) -> int | None:
        """All that the agent can use; None where nothing limits it."""

    @property
    def warm(self) -> bool:
        """It had been got ready with its agent loaded, before anybody asked for it."""

    @property
    def freezer(self) -> Freezer | None: ...

    @property
    def taken_mib(self) -> int:
        """What it takes of the host's memory now, or may any moment."""

    def cpu_s(self) -> float:
        """CPU time it has used, in seconds."""

    async def thaw(self, run: RunId, epoch: Epoch, *, started: bool, journal: Journal) -> None:
        """Bring it to its senses (rule 8). An agent that had started goes on, with the results
        that the log holds past its origin. Raises GuestError."""

    async def start(self, epoch: Epoch, row: RunRow, journal: Journal) -> None:
        """Have an agent that had not started begin, with the run's files in its working directory,
        and replay `journal`. Raises TorporError, OSError."""

    async def woken(self) -> None:
        """The agent is at work: what can be learned or got ready for the next time, is now, if the
        host lets it."""

    async def served(self) -> dict[str, Any] | None:
        """What a pager has done for it: {reads, bytes, frames, hits, misses, pushed, push_ms}; None
        where there is none. Raises Missing, NotFound."""

    async def damage(self) -> str | None:
        """What of its origin it tried to read and could not, in words."""

    async def kill(self) -> None:
        """At once. Its driver notices, and discards it."""

    async def discard(self) -> None:
        """End it and all that belongs to it, whatever happens meanwhile."""


class Freezer(Protocol):
    """Takes snapshots of one carrier; see `torpor.machines.host.Machines`."""

    def capturing(self) -> AbstractAsyncContextManager[Taken]: ...

    async def keep(self, taken: Taken, goes_on: Callable[[], bool] = ...) -> Captured: ...

    async def carry_on(self) -> None: ...
