"""An operation of this run, from its beginning to its outcome, as the agent's process has it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from torpor.sdk.current import refuse_copies
from torpor.sdk.errors import Cancelled
from torpor.sdk.files import Mark
from torpor.sdk.rest import lines

# The step whose body is running here, in this thread or task.
inside: ContextVar[Operation | None] = ContextVar("torpor_step", default=None)


class Outcome(NamedTuple):
    """How an operation ended: its value (still packed), or its error."""

    ok: bool
    value: Any = None
    error: Mapping[str, Any] | None = None
    # Of a value that is too large for the log: its bytes, and what they are, "json" or "bytes".
    content: bytes | bytearray | Iterator[bytes] | None = None
    form: str = "json"
    blob: Mapping[str, Any] | None = None  # and as the log names it

    @property
    def fields(self) -> dict[str, Any]:
        """Of the message that ends it, where it has no content."""
        return {"ok": self.ok} | ({"value": self.value} if self.ok else {"error": self.error})

    @property
    def whole(self) -> bytes | bytearray:
        """The content, where it does not come in pieces."""
        assert isinstance(self.content, (bytes, bytearray))
        return self.content


@dataclass
class Operation:
    """One operation of this run, from `begin` to its outcome."""

    op: str
    kind: str
    name: str
    digest: str
    own: Outcome | None = None  # a step's outcome on its way to the log, or replayed from it
    once: bool = False  # a step that may not be repeated without a person's consent
    doubt: int = 0  # how many times it has been in doubt, before it begins: see `ask`
    message: bytes = b""  # that begins it
    order: int = 0  # of two that have ended, the lower ended first, live and replayed
    fetched: bytearray | None = None  # of a recorded value that is on its way
    cancelled: Callable[[], None] = lambda: None  # told when the wait for it raises Cancelled
    before: Mark | None = None  # of a step's body: the files when it began
    also: dict[str, bool] = field(default_factory=dict)  # what else its end says
    replayed: Outcome | None = None  # its outcome, if that was in the log when it began

    @property
    def content(self) -> bytes | bytearray | Iterator[bytes] | None:
        """What its own outcome has that the log keeps apart."""
        return None if self.own is None else self.own.content

    @cached_property
    def future(self) -> Future[Outcome]:
        """Made on demand: most of a long replay needs none. There before the host hears of the
        operation, so that no two threads make it."""
        settled: Future[Outcome] = Future()
        if self.replayed is not None:
            settled.set_result(self.replayed)
        return settled

    def block(self) -> Outcome:
        """Wait for the outcome in this thread."""
        if self.replayed is not None:
            return self.replayed
        refuse_copies(self.op)
        lines.add(threading.current_thread())
        try:
            return self.future.result()
        except Cancelled:
            self.cancelled()
            raise

    async def wait(self) -> Outcome:
        """Wait for the outcome in this event loop. Cancelling the wait leaves the operation be: it
        may be waited for again."""
        refuse_copies(self.op)
        lines.add(threading.current_thread())
        return await asyncio.shield(asyncio.wrap_future(self.future))


def outcome_of(message: Mapping[str, Any]) -> Outcome:
    blob = message.get("blob")
    form = "json" if blob is None else blob["form"]
    outcome = (message["ok"], message.get("value"), message.get("error"))
    return Outcome(*outcome, form=form, blob=blob)


def pieces(content: bytes | bytearray | Iterator[bytes], size: int) -> Iterator[bytes]:
    """`content` in pieces of at most `size`; those of an iterator are."""
    if isinstance(content, (bytes, bytearray)):
        return (bytes(content[at : at + size]) for at in range(0, len(content), size))
    return content


def settle(future: Future[Outcome], outcome: Outcome) -> None:
    # False when an event loop's task that awaited it was cancelled: nobody listens any more.
    if future.set_running_or_notify_cancel():
        future.set_result(outcome)
