"""Waits by their public links: shown and answered, without a key."""

from __future__ import annotations

from torpor.contextlog import runs
from torpor.contextlog.waits import WaitRow
from torpor.control.service.tokens import LINKED, Urls
from torpor.control.service.waits import Waits
from torpor.core.errors import NotFound
from torpor.core.ids import op_name
from torpor.logstore.protocol import Store
from torpor.service.shapes import reply
from torpor.service.waits import Answer, PublicWait

_SHOWN = ("kind", "prompt", "schema", "approve", "created_at", "due_at", "state", "completed_at")


class Links:
    """See `torpor.service.waits.Links`."""

    def __init__(self, store: Store, urls: Urls, waits: Waits) -> None:
        self._store, self._urls, self._waits = store, urls, waits

    async def get(self, token: str) -> PublicWait:
        wait = await self._find(token)
        agent = (await self._store.read(lambda c: runs.get_run(c, wait.run))).agent
        (shown,) = await self._waits.shown([wait])
        return reply(
            PublicWait,
            {name: getattr(wait, name) for name in _SHOWN},
            data=shown["data"],
            agent=agent or "An agent",
            name=op_name(wait.op),
            approved=wait.value.get("approved") if wait.value else None,
        )

    async def answer(self, token: str, answer: Answer) -> PublicWait:
        await self._waits.complete((await self._find(token)).id, answer)
        return await self.get(token)

    async def action(self, token: str) -> str:
        return await self._waits.action((await self._find(token)).id)

    async def _find(self, token: str) -> WaitRow:
        tokens = await self._urls.tokens()
        wait = await self._waits.find(tokens.wait(token))
        if wait.kind not in LINKED:
            raise NotFound("this link does not exist")
        return wait
