"""Model calls of a run: made, recorded, and only then given to the agent (rule 2).

A call's identity is its run and operation. The broker makes it once for that identity, however
often it is asked (`torpor.egress.calls`): a driver that takes over a run in the middle of a call,
in this server or the next one, *adopts* what the one before it had begun. Where the broker does not
know of a call that had begun, it is in doubt (rule 3): it died with a broker. That is marked in the
log, with the reason, and the call is made again, once, under the same identity and the same
Idempotency-Key.

What is recorded is acknowledged to the broker, which then forgets it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torpor.contextlog import calls, entries
from torpor.contextlog.entries import AGAIN, END, NewEntry
from torpor.core.errors import Conflict, Invalid
from torpor.core.ids import OpId, RunId
from torpor.core.replies import read_reply
from torpor.egress.models import Model, Unanswered, no_answer
from torpor.logstore.protocol import Store
from torpor.worker.metrics import Metrics
from torpor.worker.pen import Pen, Refused
from torpor.worker.tasks import Tasks

DIED = "the broker ended before it had a reply: whether the model got the request is unknown"
BEGUN = (
    "it was begun before, and no broker knows of it: whether the model got the request is unknown"
)
_TRIES = 2


Request = Mapping[str, Any]
Deliver = Callable[[OpId, Mapping[str, Any]], None]


class Calls:
    def __init__(
        self,
        run: RunId,
        store: Store,
        model: Model,
        pen: Pen,
        under_way: Tasks,
        metrics: Metrics,
    ) -> None:
        self.under_way = under_way
        self._metrics = metrics
        self._run, self._store, self._model, self._pen = run, store, model, pen
        self._before: frozenset[OpId] = frozenset()
        self._making: set[OpId] = set()
        self._unsettled: set[OpId] = set()  # the broker may have them

    @property
    def ops(self) -> frozenset[OpId]:
        """Those under way."""
        return frozenset(self._making)

    @property
    def broker(self) -> str:
        """Which one answered last."""
        return self._model.broker

    def take_up(self, unanswered: Iterable[OpId], journal: Iterable[Mapping[str, Any]]) -> None:
        """What began in an epoch before, and has no result: the broker may have it."""
        records = (each for each in journal if each["kind"] == "model" and "ok" not in each)
        self._before = frozenset([*unanswered, *(OpId(each["op"]) for each in records)])
        self._unsettled.update(self._before)

    def make(self, op: OpId, request: Request | None, deliver: Deliver) -> None:
        """Make the call that `op` began with `request`, by default as the log has it. `deliver`
        gets its outcome once that is recorded."""
        self._making.add(op)
        self._unsettled.add(op)

        async def make() -> None:
            try:
                outcome = await self._outcome(op, request)
            finally:
                self._making.discard(op)
            deliver(op, outcome)
            await self._model.acknowledge(self._run, op)
            self._unsettled.discard(op)

        self.under_way.spawn(make())

    async def leave(self, *, ended: bool) -> None:
        """What is under way is the next driver's to adopt; nobody's, if the run has ended."""
        await self.under_way.cut_off()
        if ended and self._unsettled:
            await self._model.forget(self._run)

    async def _outcome(self, op: OpId, request: Request | None) -> dict[str, Any]:
        recorded = await self._store.read(lambda c: entries.read_end(c, self._run, op))
        if recorded is not None:  # its client had gone, and another asks for the same
            return recorded
        if request is None:
            request = (await self._store.read(lambda c: entries.read_op(c, self._run, op)))["data"]
        value = await self._value(op, request)
        self._metrics.model_called(read_reply(value))
        try:
            return await self._record(op, value)
        except Refused as refused:
            if not isinstance(refused.error, Invalid):
                raise
            # Too large to be kept, and it would be again.
            value = no_answer(request["path"], 502, refused.error, retry=False)
            return await self._record(op, value)

    async def _value(self, op: OpId, request: Request) -> dict[str, Any]:
        """The model's answer."""
        # Why the call may have been made already, if it may.
        doubt = BEGUN if op in self._before else None
        lost: Unanswered | None = None
        for _ in range(_TRIES):
            if doubt is not None:
                adopted = await self._model.adopt(self._run, op)
                if adopted is not None:
                    return adopted
                if doubt is not BEGUN or not await self._was_not_sent(op):
                    await self._pen.write(NewEntry(AGAIN, op, {"reason": doubt}))
            try:
                return await self._model.make(self._run, op, request)
            except Unanswered as error:
                lost, doubt = error, DIED
        assert lost is not None
        # Perhaps because of it: a client that repeats it by itself may pay again and again.
        return no_answer(request["path"], 503, lost, retry=False)

    async def _was_not_sent(self, op: OpId) -> bool:
        """Of one that the broker does not know of: it came no further than the log."""
        broker = self._model.broker
        begun = await self._store.read(lambda c: calls.begun_with(c, self._run, op))
        return begun.run != self._run or (broker != "" and begun.broker == broker)

    async def _record(self, op: OpId, value: dict[str, Any]) -> dict[str, Any]:
        outcome = {"ok": True, "value": value}
        try:
            await self._pen.write(NewEntry(END, op, outcome))
        except Refused as refused:
            if not isinstance(refused.error, Conflict):
                raise
            # Begun again after a recovery, and recorded before it: that one stands.
            found = await self._store.read(lambda c: entries.read_end(c, self._run, op))
            assert found is not None
            return found
        return outcome
