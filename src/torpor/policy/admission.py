"""How much of a host its runs may take, and which of those that wait have room: pure.

Room is memory, in MiB, since a machine may come to use all that its agent asks for; and a number of
runs, since one that gets too little of a processor only makes all slower.

Runs of all sizes share it. One that is too large for what is left waits, and what goes after it in
the order (a lower priority, or younger) may still go, but never so much of it that the large one
could not go beside it: those after it take at most what the host has beyond its need. So it goes at
the latest when all that was running when it came has ended or sleeps, however many come after it.

Memory never keeps a run for ever. One that is larger than the host goes beside others, one such at
a time: a host too small is better slow than useless. So does one whose parent is running, which may
be waiting for it, and would keep its memory until then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

RUNS_PER_CORE = 8
# Left for everything that is no run.
MEMORY_RESERVE_MIB = 1024

Rank = tuple[int, str]  # what is less goes first


def rank(priority: int, run: str) -> Rank:
    """The higher priority first, then the older run: ids sort by age."""
    return -priority, run


@dataclass(frozen=True)
class Capacity:
    """Of a host, for runs."""

    mib: int
    runs: int


def capacity(cores: int, memory_mib: int) -> Capacity:
    return Capacity(max(0, memory_mib - MEMORY_RESERVE_MIB), cores * RUNS_PER_CORE)


@dataclass(frozen=True)
class Share:
    """What a run takes, or would."""

    rank: Rank
    mib: int


@dataclass
class Room:
    """What there is, what is `taken` of it, and what is `reserved`: for those that wait for memory.
    An engine that is not in `engines` carries nothing."""

    capacity: Capacity
    engines: frozenset[str] = frozenset()
    taken: list[Share] = field(default_factory=list)
    reserved: list[Share] = field(default_factory=list)

    def copy(self) -> Room:
        return replace(self, taken=self.taken.copy(), reserved=self.reserved.copy())

    @property
    def taken_mib(self) -> int:
        return _sum(self.taken)

    @property
    def left_mib(self) -> int:
        return self.capacity.mib - self.taken_mib

    @property
    def runs_left(self) -> int:
        return self.capacity.runs - len(self.taken)

    def fits(self, engine: str, share: Share, parent: str | None = None) -> bool:
        """Whether it may go now; `parent` is the run that has spawned it."""
        if engine not in self.engines or self.runs_left <= 0:
            return False
        if parent is not None and any(each.rank[1] == parent for each in self.taken):
            return True
        if self._oversize(share):
            return not any(map(self._oversize, self.taken))
        if self.taken and share.mib > self.left_mib:
            return False
        return all(self._beside(share, large) for large in self.reserved)

    def take(self, share: Share) -> None:
        self.taken.append(share)

    def reserve(self, engine: str, share: Share) -> None:
        """For one that did not fit, if memory is what it waits for, and there can be enough."""
        if engine in self.engines and self.runs_left > 0 and not self._oversize(share):
            self.reserved.append(share)

    def _oversize(self, share: Share) -> bool:
        return share.mib > self.capacity.mib

    def _beside(self, share: Share, large: Share) -> bool:
        """Whether the large one, which waits, could still go beside this one and all else that goes
        after it in the order."""
        if share.rank < large.rank:
            return True
        after = _sum(each for each in self.taken if each.rank > large.rank)
        return after + share.mib + large.mib <= self.capacity.mib


def _sum(shares: Iterable[Share]) -> int:
    return sum(share.mib for share in shares)
