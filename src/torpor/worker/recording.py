"""Recording snapshots of one run: where in the log a machine that was just taken stands, and what
goes into the log together with it.

A step whose body wrote files ends only with a snapshot that has them: its end and that snapshot are
one transaction. A crash before it leaves the step in doubt (rule 3); one after it finds both. Else
a step that is recorded, and so never runs again, would leave an agent without its files. Where no
snapshot can be made, the end is recorded without one, but only once the machine is known to live.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torpor.contextlog import entries
from torpor.contextlog.entries import Place
from torpor.contextlog.runs import RunRow
from torpor.contextlog.snapshots import NewSnapshot
from torpor.core.clock import Clock
from torpor.core.ids import OpId, SnapshotId
from torpor.core.position import Position
from torpor.logstore.protocol import Store
from torpor.machines.capture import Captured
from torpor.worker.output import Streams
from torpor.worker.pen import Pen, Write
from torpor.worker.sealing import RunKey
from torpor.worker.standing import Standing
from torpor.worker.values import Results


@dataclass(frozen=True)
class Stand:
    """Where a machine that was just taken stands in the log, and where its agent does."""

    place: Place
    position: Position


class Recording:
    def __init__(
        self,
        row: RunRow,
        store: Store,
        pen: Pen,
        results: Results,
        standing: Standing,
        streams: Streams,
        clock: Clock,
    ) -> None:
        self.newest: SnapshotId | None = None  # what the next snapshot is compared with
        self.key: RunKey | None = None
        self._run, self._version, self._store, self._pen = row.id, row.version, store, pen
        self._results, self._standing, self._streams = results, standing, streams
        self._clock = clock
        self._ends: dict[OpId, Write] = {}  # of steps that wrote files
        self._failed = False  # no snapshot could be made, perhaps since the machine is gone
        self._lives = False  # something came from it after that

    @property
    def wanted(self) -> bool:
        """Something waits for a snapshot."""
        return bool(self._standing.checkpoints or (self._ends and not self._failed))

    def hold(self, op: OpId, end: Write) -> None:
        """Record the end of this step together with the next snapshot."""
        self._ends[op] = end

    async def place(self, acknowledged: Iterable[OpId], *, rests: bool) -> Stand:
        """Where in the log a machine stands that was just taken, and all of whose messages were
        received; and what it waits for. What was `acknowledged` meanwhile, it has not received."""
        position = self._standing.position([*acknowledged, *self._ends])
        position = self._streams.added_to(replace(position, at_work=not rests))
        unseen = sorted(position.unanswered)
        place = await self._store.read(lambda c: entries.seen_before(c, self._run, unseen))
        return Stand(place, position)

    async def record(
        self,
        captured: Captured,
        stand: Stand,
        decided: float,
        *also: Write,
    ) -> tuple[float, list[OpId]]:
        """Record a snapshot, and what goes with it into one transaction. How many milliseconds it
        took since it was `decided`, and which steps have ended with it."""
        freeze_ms = (self._clock.monotonic() - decided) * 1000
        wrapped = None if self.key is None else self.key.wrapped
        async with self._results.settled():
            new = NewSnapshot(
                run=self._run,
                version=self._version,
                epoch=self._pen.epoch,
                seq=stand.place.seq,
                seen_upto=stand.place.seen_upto,
                parent=self.newest,
                manifest=captured.manifest,
                bytes=captured.bytes,
                pause_ms=captured.pause_ms,
                freeze_ms=freeze_ms,
                created_at=self._clock.now(),
                link=captured.link.to_json(),
                position=replace(stand.position, pages=captured.pages),
            )
            self.newest = await self._pen.record_snapshot(new, wrapped, *also, *self._ends.values())
        return freeze_ms, self._ended()

    def failed(self, *, lives: bool = False) -> None:
        """A snapshot could not be made; of a machine that `lives`, as far as is known."""
        self._failed, self._lives = True, lives

    def lives(self) -> None:
        """Something came from the machine."""
        self._lives = True

    async def go_without(self) -> list[OpId]:
        """Record the ends of steps without a snapshot, where none can be made of a machine that
        lives. Which these are."""
        if not (self._failed and self._lives):
            return []
        if self._ends:
            await self._results.write(*self._ends.values())
        return self._ended()

    def _ended(self) -> list[OpId]:
        ended, self._ends = list(self._ends), {}
        self._failed = self._lives = False
        return ended
