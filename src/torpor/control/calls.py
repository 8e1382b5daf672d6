"""Model calls of a run: made, recorded, and only then given to the agent (rule 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torpor.contextlog import entries
from torpor.contextlog.entries import END, NewEntry
from torpor.contextlog.store import LogStore
from torpor.control.metrics import Metrics
from torpor.control.model import Model, no_answer
from torpor.control.pen import Pen, Refused
from torpor.control.tasks import Tasks
from torpor.model.errors import Conflict, Invalid
from torpor.model.ids import OpId, RunId
from torpor.model.replies import read_reply


class Calls:
    def __init__(
        self,
        run: RunId,
        store: LogStore,
        model: Model,
        pen: Pen,
        under_way: Tasks,
        metrics: Metrics,
    ) -> None:
        self.under_way = under_way
        self._metrics = metrics
        self._run, self._store, self._model, self._pen = run, store, model, pen

    def make(self, op: OpId, asked: dict[str, Any] | None, deliver: Callable[..., None]) -> None:
        """Make the call that `op` began with `asked`, by default as the log has it. `deliver` gets
        its outcome once that is recorded: op, ok=…, value=… or error=…."""

        async def make() -> None:
            deliver(op, **await self._outcome(op, asked))

        self.under_way.spawn(make())

    async def _outcome(self, op: OpId, asked: dict[str, Any] | None) -> dict[str, Any]:
        if asked is None:
            begun = await self._store.read(lambda c: entries.read_op(c, self._run, op))
            asked = begun["data"]
        value = await self._model.answer(asked)
        self._metrics.model_called(read_reply(value))
        try:
            return await self._record(op, value)
        except Refused as refused:
            if not isinstance(refused.error, Invalid):
                raise
            # Too large to be kept.
            return await self._record(op, no_answer(502, refused.error))

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
