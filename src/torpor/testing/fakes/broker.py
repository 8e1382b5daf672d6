"""A broker without its process: its calls are the real ones, what answers them is played."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from torpor.core.errors import HostError
from torpor.core.ids import OpId, RunId
from torpor.egress.calls import Calls
from torpor.egress.upstream import Reply, Request
from torpor.egress.whole import Answer

T = TypeVar("T")


class PlayedUpstream:
    """Answers each request as `answers` does; keeps what it was `asked`."""

    description = "played"

    def __init__(self, answers: Callable[[Request], Awaitable[Reply]]) -> None:
        self.requests: list[Request] = []
        self.given_up: list[Request] = []
        self.answers = answers

    async def send(self, request: Request) -> Reply:
        self.requests.append(request)
        try:
            return await self.answers(request)
        except asyncio.CancelledError:
            self.given_up.append(request)
            raise

    async def close(self) -> None:
        pass


class PlayedBroker:
    """What `Model` asks of a `BrokerClient`."""

    def __init__(self, upstream: PlayedUpstream) -> None:
        self.upstream = upstream
        self.calls = Calls(upstream)
        self._died = asyncio.Event()

    @property
    def broker(self) -> str:
        return self.calls.id

    async def die(self) -> None:
        """With all that it had; another is there at once."""
        calls, self.calls = self.calls, Calls(self.upstream)
        died, self._died = self._died, asyncio.Event()
        died.set()
        calls.give_up()

    async def make(
        self, run: RunId, op: OpId, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        request = Request(method, path, headers=headers, body=body)
        reply = await self._unless_it_dies(self.calls.make((run, op), request))
        if reply is None:
            raise HostError("the call was given up")
        return _answer_of(reply)

    async def adopt(self, run: RunId, op: OpId) -> Answer | None:
        reply = await self._unless_it_dies(self.calls.adopt((run, op)))
        return None if reply is None else _answer_of(reply)

    async def acknowledge(self, run: RunId, op: OpId) -> None:
        self.calls.acknowledge((run, op))

    async def forget(self, run: RunId) -> None:
        self.calls.forget(run)

    async def _unless_it_dies(self, work: Coroutine[Any, Any, T]) -> T:
        died = asyncio.create_task(self._died.wait())
        task = asyncio.create_task(work)
        try:
            await asyncio.wait([died, task], return_when=asyncio.FIRST_COMPLETED)
            if died.done():
                raise HostError("the broker died")
            return task.result()
        finally:
            died.cancel()
            task.cancel()


def _answer_of(reply: Reply) -> Answer:
    return reply.status, dict(reply.headers), reply.body
