"""Suspending a run, and checkpoints: a freeze is three moments.

*Prepare*: the supervisor holds the agent. *Take*: one pause finds what changed (rule 7). *Keep*: it
is stored, recorded together with the run's new state in one transaction, and only then is the
machine killed (rules 5, 6). An answer that comes before lets the machine go on instead, for which a
large snapshot is given up; one after finds a suspended run.

Where the engine cannot freeze, the log is all that the run's next carrier needs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torpor.contextlog.entries import END, NewEntry
from torpor.contextlog.runs import Suspension
from torpor.core.errors import GuestError, StaleEpoch, TorporError
from torpor.core.ids import OpId, Seq
from torpor.machines.capture import Captured, GivenUp
from torpor.machines.channel import Message
from torpor.machines.thaw import resume
from torpor.wire import names
from torpor.worker.carrier import Freezer
from torpor.worker.parts import Parts
from torpor.worker.pen import Refused, Unrecorded, Write, recorded_or_lost
from torpor.worker.receiving import Receiver
from torpor.worker.recording import Stand

log = logging.getLogger(__name__)

# Raised during a freeze, these are the end of the machine or the run, not of the freeze alone.
_NOT_OF_FREEZING = (GuestError, StaleEpoch, Refused, Unrecorded)


class Freezing:
    """Of one driver, which is made of `parts` and has a `receiver`."""

    def __init__(self, parts: Parts, receiver: Receiver) -> None:
        self._parts, self._receiver = parts, receiver

    async def suspend(self) -> bool:
        """True once the run is suspended; what carried it may be discarded then. Else it goes on,
        or the receiver has its end."""
        freezer = self._parts.live.freezer
        with self._parts.standing.resting():
            return await (self._leave() if freezer is None else self._freeze(freezer))

    async def _leave(self) -> bool:
        """Suspend the run without a snapshot."""
        parts = self._parts
        if await self._prepare():
            stand = await self._stand()
            if self._receiver.ended:
                return False
            if self._may_go():
                await parts.pen.write(*self._suspension(stand.place.seq))
                parts.hand_over.report("ended; it goes on from the log")
                return True
            resume(parts.live.guest)
        return False

    async def _freeze(self, freezer: Freezer) -> bool:
        parts, decided = self._parts, self._parts.shared.clock.monotonic()
        if await self._prepare():
            try:
                async with freezer.capturing() as taken:
                    stand = await self._stand()
                    if self._receiver.ended:
                        return False
                    captured = await freezer.keep(taken, lambda: not self._may_go())
                    if self._may_go():
                        await self._record(captured, stand, decided, *self._suspension())
                        return True
                    # It has something to do. What was stored is a good snapshot all the same.
                    await freezer.carry_on()
                    resume(parts.live.guest)
                    await self._record(captured, stand, decided)
            except _NOT_OF_FREEZING:
                raise
            except GivenUp:  # it has something to do, and the machine goes on already
                resume(parts.live.guest)
            except (TorporError, OSError) as error:
                if await parts.pen.has_suspended():
                    return True
                await self._failed(error)
        return False

    async def checkpoint(self) -> None:
        """A snapshot of a machine that goes on; its pause is the copy alone. Where nothing can be
        frozen, the log is what a crash does not go back behind."""
        parts, decided = self._parts, self._parts.shared.clock.monotonic()
        freezer = parts.live.freezer
        if freezer is not None and not await parts.stillness.prepare(parts.live.guest):
            parts.recording.failed(lives=True)
        elif freezer is not None:
            try:
                async with freezer.capturing() as taken:
                    stand = await self._stand()
                    if self._receiver.ended:
                        return
                    await freezer.carry_on()
                    resume(parts.live.guest)
                    captured = await freezer.keep(taken)
                await self._record(captured, stand, decided)
            except _NOT_OF_FREEZING:
                raise
            except (TorporError, OSError) as error:
                await self._failed(error)
        # One that failed is answered as well: the agent loses no more than a later snapshot.
        ops, parts.standing.checkpoints = parts.standing.checkpoints, []
        await self.end_checkpoints(ops)

    async def end_checkpoints(self, ops: Sequence[OpId]) -> None:
        outcome = {"ok": True, "value": None}
        if ops:
            await self._parts.pen.write(*(NewEntry(END, op, outcome) for op in ops))
        for op in ops:
            self._parts.deliver(op, outcome)

    @property
    def _rests(self) -> bool:
        """Whether an agent that is held has nothing to go on with before one of its waits ends, or
        something comes of a call's answer."""
        return self._sleeps() and self._parts.stillness.rests

    def _sleeps(self) -> bool:
        return not self._parts.busy_beside and self._parts.standing.sleeps

    def _may_go(self) -> bool:
        """Whether a machine that stands still may be discarded, once it is recorded where it is."""
        return self._parts.hand_over.wanted or self._sleeps()

    async def _prepare(self) -> bool:
        """Whether the agent is held now: only if it rests, but where it is handed over."""
        parts = self._parts
        anyhow, near_s = parts.hand_over.wanted, parts.carriers.terms.timers_s
        calls = bool(parts.standing.calls)
        return await parts.stillness.prepare(parts.live.guest, near_s, anyhow=anyhow, calls=calls)

    async def _stand(self) -> Stand:
        """Where in the log a machine that was just taken stands, and what it waits for. Among the
        last things that came may be the run's end."""
        # A step's end that is recorded only now: that it was is not in the machine that was taken.
        acknowledged = [
            OpId(item.fields["op"])
            for item in self._parts.live.guest.inbox
            if isinstance(item, Message) and item.t == names.END
        ]
        with recorded_or_lost():
            await self._receiver.take()
        # The step that has made a call is in its middle.
        rests = self._rests and not self._parts.standing.calls
        return await self._parts.recording.place(acknowledged, rests=rests)

    async def _record(
        self,
        captured: Captured,
        stand: Stand,
        decided: float,
        *also: Write,
    ) -> None:
        """Record a snapshot, and what goes with it into one transaction."""
        parts = self._parts
        freeze_ms, ended = await parts.recording.record(captured, stand, decided, *also)
        parts.confirm(*ended)
        parts.obstacles.frozen()
        parts.shared.metrics.frozen(freeze_ms)
        parts.shared.cost.frozen(freeze_ms)
        parts.progressed = True
        parts.hand_over.report(f"frozen where it was, in {freeze_ms:.0f} ms")

    def _suspension(self, seen: Seq | None = None) -> list[Write]:
        parts = self._parts
        how = Suspension(
            seen=seen,
            handed_over=not self._rests,
            patient=parts.standing.patient,
            wake_at=parts.stillness.wake_at,
        )
        lost = parts.network.lost("its machine was frozen, and connections do not outlive that")
        return [*lost, parts.computing.record, parts.pen.suspension(how)]

    async def _failed(self, error: Exception) -> None:
        """Rule 6: the run goes on, says so, loses nothing."""
        parts = self._parts
        parts.recording.failed()
        resume(parts.live.guest)
        log.warning("run %s could not be frozen: %s", parts.row.id, error)
        await parts.stillness.failed(str(error))
