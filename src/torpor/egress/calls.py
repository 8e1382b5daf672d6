"""Recorded calls by their identity, (run, operation): each goes out once, whoever waits for it.

A call is a task of its own: it goes on when its listener dies, is read to its end, and whoever asks
under the same identity gets its answer from any offset on, as far as it has come and then as it
comes. An answer is kept until it is *acknowledged*, that is, in the run's log; so what was paid for
outlives machine, agent and server. A run that has ended is *forgotten*: what is under way for it is
given up.

What is never acknowledged is bounded in time and bytes. Where there is no room, the run that has
most of it gives way: its oldest answer, or what comes for it now. Who asks for one
that is gone hears that it is not known, as after the death of this process. `id` tells whether that
means that it was never made: it is another as soon as something was lost.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torpor.egress.admission import Charge, Headers
from torpor.egress.answer import CutOff, Listener, NoAnswer, Seen
from torpor.egress.protocol import BODY_BYTES_MAX

KEPT_BYTES_MAX = 128 * 1024 * 1024
KEPT_S_MAX = 24 * 3600.0
# What a kept answer takes beside its body, about.
_OVERHEAD_BYTES = 2048

_log = logging.getLogger(__name__)

Key = tuple[str, str]  # run, operation
Send = Callable[[Listener, Seen], Awaitable[None]]


@dataclass(frozen=True)
class Head:
    status: int
    headers: Headers


class Call:
    """One call: its answer as far as it has come. It is the listener of what sends it."""

    def __init__(self, calls: Calls, key: Key, verdict: Mapping[str, Any], charge: Charge | None):
        self.key, self.verdict = key, verdict
        self.answer: Head | None = None
        self.body = bytearray()
        self.failure: NoAnswer | CutOff | None = None
        self.done: Mapping[str, Any] | None = None  # of the frame DONE, once it is over
        self.task: asyncio.Task[None]
        self.expiry: asyncio.TimerHandle
        self._calls, self._charge = calls, charge
        self._changed = asyncio.Event()

    @property
    def size(self) -> int:
        return len(self.body) + _OVERHEAD_BYTES

    async def change(self) -> None:
        """Until there is more of it."""
        await self._changed.wait()

    def head(self, status: int, headers: Headers) -> None:
        self.answer = Head(status, headers)
        self._change()

    async def data(self, data: bytes) -> None:
        if len(self.body) + len(data) > BODY_BYTES_MAX:
            raise CutOff("reply_too_large", f"the answer has more than {BODY_BYTES_MAX:,} bytes")
        self._calls.claim(len(data), self)
        self.body += data
        self._change()

    def end(self) -> None:
        return

    async def run(self, send: Send) -> None:
        started, seen = time.monotonic(), Seen()
        try:
            await send(self, seen)
        except (NoAnswer, CutOff) as failure:
            self.failure = failure
        except asyncio.CancelledError:
            self.failure = CutOff("given_up", "the call was given up")
            raise
        except Exception:
            _log.exception("a call failed")
            message = "torpor's broker failed at this call. See run/broker.log."
            self.failure = (
                NoAnswer(500, "broker_failed", message)
                if self.answer is None
                else CutOff("broker_failed", message)
            )
        finally:
            self.done = done_of(seen, started, self._charge, self.verdict)
            self._change()

    def _change(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Calls:
    def __init__(
        self,
        *,
        kept_bytes_max: int = KEPT_BYTES_MAX,
        kept_s_max: float = KEPT_S_MAX,
        on_loss: Callable[[], None] = lambda: None,
    ) -> None:
        self._bytes_max, self._s_max, self._on_loss = kept_bytes_max, kept_s_max, on_loss
        self._calls: dict[Key, Call] = {}
        self._kept: dict[Key, None] = {}  # those answered, the oldest first
        self._bytes = 0
        self._of_run = Counter[str]()
        self.id = _new_id()

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def bytes(self) -> int:
        """Of all answers that are here."""
        return self._bytes

    def get(self, key: Key) -> Call | None:
        return self._calls.get(key)

    def begin(
        self, key: Key, verdict: Mapping[str, Any], charge: Charge | None, send: Send
    ) -> Call:
        """A call that is not known yet."""
        assert key not in self._calls
        call = self._calls[key] = Call(self, key, verdict, charge)
        self._add(key, _OVERHEAD_BYTES)
        call.expiry = self._expiry(key)
        call.task = asyncio.create_task(call.run(send))
        call.task.add_done_callback(lambda _: self._keep(call))
        return call

    def claim(self, count: int, call: Call) -> None:
        """Room for so many more bytes of this call. Raises CutOff."""
        if self._calls.get(call.key) is not call:
            raise CutOff("given_up", "the call was given up")
        run, of_run = call.key[0], self._of_run
        while self._bytes + count > self._bytes_max:
            biggest = max(self._kept, key=lambda key: of_run[key[0]], default=None)
            if biggest is None or (biggest[0] != run and of_run[biggest[0]] < of_run[run] + count):
                raise CutOff("no_room", "too much is under way: torpor has no room for the answer")
            self._lose(biggest)
        self._add(call.key, count)

    def acknowledge(self, key: Key) -> None:
        """The answer is recorded, or nobody wants it any more."""
        call = self._calls.pop(key, None)
        if call is not None:
            self._kept.pop(key, None)
            self._add(key, -call.size)
            call.expiry.cancel()
            call.task.cancel()

    def forget(self, run: str) -> None:
        """The run has ended."""
        for key in [key for key in self._calls if key[0] == run]:
            self.acknowledge(key)

    async def close(self) -> None:
        tasks = [call.task for call in self._calls.values()]
        for key in list(self._calls):
            self.acknowledge(key)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _add(self, key: Key, count: int) -> None:
        self._bytes += count
        self._of_run[key[0]] += count
        if not self._of_run[key[0]]:
            del self._of_run[key[0]]

    def _keep(self, call: Call) -> None:
        if self._calls.get(call.key) is call:
            call.expiry.cancel()
            call.expiry = self._expiry(call.key)
            self._kept[call.key] = None

    def _expiry(self, key: Key) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._s_max, self._lose, key)

    def _lose(self, key: Key) -> None:
        _log.warning("no room any more for a call that nobody has acknowledged: %s %s", *key)
        self.id = _new_id()
        self.acknowledge(key)
        self._on_loss()


def done_of(
    seen: Seen, started: float, charge: Charge | None, verdict: Mapping[str, Any]
) -> dict[str, Any]:
    """The frame DONE of an exchange that is over, whose charge is settled here."""
    usage = {} if charge is None else _settled(charge, seen)
    optional = {
        "status": seen.status,
        "address": seen.address or verdict.get("address"),
        "secret": verdict.get("secret"),
        "usage": dict(usage) or None,
    }
    return {
        "sent": seen.sent,
        "received": seen.received,
        "ms": round((time.monotonic() - started) * 1000, 2),
    } | {name: value for name, value in optional.items() if value is not None}


def _settled(charge: Charge, seen: Seen) -> Mapping[str, Any]:
    """Whatever an answer has in it, and whatever fails here: the exchange is over, and who waits
    for it must hear so."""
    try:
        if seen.reached:
            return charge.settle(seen.status, seen.headers)
        charge.cancel()
    except Exception:
        _log.exception("what an exchange took could not be counted")
    return {}


def _new_id() -> str:
    return secrets.token_hex(8)
