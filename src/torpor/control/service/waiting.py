"""What runs wait for, as people see it, and what ends it from outside: answers and events.

An answer is checked here, whichever way it came (command line, API, page): that it is of the kind
that is asked for, and that it fits the wait's schema. It takes effect in one write, once
(rule 11); what does not fit changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection

from torpor.contextlog import events, runs, waits
from torpor.contextlog.events import Sent
from torpor.contextlog.waits import WaitRow
from torpor.control.service import links
from torpor.control.service.links import Links
from torpor.core import doubts, jsonvalues
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.errors import Conflict, HostError, Invalid, NotFound
from torpor.core.ids import op_name
from torpor.logstore.protocol import Store
from torpor.policy import answers
from torpor.worker.sealing import Keys

Object = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    data: Any = None
    approved: bool | None = None
    note: str | None = None
    by: str | None = None


class Waiting:
    def __init__(
        self,
        store: Store,
        keys: Keys,
        answered_perhaps: Callable[[], None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`answered_perhaps` is called when the log failed, and may have ended a wait all the
        same."""
        self._store, self._clock = store, clock
        self._keys = keys
        self._answered_perhaps = answered_perhaps
        self._links: Links | None = None
        self.base: str | None = None  # of public URLs

    def publish(self, base: str) -> None:
        """From now on waits have URLs, which begin with `base`."""
        self.base, self._links = base, None

    async def links(self) -> Links:
        """Raises Missing, HostError (the host's key)."""
        if self._links is None:
            key = await self._keys.derived(links.PURPOSE)
            self._links = Links(key, self.base)
        return self._links

    async def waits(
        self,
        run: str | None,
        all: bool,
        limit: int | None,
        after: str | None,
        tag: str | None,
        kinds: list[str] | None,
        approve: bool | None = None,
        agent: str | None = None,
        text: str | None = None,
    ) -> list[Object]:
        def read(c: Connection) -> list[WaitRow]:
            of = None if run is None else runs.get_run(c, run).id
            past = None if after is None else waits.get_wait(c, after).id
            narrowed = waits.Narrowed(limit, past, tag, kinds, approve, agent, text)
            return waits.list_waits(c, of, not all, narrowed)

        return await self.shown(await self._store.read(read))

    async def wait(self, ref: str) -> Object:
        (shown,) = await self.shown([await self._find(ref)])
        return shown

    async def complete(self, ref: str, answer: Answer) -> Object:
        """Raises NotFound, Conflict (it has ended, or ends by itself), Invalid."""
        if (wrong := jsonvalues.fault(answer.data)) is not None:
            raise Invalid(f"the answer {wrong}", hint="Nothing was changed; answer again.")
        wait = await self._find(ref)
        value = _value(wait, answer)
        if wait.kind == "wait" and wait.state == waits.OPEN:
            # Its schema never changes, and checking may take a moment: not in the write.
            await asyncio.to_thread(answers.check_answer, wait.schema, answer.data)

        def write(c: Connection) -> list[WaitRow]:
            now = self._clock.now()
            return waits.answer_wait(c, wait, value=value, now=now, by=answer.by)

        return (await self.shown(await self._write(write)))[0]

    async def send(
        self, ref: str, name: str, data: Any, *, by: str | None = None, event: str | None = None
    ) -> Object:
        """Give a run an event; `event` is its sender's id of it. Raises as `send_event`."""

        def write(c: Connection) -> Sent:
            run = runs.get_run(c, ref).id
            return events.send_event(c, run, name, data, now=self._clock.now(), by=by, event=event)

        sent = await self._write(write)
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
            self._answered_perhaps()
            raise

    async def _find(self, ref: str) -> WaitRow:
        return await self._store.read(lambda c: waits.get_wait(c, ref))

    async def shown(self, found: Sequence[WaitRow]) -> list[Object]:
        """As the API shows them."""
        made = None
        if self.base is not None:
            with contextlib.suppress(HostError):  # the host's key is gone, and with it all links
                made = await self.links()
        agents = await self._store.read(lambda c: waits.agents_of(c, found)) if found else {}
        return [
            wait.to_json()
            | {"agent": agents.get(wait.run)}
            | {"url": made.url(wait.id) if made and _has_url(wait) else None}
            for wait in found
        ]

    # By its public URL.

    async def linked(self, token: str) -> Object:
        """The wait as who has its link may see it. Raises NotFound."""
        wait = await self._by_token(token)
        agent = (await self._store.read(lambda c: runs.get_run(c, wait.run))).agent
        return _public(wait, agent)

    async def answer_linked(self, token: str, answer: Answer) -> Object:
        """Raises as `complete`."""
        wait = await self._by_token(token)
        await self.complete(wait.id, answer)
        return await self.linked(token)

    async def _by_token(self, token: str) -> WaitRow:
        made = await self.links()
        wait = await self._find(made.wait(token))
        if wait.kind != "wait":
            raise NotFound("this link does not exist")
        return wait


def _has_url(wait: WaitRow) -> bool:
    return wait.kind == "wait" and wait.state == waits.OPEN


def _public(wait: WaitRow, agent: str | None) -> Object:
    """Not the run, nor what others have said."""
    shown = ("prompt", "data", "schema", "approve", "created_at", "due_at", "state", "completed_at")
    return {
        "agent": agent or "An agent",
        "name": op_name(wait.op),
        **{key: getattr(wait, key) for key in shown},
        "approved": wait.value.get("approved") if wait.value else None,
    }


def _value(wait: WaitRow, answer: Answer) -> Object:
    """What `answer` is to the agent. Raises Conflict, Invalid."""
    data = answer.data
    if wait.kind == "sleep":
        raise Conflict(f"{wait.id} is a sleep and ends by itself", hint="You can cancel the run.")
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
