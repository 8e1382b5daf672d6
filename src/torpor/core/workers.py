"""Workers, which carry runs, and what a lease on a run says to another of them.

A worker is one server, from its start to its end. While it carries a run, the run's row names it,
and says until when: its lease, which it renews as long as it lives (`torpor.worker.lease`).
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

from torpor.core.errors import Conflict
from torpor.core.home import Home
from torpor.core.ids import RunId, WorkerId


class Holder(Enum):
    """Who has a run that is running, as far as another worker can tell."""

    NONE = "nobody: who had it has ended, or is the one that asks"
    OTHER = "another worker, whose lease has not run out"
    LATE = "another worker, which has not renewed its lease in time"


@dataclass(frozen=True)
class Worker:
    """`host` names a data directory: its lock, held from start to end, lets only one worker of it
    live at a time. One that is `alone` has its store in there, so that no other worker lives that
    could know of its runs."""

    host: str
    start: str = field(default_factory=lambda: secrets.token_hex(4))
    alone: bool = False

    @classmethod
    def of(cls, home: Home) -> Worker:
        """This process, which holds the lock of `home`, as its store is there."""
        return cls(f"{socket.gethostname()}:{home.root}", alone=True)

    @property
    def id(self) -> WorkerId:
        return WorkerId(f"{self.host}#{self.start}")

    def outlived(self, other: WorkerId) -> bool:
        """Whether that worker is known to have ended, since this one holds its lock."""
        return other != self.id and (self.alone or other.rpartition("#")[0] == self.host)

    def holder(self, worker: WorkerId | None, lease_until: float | None, now: float) -> Holder:
        """Who has a running run whose row says this."""
        if worker is None or worker == self.id or self.outlived(worker):
            return Holder.NONE
        return Holder.OTHER if (lease_until or 0.0) > now else Holder.LATE


@dataclass(frozen=True)
class Lease:
    """What a worker has on the runs that it carries."""

    NONE: ClassVar[Mapping[str, Any]] = {"worker_id": None, "lease_until": None}

    worker: Worker
    until: float

    def columns(self) -> dict[str, Any]:
        """Of a run's row."""
        return {"worker_id": self.worker.id, "lease_until": self.until}

    def check(
        self, run: RunId, worker: WorkerId | None, lease_until: float | None, now: float
    ) -> None:
        """Raises Conflict unless the running run whose row says this may be taken."""
        if self.worker.holder(worker, lease_until, now) is Holder.OTHER:
            raise Conflict(f"{run} is carried by the worker {worker}")
