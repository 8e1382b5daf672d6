"""What runs wait for, as people see it, and what ends it from outside: answers and events.

An answer is checked here, whichever way it came (command line, API, page): that it is of the kind
that is asked for, and that it fits the wait's schema. It takes effect in one write, once
(rule 11); what does not fit changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection

from torpor.contextlog import events, runs, waits
from torpor.contextlog.events import Sent
from torpor.contextlog.store import LogStore
from torpor.contextlog.waits import WaitRow
from torpor.model import doubts
from torpor.model.errors import Conflict, HostError, Invalid
from torpor.policy import answers

Object = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    data: Any = None
    approved: bool | None = None
    note: str | None = None
    by: str | None = None


class Waiting:
    def __init__(self, store: LogStore, answered: Callable[[WaitRow | None], None]) -> None:
        """`answered` is told of each wait that was ended, and of None when the log failed, and may
        have ended some all the same."""
        self._store = store
        self._answered = answered

    async def waits(
        self, run: str | None, all: bool, limit: int | None, after: str | None, tag: str | None
    ) -> list[Object]:
        def read(c: Connection) -> list[WaitRow]:
            of = None if run is None else runs.get_run(c, run).id
            past = None if after is None else waits.get_wait(c, after).id
            return waits.list_waits(c, of, open_only=not all, limit=limit, after=past, tag=tag)

        return [self._shown(wait) for wait in await self._store.read(read)]

    async def wait(self, ref: str) -> Object:
        return self._shown(await self._find(ref))

    async def complete(self, ref: str, answer: Answer) -> Object:
        """Raises NotFound, Conflict (it has ended, or ends by itself), Invalid."""
        wait = await self._find(ref)
        if wait.kind == "wait" and wait.state == waits.OPEN:
            # Its schema never changes, and checking may take a moment: not in the write.
            await asyncio.to_thread(answers.check_answer, wait.schema, answer.data)
        value = _value(wait, answer)

        def write(c: Connection) -> list[WaitRow]:
            now = time.time()
            return waits.answer_wait(c, wait, value=value, now=now, by=answer.by)

        ended = await self._write(write)
        for each in ended:
            self._answered(each)
        return self._shown(ended[0])

    async def send(
        self, ref: str, name: str, data: Any, *, by: str | None = None, event: str | None = None
    ) -> Object:
        """Give a run an event; `event` is its sender's id of it. Raises as `send_event`."""

        def write(c: Connection) -> Sent:
            run = runs.get_run(c, ref).id
            return events.send_event(c, run, name, data, now=time.time(), by=by, event=event)

        sent = await self._write(write)
        if sent.taken is not None:
            self._answered(sent.taken)
        return {
            "run": sent.run,
            "seq": sent.seq,
            "name": name,
            "wait": sent.taken and sent.taken.id,
            "again": sent.again,
        }

    async def _write(self, fn: Callable[[Connection], T]) -> T:
        try:
            return await self._store.write(fn)
        except HostError:
            self._answered(None)
            raise

    async def _find(self, ref: str) -> WaitRow:
        return await self._store.read(lambda c: waits.get_wait(c, ref))

    def _shown(self, wait: WaitRow) -> Object:
        return wait.to_json()


def _value(wait: WaitRow, answer: Answer) -> Object:
    """What `answer` is to the agent. Raises Conflict, Invalid."""
    data = answer.data
    if wait.kind == "sleep":
        raise Conflict(f"{wait.id} is a sleep; it ends by itself", hint="A run can be cancelled.")
    if wait.child is not None:
        raise Conflict(
            f"{wait.id} is for a child run; it ends with that",
            hint=f"torpor cancel {wait.child}",
        )
    if wait.kind == events.KIND:
        raise Conflict(
            f"{wait.id} is for an event, not for an answer",
            hint=f"torpor send {wait.run} {wait.prompt} --data JSON",
        )
    if wait.approve and answer.approved is None:
        raise Invalid(
            f"{wait.id} asks for approval: approved must be true or false",
            hint="torpor approve, or torpor deny.",
        )
    if not wait.approve and answer.approved is not None:
        raise Invalid(
            f"{wait.id} asks for an answer, not for approval",
            hint=f"torpor complete {wait.id} --data JSON",
        )
    if wait.kind == "doubt" and wait.state == waits.OPEN:
        data = doubts.settled(data)
    return {"data": data, "approved": answer.approved, "note": answer.note}
