"""One running run for one epoch: the only master of what carries its agent, from restore to freeze
or end.

    claim ─► restore ─► thaw ─► [start] ─► receive / decide ─┬─► SUSPENDED  frozen, machine gone
                                      ▲                      ├─► ENDED      a result, error, cancel
                                      └── went on after all ─┤
                                                             └─► LOST       machine gone: recover

One task does everything for the machine, in order. Others (timers, API calls, model calls) only
put results into `deliver` and set an event.

What may be sent to the guest follows from what is durable: a step's end, a wait's answer, a
model's response are committed first (rules 1, 2). Every write is fenced by this machine's epoch
(rule 4). What a message from the agent means is in `torpor.worker.interpreting`, that it is carried
out in `receiving`, how the run is suspended in `freezing`.

A server that is told to stop *hands over* its runs: each machine is frozen wherever it is, be it in
the middle of a computation, and its run is claimable at once, for the next server. Model calls
under way are waited for: the next machine finds their answers in the log (`torpor.worker.calls`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from functools import partial
from typing import Any

from torpor.contextlog import entries, spent, waits
from torpor.contextlog.agents import AgentRow, find_agent
from torpor.contextlog.runs import RunRow
from torpor.contextlog.snapshots import SnapshotRow
from torpor.core.errors import TorporError
from torpor.core.ids import Epoch, OpId, RunId, Seq, SnapshotId
from torpor.core.position import NOT_BEGUN, Position
from torpor.core.states import RunState
from torpor.policy import freeze as policy
from torpor.wire import names
from torpor.worker.cancelling import CANCELLED
from torpor.worker.carrier import Carrier, Carriers, Origin
from torpor.worker.freezing import Freezing
from torpor.worker.handover import Report
from torpor.worker.interpreting import Ending, failed
from torpor.worker.notes import Notes, repeatable
from torpor.worker.parts import Parts, Shared
from torpor.worker.pen import Refused
from torpor.worker.receiving import Receiver
from torpor.worker.way import policy_of

log = logging.getLogger(__name__)


class Outcome(Enum):
    SUSPENDED = "suspended"
    ENDED = "ended"
    LOST = "lost"


class Driver:
    def __init__(
        self, shared: Shared, carriers: Carriers, row: RunRow, *, always_suspend: bool = False
    ) -> None:
        """For `row`; `epoch` is set when it was claimed. With `always_suspend` the run is handed
        over to the next driver at each operation."""
        self.run: RunId = row.id
        self.row = row
        self._doing = "starting"
        self.snapshot: SnapshotId | None = None  # what its machine was restored from
        self.damage: str | None = None  # what the machine could not read of its snapshot
        self._unfit: dict[SnapshotId, tuple[SnapshotRow, str]] = {}  # passed over, and why
        self.loss = ""  # why the machine was lost, where that is known
        self.left: dict[OpId, int] = {}  # calls that its run sleeps under: how far each had come
        self._call_rule: bool | float = True
        self._shared, self._carriers, self._clock = shared, carriers, shared.clock
        self._decided = self._clock.monotonic()  # before the claim, which is part of a resume
        self._parts = parts = Parts(shared, carriers, row)
        self.calls, self.standing, self.computing = parts.calls, parts.standing, parts.computing
        self._receiver = Receiver(parts, always_suspend=always_suspend)
        self._freezing = Freezing(parts, self._receiver)

    @property
    def live(self) -> Carrier | None:
        return self._parts.carrier

    @property
    def progressed(self) -> bool:
        """Something durable came of this machine."""
        return self._parts.progressed

    @property
    def ended(self) -> bool:
        """The run has."""
        return self._receiver.ended

    @property
    def trouble(self) -> BaseException | None:
        """What ended this epoch, if not its agent or its machine."""
        return self._parts.trouble

    @property
    def doing(self) -> str:
        """For people: `torpor show`."""
        return "ended" if self.ended else self._doing

    @doing.setter
    def doing(self, doing: str) -> None:
        self._doing = doing

    @property
    def held_up(self) -> str | None:
        """What of its host keeps the run from going on as it should, in words for people."""
        return self._parts.obstacles.words(self.live.guest if self.live else None)

    @property
    def epoch(self) -> Epoch:
        return self._parts.pen.epoch

    @epoch.setter
    def epoch(self, epoch: Epoch) -> None:
        self._parts.pen.epoch = epoch

    # What others may call.

    def deliver(self, op: str, outcome: Mapping[str, Any]) -> None:
        """An answer for `op` was recorded: the guest gets it if it waits for it."""
        self._parts.deliver(op, outcome)

    @property
    def cancelled(self) -> bool:
        return self._parts.cancelling.wanted

    def cancel(self) -> None:
        """A cancellation was recorded: let the agent clean up and end."""
        self._parts.cancelling.wanted = True
        self._parts.changed.set()

    def hand_over(self, report: Report) -> None:
        """Suspend the run wherever it is, as soon as that can be done, and begin no model call."""
        self._parts.hand_over.request(report)
        self._parts.changed.set()

    def fail(self, error: BaseException) -> None:
        """The epoch is over, for this."""
        self._parts.fail(error)

    # The life of the machine.

    def passed_over(self, snapshot: SnapshotRow | None, why: str) -> None:
        """It was not restored from `snapshot`, which is of another host's machine."""
        if snapshot is not None:
            self._unfit[snapshot.id] = snapshot, why

    async def note_unfit(self, seq: Seq) -> None:
        """Have the log say what was passed over, and from where it is replayed instead."""
        if self._unfit:
            (_, why), *_ = self._unfit.values()
            of_runs = [row.id for row, _ in self._unfit.values() if row.run is not None]
            await self._parts.pen.note("snapshot.unfit", snapshots=of_runs, reason=why, seq=seq)
            self._unfit.clear()

    async def drive(self, snapshot: SnapshotRow | None) -> Outcome:
        """From `snapshot` (of the run, or its template; None: the log's beginning) to the end of
        this machine."""
        parts = self._parts
        # Raises Invalid, and another snapshot serves.
        position = NOT_BEGUN if snapshot is None else snapshot.position()
        if snapshot is not None:
            self.snapshot = parts.recording.newest = snapshot.id
            parts.recording.key = parts.results.key = await self._shared.keys.of(self.run)
        key = parts.recording.key
        origin = Origin(self.row, snapshot, key.key if key else None)
        live = await self._carriers.restore(origin, parts.changed)
        outcome = Outcome.LOST
        try:
            parts.carrier = live
            await self._wake(live, snapshot, position)
            try:
                outcome = await self._attend(live)
            except Refused as refused:
                await self._receiver.end(failed(refused.shown()))
                outcome = Outcome.ENDED
        except (TorporError, OSError) as error:
            # Whatever it was, what this driver received the next machine will send again.
            self.loss = str(error)
            log.info("run %s lost its machine: %s", self.run, error)
            parts.hand_over.report(f"lost its machine, goes on from the log: {error}")
        finally:
            try:
                if outcome is not Outcome.SUSPENDED:
                    await parts.calls.leave(ended=outcome is Outcome.ENDED)
                elif self.left and not parts.hand_over.wanted:  # it sleeps under them
                    await parts.calls.leave(ended=False)
                if outcome is not Outcome.ENDED:
                    await self._shared.broker.drop_policy(self.run)
                await parts.network.leave(self.loss if outcome is Outcome.LOST else None)
                await parts.serving.leave()
                await parts.learning.cut_off()
                parts.results.close()
                parts.commands.leave(self.loss)
                parts.carrier = None
                self.damage = await live.damage()
                await live.discard()
                await self._finish_calls()
            except asyncio.CancelledError:
                # A call that outlived its driver would be made again when the broker goes.
                await parts.calls.under_way.cut_off()
                raise
        return outcome

    async def _wake(self, live: Carrier, snapshot: SnapshotRow | None, position: Position) -> None:
        """From the restored machine to an agent that goes on where it was, or starts."""
        parts = self._parts
        started = snapshot is not None and snapshot.run is not None
        seq = Seq(0) if snapshot is None else snapshot.seq
        journal, notes, still_open, agent, used = await self._shared.store.read(
            lambda c: (
                entries.journal(c, self.run, seq),
                repeatable(c, self.run, snapshot),
                waits.list_waits(c, self.run),
                find_agent(c, self.row.version),
                spent.known(c, self.run, self._clock.now()),
            )
        )
        if agent is not None:
            self._call_rule = agent.rules.freeze_on_model_wait
            policy = policy_of(agent, self.row, used)
            self._shared.broker.post_policy(self.run, policy, partial(self._policy, agent))
        parts.standing.due.update((wait.op, wait.due_at) for wait in still_open)
        parts.notes = Notes(notes, journal)
        parts.streams.expect(journal)
        if snapshot is not None:
            await self._take_up(
                snapshot, position, {each["op"] for each in journal if "ok" in each}
            )
        parts.calls.take_up(parts.standing.calls, journal)
        await live.thaw(self.run, self.epoch, started=started, journal=journal if started else [])
        parts.standing.changed()
        resume_ms = (self._clock.monotonic() - self._decided) * 1000
        self._shared.metrics.resumed(resume_ms)
        if started:
            self._shared.cost.resumed(resume_ms)
        await self.note_unfit(seq)
        up = {"resume_ms": round(resume_ms, 1), "snapshot": self.snapshot, "warm": live.warm}
        await parts.pen.note("machine.up", **up, broker=parts.calls.broker)
        if not started:
            await live.start(self.epoch, self.row, journal)
        await self._begin_again()
        parts.learning.spawn(live.woken())
        self.doing = "running"

    async def _policy(self, agent: AgentRow) -> Mapping[str, Any]:
        """As the log has it by then."""
        used = await self._shared.store.read(lambda c: spent.known(c, self.run, self._clock.now()))
        return policy_of(agent, self.row, used)

    async def _take_up(
        self, snapshot: SnapshotRow, position: Position, answered: set[OpId]
    ) -> None:
        """Continue where the machine in `snapshot` was."""
        parts = self._parts
        parts.standing.take_up(position, answered)
        parts.streams.take_up(position, snapshot.seq)
        if position.at_work:
            went_on = self.row.state is RunState.RUNNING
            await parts.pen.write(lambda c: parts.pen.repeat(c, snapshot, went_on))

    async def _begin_again(self) -> None:
        """What the machine had requested before its snapshot, and nobody is at any more."""
        # This machine is the proof that there is the checkpoint.
        await self._freezing.end_checkpoints(self.standing.of("checkpoint"))
        for op in self.standing.calls:
            self._parts.call(op)

    async def _attend(self, live: Carrier) -> Outcome:
        """Receive from the guest, pass on what arrives, decide about freezing, until it is over."""
        parts = self._parts
        while True:
            await self._receiver.take()
            if self.ended:
                return Outcome.ENDED
            if trouble := live.guest.broken or parts.trouble:
                raise trouble
            parts.confirm(*await parts.recording.go_without())
            await parts.obstacles.look(live.guest)
            await parts.computing.look()
            self._answer(live)
            parts.cancelling.begin(live.guest)
            if parts.cancelling.over:
                await self._receiver.end(Ending(RunState.CANCELLED, error=CANCELLED))
                return Outcome.ENDED
            if parts.hand_over.wanted and not parts.cancelling.wanted:
                if await self._suspend():
                    return Outcome.SUSPENDED
                if not self.ended:
                    await self._clock.sleep(self._shared.limits.hand_over_retry_s)
                continue
            await parts.commands.begin(live.guest, parts.pen)
            if parts.recording.wanted:
                await self._freezing.checkpoint()
                continue
            decision = self._decide(live)
            if isinstance(decision, policy.Freeze):
                if await self._suspend():
                    return Outcome.SUSPENDED
                continue
            await self._sleep(decision.again_s)

    async def _sleep(self, seconds: float | None) -> None:
        """Until something happens, at most `seconds`."""
        parts = self._parts
        with parts.standing.resting(), suppress(TimeoutError):
            async with self._clock.timeout(parts.cancelling.within(seconds)):
                await parts.changed.wait()
                parts.changed.clear()

    def _answer(self, live: Carrier) -> None:
        """Give the guest what has arrived for it."""
        while self._parts.trouble is None and (result := self.standing.next_answer()) is not None:
            live.guest.say(names.RESULT, op=result.op, **result.outcome)

    def _decide(self, live: Carrier) -> policy.Freeze | policy.Stay:
        parts = self._parts
        if parts.cancelling.wanted:
            return policy.Stay("it is being cancelled", None)
        if parts.commands.any:
            return policy.Stay("a command is at work beside it", None)
        if stay := parts.on_its_way:
            return stay
        facts, terms = self.standing.facts(live.cpu_s()), self._carriers.terms
        if stay := parts.obstacles.stay(live.guest, waiting=facts.waiting + facts.calls):
            return stay
        if live.freezer is not None:
            call_s = policy.call_patience(self._call_rule, self._shared.cost.seconds)
            self.standing.call_s, terms = call_s, replace(terms, call_s=call_s)
        return policy.decide(facts, terms)

    async def _suspend(self) -> bool:
        self.doing = "freezing"
        # As its machine has it: it is not frozen if more comes meanwhile.
        self.left = self.calls.progress()
        suspended = await self._freezing.suspend()
        if not suspended:
            self.doing = "running"
        return suspended

    async def _finish_calls(self) -> None:
        """A model call that was begun is paid for: recorded, though no machine gets it now."""
        parts = self._parts
        if parts.calls.under_way:
            self.doing = "waiting for the model's answer"
            parts.hand_over.report(self.doing)
        await parts.calls.under_way.finish()
        if parts.trouble is not None:  # the next server requests it again
            log.warning("run %s: an answer was not recorded: %s", self.run, parts.trouble)
