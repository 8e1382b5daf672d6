"""Queues: where runs wait for a machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from typing_extensions import TypedDict

from torpor.service.shapes import closed


@closed
class Queue(TypedDict):
    """A queue's limits, and its unfinished runs by state. `suspended` runs sleep and take no
    slot.
    """

    name: str
    paused: bool
    concurrency: int | None
    per_key: int | None
    rate: str | None
    made_at: float
    delayed: int
    queued: int
    running: int
    suspended: int


class QueueChanges(TypedDict, total=False):
    """Only what is given changes; None removes a limit."""

    paused: bool
    concurrency: int | None
    per_key: int | None
    rate: str | None


class Queues(Protocol):
    async def list(self) -> Sequence[Queue]: ...

    async def update(self, name: str, changes: QueueChanges) -> Queue:
        """Of a queue that there need not be yet. Raises Invalid."""
        ...
