"""What comes from an agent, carried out: interpreted (`torpor.worker.interpreting`), written in one
transaction, and followed up once that is durable.

Output comes in the same order as messages, and is written with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torpor.contextlog.entries import NewEntry
from torpor.contextlog.waits import OPEN
from torpor.machines.channel import Message
from torpor.machines.thaw import correct_clock
from torpor.wire import names
from torpor.wire.streams import Frame
from torpor.worker import interpreting as effects
from torpor.worker.interpreting import Effects, Ending, State, Then, interpret
from torpor.worker.parts import Parts
from torpor.worker.pen import Write

# One transaction has no more writes than these, and those of one message.
WRITES_MAX = 256


class Receiver:
    """Of one driver, which is made of `parts`. With `always_suspend` the run is handed over to the
    next driver at each operation."""

    def __init__(self, parts: Parts, *, always_suspend: bool) -> None:
        self._parts, self._always_suspend = parts, always_suspend
        self.ended = False  # the run has

    async def take(self) -> None:
        """Take all that came, perhaps the run's end. Raises GuestError, Refused, StaleEpoch,
        HostError."""
        guest = self._parts.live.guest
        while guest.inbox and not self.ended:
            await self._parts.results.room()
            await guest.linger()
            await self._take_some()

    async def _take_some(self) -> None:
        parts, inbox = self._parts, self._parts.live.guest.inbox
        writes: list[Write] = []
        then: list[Then | Frame] = []
        types: set[str] = set()
        while inbox and len(writes) < WRITES_MAX and not parts.results.stuck:
            item = inbox.popleft()
            if isinstance(item, Frame):
                if then:  # it may be of a call that is only then made
                    then.append(item)
                else:
                    parts.take_frame(item)
                continue
            if not isinstance(item, Message):
                writes += await parts.streams.take(item, parts.pen)
                continue
            types.add(item.t)
            meant: Effects = interpret(item.fields, self._state())
            for now in meant.now:
                self._do(now)
            for write in meant.writes:
                writes += _WRITES[type(write)](parts, write)
            then += meant.then
            if meant.ending is not None:
                await parts.results.write(*writes)
                await self.end(meant.ending)
                return
        writes += parts.computing.unrecorded()
        found: list[Then] = await parts.results.write(*writes) if writes else []
        if self._always_suspend and types & {names.BEGIN, names.END}:
            parts.hand_over.request(lambda how: None)
        for each in (*found, *then):
            self._do(each)

    async def end(self, ending: Ending) -> None:
        if lost := self._parts.network.lost("the run ended"):
            await self._parts.pen.write(*lost)
        await self._parts.pen.end(self._parts.shared.keys, ending)
        self.ended = True

    def _state(self) -> State:
        parts, live = self._parts, self._parts.live
        return State(
            freezes=live.freezer is not None,
            cancelling=parts.cancelling.wanted,
            memory_mib=live.memory_mib,
            printed=parts.streams.offsets(),
        )

    def _do(self, effect: effects.Now | Then | Frame) -> None:
        _DOES[type(effect)](self._parts, effect)


# What is done, by the kind of effect.


def _begun(parts: Parts, begun: effects.Begun) -> None:
    parts.notes.begun(begun.begins)
    if begun.answered_by_host:
        parts.standing.unanswered.update(each["op"] for each in begun.begins)
        parts.standing.call_stirs()


def _status(parts: Parts, status: effects.Status) -> None:
    parts.standing.update(status.waiting, status.busy, patient=status.patient)


def _resumed(parts: Parts, resumed: effects.Resumed) -> None:
    correct_clock(parts.live.guest, resumed.at)
    parts.recording.lives()


def _hold(parts: Parts, hold: effects.Hold) -> None:
    parts.recording.hold(hold.end.op, parts.results.end(hold.end))


def _fetch(parts: Parts, fetch: effects.Fetch) -> None:
    parts.learning.spawn(parts.results.fetch(fetch.op, parts.live.guest))


def _created(parts: Parts, created: effects.Created) -> None:
    for wait in created.waits:
        parts.standing.due[wait.op] = wait.due_at
        if wait.state != OPEN:  # a recovered machine begins again what was answered
            parts.deliver(wait.op, wait.outcome)


_DOES: dict[type, Callable[[Parts, Any], object]] = {
    Frame: lambda parts, frame: parts.take_frame(frame),
    effects.Begun: _begun,
    effects.Spool: lambda parts, spool: parts.results.spool(spool.op, spool.data),
    effects.Replayed: lambda parts, replayed: parts.streams.replayed(replayed.op),
    effects.Status: _status,
    effects.Resumed: _resumed,
    effects.Unprepared: lambda parts, unprepared: parts.obstacles.put_off(),
    effects.OfCommand: lambda parts, each: parts.commands.receive(each.message),
    effects.Hold: _hold,
    effects.Confirm: lambda parts, confirm: parts.confirm(confirm.op),
    effects.Call: lambda parts, call: parts.call(call.op, call.request, call.stream),
    effects.Certify: lambda parts, each: parts.certify(each.name, each.authority),
    effects.Checkpoint: lambda parts, each: parts.standing.checkpoints.append(each.op),
    effects.Fetch: _fetch,
    effects.Created: _created,
    effects.Answered: lambda parts, each: parts.deliver(each.op, each.outcome),
}


# How it is written, by the kind of write. A function gives what it found out, to be done then.


def _append(parts: Parts, entry: NewEntry) -> Iterable[Write]:
    return (entry,)


def _note(parts: Parts, note: effects.Note) -> Iterable[Write]:
    return parts.notes.fresh(note.entry)


def _end(parts: Parts, end: effects.End) -> Iterable[Write]:
    return (parts.results.end(end),)


def _create_waits(parts: Parts, waits: effects.CreateWaits) -> Iterable[Write]:
    return (lambda c: effects.Created(tuple(parts.pen.create_waits(c, waits.begins))),)


def _judge(parts: Parts, judge: effects.Judge) -> Iterable[Write]:
    op = judge.begin["op"]
    return (lambda c: effects.Answered(op, parts.pen.judge(c, judge.begin)),)


_WRITES: dict[type, Callable[[Parts, Any], Iterable[Write]]] = {
    NewEntry: _append,
    effects.Note: _note,
    effects.End: _end,
    effects.CreateWaits: _create_waits,
    effects.Judge: _judge,
}
