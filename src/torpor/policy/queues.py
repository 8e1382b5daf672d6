"""Which of the runs that wait get a machine now: pure, a function of what the log says.

A slot of a queue is a run of it that is running. That is all there is to it: slots are not counted
anywhere, they are the states of runs, so none can be leaked. A run that sleeps is not running from
the write on that has its snapshot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from torpor.core.ids import RunId
from torpor.core.rules import Limits
from torpor.policy.admission import Room, Share, rank


@dataclass(frozen=True)
class Waiting:
    """A run that could go on if it had a machine. `starts`: it never had one; only that counts for
    its queue's rate."""

    run: RunId
    queue: str
    engine: str
    key: str | None = None
    priority: int = 0
    starts: bool = True
    mib: int = 0  # what it takes of the host's memory
    parent: RunId | None = None

    @property
    def share(self) -> Share:
        return Share(rank(self.priority, self.run), self.mib)


@dataclass
class Use:
    """How much is taken: of the host's room, and of queues' limits, runs that are running, by queue
    and by (queue, key), and starts within the queue's time."""

    room: Room
    running: Counter[str] = field(default_factory=Counter)
    by_key: Counter[tuple[str, str]] = field(default_factory=Counter)
    started: Counter[str] = field(default_factory=Counter)

    def copy(self) -> Use:
        return Use(self.room.copy(), self.running.copy(), self.by_key.copy(), self.started.copy())

    def take(self, one: Waiting) -> None:
        """It goes now."""
        self.room.take(one.share)
        self.count(one)

    def count(self, one: Waiting) -> None:
        """It has room already."""
        self.running[one.queue] += 1
        self.started[one.queue] += one.starts
        if one.key is not None:
            self.by_key[one.queue, one.key] += 1


class Obstacle(Enum):
    """What keeps a run from getting a machine."""

    CONCURRENCY = "concurrency"
    PER_KEY = "per_key"
    RATE = "rate"
    ROOM = "room"


def obstacle(one: Waiting, limits: Limits, use: Use) -> Obstacle | None:
    """What of the limits of its queue, and of the host, does not let this one go now."""
    if full(limits.concurrency, use.running[one.queue]):
        return Obstacle.CONCURRENCY
    if one.key is not None and full(limits.per_key, use.by_key[one.queue, one.key]):
        return Obstacle.PER_KEY
    if one.starts and limits.rate is not None and use.started[one.queue] >= limits.rate.count:
        return Obstacle.RATE
    return None if use.room.fits(one.engine, one.share, one.parent) else Obstacle.ROOM


def choose(waiting: Sequence[Waiting], limits: Mapping[str, Limits], use: Use) -> list[Waiting]:
    """Those that go now, in their order: the highest priority first, then the oldest. A queue that
    is full holds up no other. What they take is added to `use`, and what those need that are held
    up by nothing but room is reserved there."""
    chosen = []
    for one in sorted(waiting, key=lambda each: each.share.rank):
        match obstacle(one, limits[one.queue], use):
            case None:
                use.take(one)
                chosen.append(one)
            case Obstacle.ROOM:
                use.room.reserve(one.engine, one.share)
    return chosen


def full(most: int | None, taken: int) -> bool:
    """Whether a limit, None if there is none, lets no more go."""
    return most is not None and taken >= most
