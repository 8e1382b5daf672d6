"""Waits: found, and answered from outside.

An answer is checked here, whichever way it came (command line, API, page): that it is of the kind
that the wait asks for, and that it fits the wait's schema. It takes effect in one write, once
(rule 11); what does not fit changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection

from torpor.contextlog import events, runs, waits
from torpor.contextlog.permissions import last_allowed
from torpor.contextlog.waits import WaitRow
from torpor.control.service.tokens import Urls
from torpor.core import doubts, jsonvalues, permissions
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.errors import Conflict, HostError, Invalid
from torpor.logstore.protocol import Store
from torpor.policy import answers
from torpor.policy import permissions as showing
from torpor.service.shapes import reply
from torpor.service.waits import OPEN_WAITS, Answer, Wait, WaitFilter

T = TypeVar("T")


class AnswerWriter:
    """Writes that end waits. `perhaps_answered` is called when one failed: the log may have it all
    the same."""

    def __init__(self, store: Store, perhaps_answered: Callable[[], None]) -> None:
        self._store, self._perhaps_answered = store, perhaps_answered

    async def write(self, fn: Callable[[Connection], T]) -> T:
        try:
            return await self._store.write(fn)
        except HostError:
            self._perhaps_answered()
            raise


class Waits:
    """See `torpor.service.waits.Waits`."""

    def __init__(
        self, store: Store, urls: Urls, writer: AnswerWriter, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._store, self._urls, self._writer, self._clock = store, urls, writer, clock

    async def list(self, filter: WaitFilter = OPEN_WAITS) -> Sequence[Wait]:
        def read(c: Connection) -> Sequence[WaitRow]:
            of = None if filter.run is None else runs.get_run(c, filter.run).id
            past = None if filter.after is None else waits.get_wait(c, filter.after).id
            narrowed = waits.Narrowed(
                filter.limit,
                past,
                filter.tag,
                filter.kinds,
                filter.approve,
                filter.agent,
                filter.text,
            )
            return waits.list_waits(c, of, not filter.ended, narrowed)

        return await self.shown(await self._store.read(read))

    async def get(self, ref: str) -> Wait:
        (wait,) = await self.shown([await self.find(ref)])
        return wait

    async def complete(self, ref: str, answer: Answer) -> Wait:
        if (fault := jsonvalues.fault(answer.data)) is not None:
            raise Invalid(f"the answer {fault}", hint=("Nothing was changed; answer again."))
        wait = await self.find(ref)
        value = _value(wait, answer)
        if wait.kind == "wait" and wait.state == waits.OPEN:
            # Its schema never changes, and checking may take a moment: not in the write.
            await asyncio.to_thread(answers.check_answer, wait.schema, answer.data)

        def write(c: Connection) -> Sequence[WaitRow]:
            now = self._clock.now()
            by, origin = answer.by, answer.origin
            return waits.answer_wait(c, wait, value=value, now=now, by=by, origin=origin)

        return (await self.shown(await self._writer.write(write)))[0]

    async def find(self, ref: str) -> WaitRow:
        """Raises NotFound."""
        return await self._store.read(lambda c: waits.get_wait(c, ref))

    async def shown(self, found: Sequence[WaitRow]) -> Sequence[Wait]:
        """These waits as replies."""
        urls = await self._urls.of(found)
        agents = await self._store.read(lambda c: waits.agents_of(c, found)) if found else {}
        actions = await self._actions_shown(found)
        return [
            reply(
                Wait,
                wait.to_json() | actions.get(wait.id, {}),
                agent=agents.get(wait.run),
                url=urls.get(wait.id),
            )
            for wait in found
        ]

    async def action(self, ref: str) -> str:
        wait = await self.find(ref)
        if wait.kind != permissions.KIND:
            raise Conflict(f"{wait.id} is no permission")
        return await asyncio.to_thread(showing.whole, wait.data)

    async def _actions_shown(self, found: Sequence[WaitRow]) -> dict[str, Any]:
        """What is shown of those of these waits that are permissions, instead of their data."""
        asking = [wait for wait in found if wait.kind == permissions.KIND and wait.prompt]
        if not asking:
            return {}

        def read(c: Connection) -> list[Any]:
            return [last_allowed(c, wait.id) for wait in asking]

        def show(before: list[Any]) -> dict[str, Any]:
            pairs = zip(asking, before, strict=True)
            return {wait.id: {"data": showing.shown(wait.data, last)} for wait, last in pairs}

        return await asyncio.to_thread(show, await self._store.read(read))


def _value(wait: WaitRow, answer: Answer) -> dict[str, Any]:
    """What `answer` is to the agent. Raises Conflict, Invalid."""
    data = answer.data
    if wait.kind == "sleep":
        raise Conflict(f"{wait.id} is a sleep and ends by itself", hint=("You can cancel the run."))
    if wait.child is not None:
        raise Conflict(
            f"{wait.id} waits for a child run and ends with it",
            hint=f"torpor cancel {wait.child}",
        )
    if wait.kind == events.KIND:
        raise Conflict(
            f"{wait.id} waits for an event, not for an answer",
            hint=f"torpor send {wait.run} {wait.prompt} --data VALUE",
        )
    if wait.kind == permissions.KIND:
        return permissions.settled(answer.data, answer.approved, answer.note)
    if wait.approve and answer.approved is None:
        raise Invalid(
            f"{wait.id} asks for approval: approved must be true or false",
            hint="Use torpor approve or torpor deny.",
        )
    if not wait.approve and answer.approved is not None:
        raise Invalid(
            f"{wait.id} asks for an answer, not for approval",
            hint=f"torpor complete {wait.id} --data VALUE",
        )
    if wait.kind == "doubt" and wait.state == waits.OPEN:
        data = doubts.settled(data)
    return {"data": data, "approved": answer.approved, "note": answer.note}
