"""The channel between a driver and what carries its agent: messages and frames of streams both
ways, and output. Nothing is decided here.

What has come is in `inbox`, in order, messages, frames and output alike: what an agent printed
before it sent a message stands before that.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from torpor.core.errors import GuestError
from torpor.wire import names
from torpor.wire.streams import Frame

PARTS_AHEAD_MAX = 16
OUTPUT_AHEAD_BYTES = 4 << 20
FRAMES_AHEAD_MAX = 4096
LINGER_S = 0.001


class Silence(GuestError):
    """None of the messages that were waited for came in time."""


@dataclass(frozen=True)
class Message:
    """A message, checked."""

    fields: dict[str, Any]

    @property
    def t(self) -> str:
        return str(self.fields["t"])


@dataclass(frozen=True)
class Output:
    """Bytes that the agent wrote to stdout (channel 1) or stderr (channel 2)."""

    channel: int
    data: bytes


@dataclass(frozen=True)
class Skipped:
    """What comes next on this channel stands at `offset` of the agent's output: what is before it
    was printed by steps that are in the log, and was not printed again."""

    channel: int
    offset: int


Item = Message | Output | Skipped | Frame


class Channel:
    """The driver's side. How bytes come and go is up to its subclasses."""

    def __init__(self, arrived: asyncio.Event | None = None) -> None:
        """`arrived` is set when `inbox` or `broken` changed."""
        self.inbox: deque[Item] = deque()
        self.arrived = arrived or asyncio.Event()
        self.broken: GuestError | None = None  # the channel is closed, and why
        # Why the agent stands still, where that is the host's doing: it goes on by itself.
        self.stall: str | None = None

    def say(self, t: str, **fields: Any) -> None:
        """Queue a message; it goes out as it is taken."""
        raise NotImplementedError

    def pass_on(self, frame: bytes) -> None:
        """Queue a frame of a stream, encoded; it goes out in order with the messages."""
        raise NotImplementedError

    @property
    def far_ahead(self) -> bool:
        """So much of a large result, of output or of streams came and was not taken that no more
        should be read."""
        last = self.inbox[-1] if len(self.inbox) > PARTS_AHEAD_MAX else None
        if isinstance(last, Message):
            return last.t == names.PART
        if isinstance(last, Frame) and len(self.inbox) > FRAMES_AHEAD_MAX:
            return True
        bulk = (len(item.data) for item in self.inbox if isinstance(item, Output | Frame))
        return last is not None and sum(bulk) > OUTPUT_AHEAD_BYTES

    async def room(self, ahead_bytes: int) -> None:
        """Return once less than this was sent and not taken in, or the channel is closed."""

    async def hear(self, *types: str, within_s: float) -> dict[str, Any]:
        """The next message, which must be one of `types`; output on the way stays in `inbox`.

        For the moments when nothing else may come. An agent that stands still has all the time
        it needs. Raises GuestError.
        """
        deadline = time.monotonic() + within_s
        kept: list[Item] = []
        try:
            while True:
                while self.inbox:
                    item = self.inbox.popleft()
                    if isinstance(item, Message) and item.t in types:
                        return item.fields
                    kept.append(item)
                if self.broken is not None:
                    raise self.broken
                self.arrived.clear()
                if self.stall is not None:
                    await self.arrived.wait()
                    deadline = time.monotonic() + within_s
                else:
                    async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                        await self.arrived.wait()
        except TimeoutError as error:
            raise Silence(
                f"the machine did not say {' or '.join(types)} within {within_s:g} s"
            ) from error
        finally:
            self.inbox.extendleft(reversed(kept))

    async def linger(self) -> None:
        """When a step has begun and nothing else has come, its end may be here in a moment: both
        are one write then."""
        if len(self.inbox) != 1 or not isinstance(message := self.inbox[0], Message):
            return
        if message.t == names.BEGIN and message.fields["kind"] == "step":
            self.arrived.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    await self.arrived.wait()

    def _break(self, error: GuestError) -> None:
        self.broken = self.broken or error
        self.arrived.set()
