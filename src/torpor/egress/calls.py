"""Model calls by their identity, (run, operation): each goes out once, whoever waits for it.

A call is a task of its own: it goes on when its caller dies, and whoever asks under the same
identity joins it, or gets its answer. An answer is kept until it is *acknowledged*, that is, in the
run's log; so what was paid for outlives machine, agent and server. A run that has ended is
*forgotten*: what is under way for it is given up.

What is never acknowledged is bounded in time and bytes, the oldest answers first. Who asks for one
that is gone hears that it is not known, as after the death of this process. `id` tells whether that
means that it was never made: it is another as soon as something was lost.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass, field

from torpor.egress.upstream import Reply, Request, Upstream, problem

KEPT_BYTES_MAX = 128 * 1024 * 1024
KEPT_S_MAX = 24 * 3600.0
# What a kept answer takes beside its body, about.
_OVERHEAD_BYTES = 2048

_log = logging.getLogger(__name__)

Key = tuple[str, str]  # run, operation


@dataclass
class _Call:
    task: asyncio.Task[Reply]
    expiry: asyncio.TimerHandle
    bytes: int = field(default=0)  # of its answer, once that is kept


class Calls:
    def __init__(
        self,
        upstream: Upstream,
        *,
        kept_bytes_max: int = KEPT_BYTES_MAX,
        kept_s_max: float = KEPT_S_MAX,
    ) -> None:
        self._upstream = upstream
        self._bytes_max, self._s_max = kept_bytes_max, kept_s_max
        self._calls: dict[Key, _Call] = {}
        self._kept: dict[Key, None] = {}  # those answered, the oldest first
        self._bytes = 0
        self.id = _new_id()

    async def make(self, key: Key, request: Request) -> Reply | None:
        """The answer to `request`, which is sent unless this call is known; None if it is given up
        meanwhile."""
        call = self._calls.get(key)
        if call is None:
            call = self._begin(key, request)
        return await _answer_of(call)

    async def adopt(self, key: Key) -> Reply | None:
        """The answer of a call that is under way or kept; None if it is not known here."""
        call = self._calls.get(key)
        return None if call is None else await _answer_of(call)

    def acknowledge(self, key: Key) -> None:
        """The answer is recorded, or nobody wants it any more."""
        call = self._calls.pop(key, None)
        if call is not None:
            self._kept.pop(key, None)
            self._bytes -= call.bytes
            call.expiry.cancel()
            call.task.cancel()

    def forget(self, run: str) -> None:
        """The run has ended."""
        for key in [key for key in self._calls if key[0] == run]:
            self.acknowledge(key)

    def give_up(self) -> list[asyncio.Task[Reply]]:
        """All of them; the tasks that end for it."""
        tasks = [call.task for call in self._calls.values()]
        for key in list(self._calls):
            self.acknowledge(key)
        return tasks

    async def close(self) -> None:
        await asyncio.gather(*self.give_up(), return_exceptions=True)

    def _begin(self, key: Key, request: Request) -> _Call:
        task = asyncio.create_task(self._send(request))
        call = self._calls[key] = _Call(task, self._expiry(key))
        task.add_done_callback(lambda _: self._keep(key, call))
        return call

    async def _send(self, request: Request) -> Reply:
        try:
            return await self._upstream.send(request)
        except Exception:
            _log.exception("a call of %s failed", request.path)
            return problem(
                *(request.path, 500, "broker_failed"),
                "torpor's broker failed at this call",
                "See run/broker.log.",
            )

    def _keep(self, key: Key, call: _Call) -> None:
        if call.task.cancelled() or self._calls.get(key) is not call:  # given up
            return
        call.expiry.cancel()
        call.expiry = self._expiry(key)
        call.bytes = len(call.task.result().body) + _OVERHEAD_BYTES
        self._bytes += call.bytes
        self._kept[key] = None
        while self._bytes > self._bytes_max:
            self._lose(next(iter(self._kept)))

    def _expiry(self, key: Key) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._s_max, self._lose, key)

    def _lose(self, key: Key) -> None:
        _log.warning("no room any more for a call that nobody has acknowledged: %s %s", *key)
        self.id = _new_id()
        self.acknowledge(key)


def _new_id() -> str:
    return secrets.token_hex(8)


async def _answer_of(call: _Call) -> Reply | None:
    await asyncio.wait([call.task])  # not cut off with its caller
    return None if call.task.cancelled() else call.task.result()
