"""One running run: the only master of what carries its agent, from restore to freeze or end.

    claim ─► restore ─► thaw ─► [start] ─► hear / decide ─┬─► SUSPENDED  frozen, machine gone
                                   ▲                      ├─► ENDED      a result, error, cancel
                                   └── went on after all ─┤
                                                          └─► LOST       machine gone: recover

One task does everything for the machine, in order. Others (timers, API calls, model calls) only
put results into `deliver` and set an event.

What may be said to the guest follows from what is durable: a step's end, a wait's answer, a
model's response are committed first (rules 1, 2). Every write is fenced by this machine's epoch
(rule 4).

A freeze is three moments. *Prepare*: the supervisor holds the agent. *Take*: one pause finds what
changed (rule 7). *Keep*: it is stored, recorded together with the run's new state in one
transaction, and only then is the machine killed (rules 5, 6). An answer that comes before lets the
machine go on instead, for which a large snapshot is given up; one after finds a suspended run.

A server that is told to stop *hands over* its runs: each machine is frozen wherever it is, be it in
the middle of a computation, and its run is claimable at once, for the next server. Model calls
under way are waited for: the next machine finds their answers in the log (`worker.calls`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any

from torpor.contextlog import entries, waits
from torpor.contextlog.entries import END, NewEntry, Place
from torpor.contextlog.runs import RunRow
from torpor.contextlog.snapshots import SnapshotRow
from torpor.contextlog.waits import WaitRow
from torpor.core.errors import GuestError, StaleEpoch, TorporError
from torpor.core.ids import Epoch, OpId, RunId, Seq, SnapshotId
from torpor.core.states import RunState
from torpor.egress.models import Model
from torpor.logstore.sqlite import LogStore
from torpor.machines.capture import GivenUp
from torpor.machines.channel import Said
from torpor.machines.host import Captured
from torpor.machines.thaw import correct_clock, resume
from torpor.policy import freeze as policy
from torpor.worker.calls import Calls
from torpor.worker.cancelling import CANCELLED, Cancelling
from torpor.worker.carrier import Carrier, Carriers, Freezer, Origin
from torpor.worker.commands import Commands, OfRun
from torpor.worker.computing import Computing
from torpor.worker.loading import exit_error
from torpor.worker.metrics import Metrics
from torpor.worker.notes import Notes, said_after
from torpor.worker.obstacles import Obstacles
from torpor.worker.output import Streams
from torpor.worker.pen import Pen, Refused, Unrecorded, Write, recorded_or_lost
from torpor.worker.recording import Recording
from torpor.worker.sealing import Keys
from torpor.worker.standing import Result, Standing
from torpor.worker.stillness import Stillness
from torpor.worker.tasks import Tasks
from torpor.worker.values import Results, Values

log = logging.getLogger(__name__)

HAND_OVER_RETRY_S = 1.0

ENDED = "ended"  # what a driver is `doing` once its run has ended

# Raised during a freeze, these are the end of the machine or the run, not of the freeze alone.
_NOT_OF_FREEZING = (GuestError, StaleEpoch, Refused, Unrecorded)


class Outcome(Enum):
    SUSPENDED = "suspended"
    ENDED = "ended"
    LOST = "lost"


Tell = Callable[[str], None]  # what happens, in words for people


class Driver:
    def __init__(
        self,
        carriers: Carriers,
        store: LogStore,
        model: Model,
        keys: Keys,
        values: Values,
        row: RunRow,
        metrics: Metrics,
        commands: Commands,
        *,
        always_suspend: bool = False,
    ) -> None:
        """For `row`; `epoch` is set when it was claimed. With `always_suspend` the run is handed
        over to the next driver at each operation."""
        self.run: RunId = row.id
        self._pen = Pen(store, row.id, row.epoch)
        self.row = row
        self.live: Carrier | None = None
        self.doing = "starting"  # for people: `torpor show`
        self.snapshot: SnapshotId | None = None  # what its machine was restored from
        self.damage: str | None = None  # what the machine could not read of its snapshot
        self.progressed = False  # something durable came of this machine
        self.loss = ""  # why the machine was lost, where that is known
        self._decided = time.perf_counter()  # before the claim, which is part of a resume
        self._carriers, self._store, self._keys, self._metrics = carriers, store, keys, metrics
        self.calls = Calls(row.id, store, model, self._pen, Tasks(self.fail), metrics)
        self._results = Results(row.id, values, store, self._pen)
        self._learning = Tasks(self.fail)
        self._trouble: BaseException | None = None  # what ended one of these
        self.standing = Standing()  # what the agent waits for, and what arrived for it
        self._heard = asyncio.Event()
        self.computing = Computing(self._pen, row, self.standing, self._heard)
        self._commands = OfRun(commands, row.id, self._heard)
        self._cancel = Cancelling(row.cancel_requested)
        self._always_suspend = always_suspend
        self._hand_over: Tell | None = None  # it is to be handed over, and who wants to know how
        self._streams = Streams()
        own = (self._pen, self._results, self.standing, self._streams)
        self._recording = Recording(row.id, row.version, store, *own)
        self._notes = Notes()
        self._obstacles = Obstacles(self._pen)
        self._stillness = Stillness(self._obstacles, self._tell_hand_over)
        self._outcome: Outcome | None = None

    @property
    def held_up(self) -> str | None:
        """What of its host keeps the run from going on as it should, in words for people."""
        return self._obstacles.words(self.live.guest if self.live else None)

    @property
    def epoch(self) -> Epoch:
        return self._pen.epoch

    @epoch.setter
    def epoch(self, epoch: Epoch) -> None:
        self._pen.epoch = epoch

    # What others may call.

    def deliver(self, op: str, **fields: Any) -> None:
        """An answer for `op` was recorded: tell the guest if it waits for it."""
        self.progressed = True
        self.standing.arrived.append(Result(op, fields))
        self._heard.set()

    @property
    def cancelled(self) -> bool:
        return self._cancel.wanted

    def cancel(self) -> None:
        """A cancellation was recorded: let the agent clean up and end."""
        self._cancel.wanted = True
        self._heard.set()

    def hand_over(self, tell: Tell) -> None:
        """Suspend the run wherever it is, as soon as that can be done, and begin no model call."""
        self._hand_over = tell
        self._heard.set()

    # The life of the machine.

    async def drive(self, snapshot: SnapshotRow | None) -> Outcome:
        """From `snapshot` (of the run, or its template; None: the log's beginning) to the end of
        this machine."""
        if snapshot is not None:
            self.snapshot = self._recording.newest = snapshot.id
            self._recording.key = self._results.key = await self._keys.of(self.run)
        key = self._recording.key
        origin = Origin(self.row, snapshot, key.key if key else None)
        live = await self._carriers.restore(origin, self._heard)
        outcome = Outcome.LOST
        try:
            self.live = live
            await self._wake(live, snapshot)
            try:
                outcome = await self._attend()
            except Refused as refused:
                await self._end(RunState.FAILED, error=refused.told())
                outcome = Outcome.ENDED
        except (TorporError, OSError) as error:
            # Whatever it was, this driver heard things that the next machine will say again.
            self.loss = str(error)
            log.info("run %s lost its machine: %s", self.run, error)
            self._tell_hand_over(f"lost its machine, goes on from the log: {error}")
        finally:
            if outcome is not Outcome.SUSPENDED:
                await self.calls.leave(ended=outcome is Outcome.ENDED)
            await self._learning.cut_off()
            self._results.close()
            self._commands.leave(self.loss)
            self.live = None
            self.damage = await live.damage()
            await live.discard()
            await self._finish_calls()
        return outcome

    async def _wake(self, live: Carrier, snapshot: SnapshotRow | None) -> None:
        """From the restored machine to an agent that goes on where it was, or starts."""
        started = snapshot is not None and snapshot.run is not None
        seq = Seq(0) if snapshot is None else snapshot.seq
        journal, said, still_open = await self._store.read(
            lambda c: (
                entries.journal(c, self.run, seq),
                said_after(c, self.run, snapshot),
                waits.list_waits(c, self.run),
            )
        )
        self.standing.due.update((wait.op, wait.due_at) for wait in still_open)
        self._notes = Notes(said, journal)
        self._streams.expect(journal)
        if snapshot is not None:
            await self._take_up(snapshot, {each["op"] for each in journal if "ok" in each})
        self.calls.take_up(self.standing.of("model"), journal)
        await live.thaw(self.run, self.epoch, started=started, journal=journal if started else [])
        self.standing.changed()
        resume_ms = (time.perf_counter() - self._decided) * 1000
        self._metrics.resumed(resume_ms)
        up = {"resume_ms": round(resume_ms, 1), "snapshot": self.snapshot, "warm": live.warm}
        await self._pen.note("machine.up", **up, broker=self.calls.broker)
        if not started:
            await live.start(self.epoch, self.row, journal)
        await self._ask_again()
        self._learning.spawn(live.woken())
        self.doing = "running"

    async def _take_up(self, snapshot: SnapshotRow, answered: set[str]) -> None:
        """Continue where the machine in `snapshot` was."""
        detail = snapshot.detail
        self.standing.take_up(detail, answered)
        self._streams.take_up(detail, snapshot.seq)
        if detail.get("at_work"):
            went_on = self.row.state is RunState.RUNNING
            await self._pen.write(lambda c: self._pen.repeat(c, snapshot, went_on))

    async def _ask_again(self) -> None:
        """What the machine had asked for before its snapshot, and nobody is at any more."""
        # This machine is the proof that the checkpoint was made.
        await self._end_checkpoints(self.standing.of("checkpoint"))
        for op in self.standing.of("model"):
            self._call_model(op)

    async def _attend(self) -> Outcome:
        """Hear the guest, pass on what arrives, decide about freezing, until it is over."""
        live = self._live
        while True:
            await self._take_inbox()
            if self._outcome is not None:
                return self._outcome
            if trouble := live.guest.broken or self._trouble:
                raise trouble
            self._recorded(*await self._recording.go_without())
            await self._obstacles.look(live.guest)
            await self.computing.look()
            self._answer()
            self._cancel.say(live.guest)
            if self._cancel.over:
                await self._end(RunState.CANCELLED, error=CANCELLED)
                return Outcome.ENDED
            if self._hand_over is not None and not self._cancel.wanted:
                if await self._suspend():
                    return Outcome.SUSPENDED
                if self._outcome is None:
                    await asyncio.sleep(HAND_OVER_RETRY_S)
                continue
            await self._commands.begin(live.guest, self._pen)
            if self._recording.wanted:
                await self._checkpoint()
                continue
            decision = self._decide()
            if isinstance(decision, policy.Freeze):
                if await self._suspend():
                    return Outcome.SUSPENDED
                continue
            await self._sleep(decision.again_s)

    async def _sleep(self, seconds: float | None) -> None:
        """Until something happens, at most `seconds`."""
        with self.standing.resting(), suppress(TimeoutError):
            async with asyncio.timeout(self._cancel.within(seconds)):
                await self._heard.wait()
                self._heard.clear()

    # What the guest says.

    async def _take_inbox(self) -> None:
        """Record all that was heard, in one transaction, and do what follows from it."""
        inbox = self._live.guest.inbox
        while inbox and self._outcome is None:
            await self._results.room()
            await self._live.guest.linger()
            writes: list[Write] = []
            after: list[Callable[[], None]] = []
            heard: set[str] = set()
            while inbox and len(writes) < 256 and not self._results.stuck:
                item = inbox.popleft()
                if not isinstance(item, Said):
                    writes += await self._streams.hear(item, self._pen)
                    continue
                heard.add(item.t)
                ending = self._on_message(item, writes, after)
                if ending is not None:
                    await self._results.write(*writes)
                    await self._end(*ending)
                    return
            writes += self.computing.untold()
            if writes:
                await self._results.write(*writes)
            if self._always_suspend and heard & {"begin", "end"}:
                self.hand_over(lambda how: None)
            for follow in after:
                follow()

    def _on_message(
        self, said: Said, writes: list[Write], after: list[Callable[[], None]]
    ) -> tuple[RunState, Any, dict[str, Any] | None] | None:
        """What `said` means: what to write, what to do once that is durable, or how it ends."""
        message = said.message
        match said.t:
            case "begin":
                self._on_begin(message, writes, after)
            case "batch":
                self._on_waits(message["begins"], writes, after)
            case "part":
                self._results.part(message)
            case "end":
                end = self._results.end(message, self._streams.offsets())
                if message.get("files") and self._live.freezer is not None:
                    self._recording.hold(message["op"], end)
                else:
                    writes.append(end)
                    after.append(lambda: self._recorded(message["op"]))
            case "fetch":
                self._learning.spawn(self._results.fetch(message["op"], self._live.guest))
            case "replayed":
                self._streams.replayed(message["op"])
            case "note":
                writes += self._notes.fresh(self._pen.noted(message))
            case "status":
                self.standing.said(message)
            case "done":
                return RunState.COMPLETED, message["value"], None
            case "failed":
                told = ("type", "message", "traceback", "diverged", "after_s", "final")
                error = {key: message[key] for key in told if key in message}
                if message["cancelled"] and self._cancel.wanted:
                    return RunState.CANCELLED, None, CANCELLED
                return RunState.FAILED, None, error
            case "exited":
                return RunState.FAILED, None, exit_error(message, self._live.memory_mib)
            case "resumed":
                correct_clock(self._live.guest, message["at"])
                self._recording.lives()
            case "unprepared":
                self._obstacles.put_off()
            case "exec.output" | "exec.taken" | "exec.exited":
                self._commands.hear(message)
            case _:
                raise GuestError(f"the machine said {said.t!r} when it was not asked")
        return None

    def _on_begin(
        self, message: dict[str, Any], writes: list[Write], after: list[Callable[[], None]]
    ) -> None:
        op, kind, data = message["op"], message["kind"], message["data"]
        if kind in waits.WAITS:
            self._on_waits([message], writes, after)
            return
        self._notes.begun([message])
        if kind in ("verdict", "model", "checkpoint"):
            self.standing.unanswered.add(op)
        match kind:
            case "verdict":
                said: dict[str, Any] = {}
                writes.append(lambda c: said.update(self._pen.judge(c, message)))
                after.append(lambda: self.deliver(op, **said))
                return
            case "model":
                after.append(lambda: self._call_model(op, data))
            case "checkpoint":
                after.append(lambda: self.standing.checkpoints.append(op))
        writes.append(self._pen.begin(message))

    def _on_waits(
        self, begins: list[dict[str, Any]], writes: list[Write], after: list[Callable[[], None]]
    ) -> None:
        self._notes.begun(begins)
        self.standing.unanswered.update(each["op"] for each in begins)
        made: list[WaitRow] = []
        writes.append(lambda c: made.extend(self._pen.create_waits(c, begins)))
        after.append(lambda: self._waits_made(made))

    def _recorded(self, *ops: str) -> None:
        for op in ops:
            self.progressed = True
            self._results.confirm(OpId(op), self._live.guest)

    def _waits_made(self, made: list[WaitRow]) -> None:
        for wait in made:
            self.standing.due[wait.op] = wait.due_at
            if wait.state != waits.OPEN:  # a recovered machine begins again what was answered
                self.deliver(wait.op, **wait.outcome)

    def _call_model(self, op: OpId, asked: dict[str, Any] | None = None) -> None:
        if self._hand_over is None:  # else the next server makes it
            self.calls.make(op, asked, self.deliver)

    async def _finish_calls(self) -> None:
        """What the model was asked is paid for: recorded, though no machine hears it now."""
        if self.calls.under_way:
            self.doing = "waiting for the model's answer"
            self._tell_hand_over(self.doing)
        await self.calls.under_way.finish()
        if self._trouble is not None:  # the next server asks again
            log.warning("run %s: an answer was not recorded: %s", self.run, self._trouble)

    # What the guest is told.

    def _answer(self) -> None:
        while self._trouble is None and (result := self.standing.next_answer()) is not None:
            self._live.guest.say("result", op=result.op, **result.fields)

    # Freezing.

    def _decide(self) -> policy.Freeze | policy.Stay:
        if self._cancel.wanted:
            return policy.Stay("it is being cancelled", None)
        if self._commands.any:
            return policy.Stay("a command is at work beside it", None)
        if stay := self._obstacles.stay(self._live.guest, waiting=self.standing.waiting):
            return stay
        return policy.decide(self.standing.facts(self._live.cpu_s()), self._carriers.terms)

    def _only_waits(self) -> bool:
        busy = self._cancel.wanted or self._commands.any
        return not busy and self.standing.only_waits

    @property
    def _rests(self) -> bool:
        """Whether an agent that is held has nothing to go on with before one of its waits ends."""
        return self._only_waits() and self._stillness.rests

    def _may_go(self) -> bool:
        """Whether a machine that stands still may be discarded, once it is recorded where it is."""
        return self._hand_over is not None or self._only_waits()

    async def _prepare(self) -> bool:
        """Whether the agent is held now: only if it rests, but where it is handed over."""
        anyhow, near_s = self._hand_over is not None, self._carriers.terms.timers_s
        return await self._stillness.prepare(self._live.guest, near_s, anyhow=anyhow)

    async def _suspend(self) -> bool:
        """True once the run is suspended; what carried it may be discarded then."""
        self.doing = "freezing"
        freezer = self._live.freezer
        with self.standing.resting():
            suspended = await (self._leave() if freezer is None else self._freeze(freezer))
        if not suspended and self._outcome is None:
            self.doing = "running"
        return suspended

    async def _leave(self) -> bool:
        """Suspend the run without a snapshot: the log is all that its next carrier needs."""
        if await self._prepare():
            place, _ = await self._place()
            if self._outcome is not None:  # among the last things heard was its end
                return False
            if self._may_go():
                await self._pen.write(*self._suspension(place.seq))
                self._tell_hand_over("ended; it goes on from the log")
                return True
            resume(self._live.guest)
        return False

    async def _freeze(self, freezer: Freezer) -> bool:
        decided = time.perf_counter()
        if await self._prepare():
            try:
                async with freezer.capturing() as taken:
                    place = await self._place()
                    if self._outcome is not None:  # among the last things heard was its end
                        return False
                    captured = await freezer.keep(taken, lambda: not self._may_go())
                    if self._may_go():
                        await self._record(captured, place, decided, *self._suspension())
                        return True
                    # It has something to do. What was stored is a good snapshot all the same.
                    await freezer.carry_on()
                    resume(self._live.guest)
                    await self._record(captured, place, decided)
            except _NOT_OF_FREEZING:
                raise
            except GivenUp:  # it has something to do, and the machine goes on already
                resume(self._live.guest)
            except (TorporError, OSError) as error:
                if await self._pen.has_suspended():
                    return True
                await self._freeze_failed(error)
        return False

    async def _checkpoint(self) -> None:
        """A snapshot of a machine that goes on; its pause is the copy alone. Where nothing can be
        frozen, the log is what a crash does not go back behind."""
        decided = time.perf_counter()
        freezer = self._live.freezer
        if freezer is not None and not await self._stillness.prepare(self._live.guest):
            self._recording.failed(lives=True)
        elif freezer is not None:
            try:
                async with freezer.capturing() as taken:
                    place = await self._place()
                    if self._outcome is not None:  # among the last things heard was its end
                        return
                    await freezer.carry_on()
                    resume(self._live.guest)
                    captured = await freezer.keep(taken)
                await self._record(captured, place, decided)
            except _NOT_OF_FREEZING:
                raise
            except (TorporError, OSError) as error:
                await self._freeze_failed(error)
        # One that failed is answered as well: the agent loses no more than a later snapshot.
        asked, self.standing.checkpoints = self.standing.checkpoints, []
        await self._end_checkpoints(asked)

    async def _end_checkpoints(self, asked: Sequence[str]) -> None:
        done = [NewEntry(END, OpId(op), {"ok": True, "value": None}) for op in asked]
        if done:
            await self._pen.write(*done)
        for op in asked:
            self.deliver(op, ok=True, value=None)

    async def _freeze_failed(self, error: Exception) -> None:
        """Rule 6: the run goes on, says so, loses nothing."""
        self._recording.failed()
        resume(self._live.guest)
        log.warning("run %s could not be frozen: %s", self.run, error)
        await self._stillness.failed(str(error))

    async def _place(self) -> tuple[Place, dict[str, Any]]:
        """Where in the log a machine that was just taken stands, and what it waits for."""
        # A step's end that is recorded only now: that it was is not in the machine that was taken.
        acknowledged = [
            item.message["op"]
            for item in self._live.guest.inbox
            if isinstance(item, Said) and item.t == "end"
        ]
        with recorded_or_lost():
            await self._take_inbox()
        return await self._recording.place(acknowledged, rests=self._rests)

    async def _record(
        self,
        captured: Captured,
        place: tuple[Place, dict[str, Any]],
        decided: float,
        *also: Write,
    ) -> None:
        """Record a snapshot, and what goes with it into one transaction."""
        freeze_ms, ended = await self._recording.record(captured, place, decided, *also)
        self._recorded(*ended)
        self._obstacles.frozen()
        self._metrics.frozen(freeze_ms)
        self.progressed = True
        self._tell_hand_over(f"frozen where it was, in {freeze_ms:.0f} ms")

    def _suspension(self, seen: Seq | None = None) -> list[Write]:
        how = (not self._rests, self.standing.patient, self._stillness.wake_at)
        return [self.computing.tell, self._pen.suspension(seen, *how)]

    def _tell_hand_over(self, how: str) -> None:
        if self._hand_over is not None:
            self._hand_over(how)

    # Writing.

    @property
    def _live(self) -> Carrier:
        assert self.live is not None
        return self.live

    async def _end(
        self, state: RunState, result: Any = None, error: dict[str, Any] | None = None
    ) -> None:
        await self._pen.end(self._keys, state, result, error)
        self._outcome = Outcome.ENDED
        self.doing = ENDED

    def fail(self, error: BaseException) -> None:
        """Something that goes on beside the conversation with the guest has ended badly."""
        self._trouble = error
        self._heard.set()
