"""What limits of queues mean, told from which runs have a machine or are about to have one, and not
from the log: what the log says of slots is held against this."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torpor.contextlog.runs import RunRow
from torpor.core.ids import RunId
from torpor.core.rules import parse_rate
from torpor.core.states import RunState

# What queues begin and end with, as a file has it: one slot each, of some sort.
LIMITS: dict[str, dict[str, Any]] = {
    "one": {"concurrency": 1},
    "keyed": {"per_key": 1},
    "rated": {"rate": "1/10s"},
}


class Place(NamedTuple):
    """Where a run waits for a machine."""

    queue: str
    key: str | None
    priority: int

    @property
    def slots(self) -> list[tuple[str, ...]]:
        """What it takes one of: its queue's, and its key's there."""
        return [(self.queue,), *([] if self.key is None else [(self.queue, self.key)])]


@dataclass
class Slots:
    room: int  # of the host
    limits: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {name: dict(limits) for name, limits in LIMITS.items()}
    )
    paused: set[str] = field(default_factory=set)
    places: dict[RunId, Place] = field(default_factory=dict)
    starts: dict[RunId, float] = field(default_factory=dict)
    _before: Counter[tuple[str, ...]] = field(default_factory=Counter)

    def put(self, row: RunRow) -> None:
        self.places[row.id] = Place(row.queue, row.queue_key, row.priority)

    def most(self, slot: tuple[str, ...]) -> int:
        wanted = "concurrency" if len(slot) == 1 else "per_key"
        most = self.limits[slot[0]].get(wanted)
        return self.room if most is None else min(self.room, most)

    def use(self, takers: Collection[RunId]) -> Counter[tuple[str, ...]]:
        return Counter(slot for run in takers for slot in self.places[run].slots)

    def check_limits(self, takers: Collection[RunId]) -> None:
        """No slot is taken that there is not. One that was taken when there were more is kept."""
        use = self.use(takers)
        for slot, taken in use.items():
            assert taken <= max(self.most(slot), self._before[slot]), (slot, taken)
        assert len(takers) <= self.room
        self._before = use

    def started(self, run: RunId, now: float) -> None:
        self.starts[run] = now
        assert self._starts_left(self.places[run].queue, now, []) >= 0

    def check_chosen(
        self,
        chosen: Sequence[RunId],
        left: Sequence[RunRow],
        takers: Collection[RunId],
        room: int,
        now: float,
    ) -> None:
        """Each run that wants a machine and was left is held up by something that one can see, and
        by none that goes after it. `takers` are those chosen, too; `room` is there still."""
        use = self.use(takers)
        for run in chosen:
            assert self.places[run].queue not in self.paused, f"{run} is in a paused queue"
        for row in left:
            place, starts = self.places[row.id], row.state is RunState.QUEUED
            assert (
                room <= 0
                or place.queue in self.paused
                or any(use[slot] >= self.most(slot) for slot in place.slots)
                or (starts and self._starts_left(place.queue, now, takers) <= 0)
            ), f"{row.id} could go, and was left"
            for run in chosen:
                if self.places[run][:2] == place[:2] and (run not in self.starts or not starts):
                    assert self._rank(run) < self._rank(row.id), f"{row.id} goes before {run}"

    def _starts_left(self, queue: str, now: float, takers: Collection[RunId]) -> int:
        if "rate" not in self.limits[queue]:
            return 1
        rate = parse_rate(self.limits[queue]["rate"], queue)
        recent = [run for run, at in self.starts.items() if at > now - rate.per_s]
        of_it = [*recent, *(run for run in takers if run not in self.starts)]
        return rate.count - sum(self.places[run].queue == queue for run in of_it)

    def _rank(self, run: RunId) -> tuple[int, RunId]:
        return (-self.places[run].priority, run)
