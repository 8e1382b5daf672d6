"""Waits: for a person or a system outside, for an event, for a time, for a checkpoint.

One object serves plain and async code. A plain call (`approve`, `sleep`, `wait_any` …) blocks and
gives its result; called where an event loop runs it gives at once something to await, which
gives the same result. The results can be awaited too, so that both uses have one type:

    verdict = torpor.approve("Send it?")            # in plain code
    verdict = await torpor.approve("Send it?")      # in a coroutine
"""

from __future__ import annotations

import asyncio
import math
import threading
import warnings
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from torpor.core.durations import Duration, Durations, seconds
from torpor.core.errors import Invalid
from torpor.sdk import arguments, values
from torpor.sdk.current import current, refuse_copies
from torpor.sdk.errors import refused
from torpor.sdk.lines import in_event_loop
from torpor.sdk.operations import Operation, Outcome
from torpor.sdk.rest import lines
from torpor.sdk.steps import refuse_inside
from torpor.wire import messages

T = TypeVar("T")


class Ready:
    """A result that is there; awaiting it gives it."""

    def __await__(self: T) -> Generator[Any, None, T]:
        return self
        yield  # makes this a generator


@dataclass(frozen=True)
class WaitResult(Ready):
    """How a wait ended. `status` is "completed", "timeout", "cancelled", or of a child "failed".
    `data` is what the answer or the event brought, a child's result, or its error (`type`,
    `message`); `approved` is set by approvals; `by` is who answered. `name` is the wait's."""

    status: str
    data: Any = None
    approved: bool | None = None
    note: str | None = None
    by: str | None = None
    name: str = ""

    @property
    def timed_out(self) -> bool:
        """Nobody answered in time."""
        return self.status == "timeout"


@dataclass(frozen=True)
class Verdict(Ready):
    """The answer to `approve`. `approved` is False too when nobody answered in time (`status`
    "timeout"). `by` is who answered, `note` and `data` what they added."""

    approved: bool
    note: str | None = None
    data: Any = None
    by: str | None = None
    status: str = "completed"

    @property
    def timed_out(self) -> bool:
        """Nobody answered in time."""
        return self.status == "timeout"


class WaitResults(list[WaitResult], Ready):
    """The results of `wait_all`, in the order of its arguments."""


class _Unawaited(Generic[T]):
    """Stands for a result in async code until it is awaited."""

    def __init__(self, what: str, awaitable: Callable[[], Awaitable[T]]) -> None:
        self._what = what
        self._awaitable = awaitable
        self._awaited = False

    def __await__(self) -> Generator[Any, None, T]:
        self._awaited = True
        return self._awaitable().__await__()

    def __repr__(self) -> str:
        return f"<torpor.{self._what}(...), to be awaited>"

    def __del__(self) -> None:
        if not self._awaited:
            text = f"torpor.{self._what}(...) was never awaited: write `await` before it"
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    def __getattr__(self, attribute: str) -> Any:
        raise AttributeError(f"write `await torpor.{self._what}(...)`: an event loop is running")


class Wait:
    """What `wait_any` and `wait_all` take: a wait that has begun."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation

    @property
    def name(self) -> str:
        """What it was begun with; of a child its agent's name."""
        return self._operation.name

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._operation.future.done()

    def __repr__(self) -> str:
        stands = "ended" if self.done else "open"
        return f"<torpor.{type(self).__name__} {self.name!r}: {stands}>"

    def _ended(self) -> WaitResult:
        return _wait_result(self._operation, self._operation.block())

    async def _ending(self) -> WaitResult:
        return _wait_result(self._operation, await self._operation.wait())


_OF_RESULT = frozenset({*(each.name for each in fields(WaitResult)), "timed_out"})


class Waitpoint(Wait):
    """A wait for an answer. `result()` blocks, `await` awaits; both may be used repeatedly."""

    def result(self) -> WaitResult:
        """Block until it is answered, timed out or cancelled."""
        return self._ended()

    def __await__(self) -> Generator[Any, None, WaitResult]:
        return self._ending().__await__()

    if not TYPE_CHECKING:  # a type checker is to find it by itself

        def __getattr__(self, attribute: str) -> Any:
            if attribute in _OF_RESULT:
                request = f".result().{attribute}, or (await …).{attribute}"
                raise AttributeError(f"{attribute!r} is what came of a wait: write {request}")
            raise AttributeError(f"{type(self).__name__!r} has no attribute {attribute!r}")


def waitpoint(
    name: str = "wait",
    prompt: str | None = None,
    data: Any = None,
    timeout: Duration | None = None,
    schema: Mapping[str, Any] | None = None,
    tags: str | Sequence[str] = (),
    idempotency_key: str | None = None,
    remind_after: Durations = (),
    webhook: str | Sequence[str] = (),
) -> Waitpoint:
    """Begin to wait for an answer from outside, and go on.

    `prompt` and `data` (JSON) are what the answerer sees; `schema` is a JSON Schema that the
    answer's data must fit. `webhook` names whom to notify, by the names in the agent's file;
    of several the first at once, the next with each reminder. `remind_after` says when, from its
    beginning. Waits with the same `idempotency_key`, also of other runs of the agent, are one
    question: the first answer is that of all.
    """
    request = _request(data, prompt, schema, tags, idempotency_key, remind_after, webhook)
    return Waitpoint(_begin_wait("waitpoint", name, timeout, request, approve=False))


def approve(
    prompt: str,
    data: Any = None,
    timeout: Duration | None = None,
    tags: str | Sequence[str] = (),
    idempotency_key: str | None = None,
    remind_after: Durations = (),
    webhook: str | Sequence[str] = (),
) -> Verdict:
    """Ask a person to approve or deny, and wait for the verdict. All else is as for `waitpoint`."""
    request = _request(data, prompt, None, tags, idempotency_key, remind_after, webhook)
    operation = _begin_wait("approve", "approve", timeout, request, approve=True)
    return blocking_or_awaitable("approve", operation, _verdict)


def event(name: str, timeout: Duration | None = None) -> Waitpoint:
    """Begin to wait for an event that is sent to this run (`torpor send`, a webhook), and go on.
    Each event ends one wait; one that was sent before is kept until the run waits for it."""
    refuse_inside("event")
    runtime = current("event")
    timeout_s = None if timeout is None else seconds(timeout)
    try:
        fields = {"timeout_s": timeout_s}
        return Waitpoint(runtime.begin("event", name, arguments.digest(), fields))
    except Invalid as error:
        raise refused("event", error) from None


def sleep(duration: Duration) -> Awaitable[None]:
    """Sleep for a duration: seconds, or text such as "90s", "2h", "7d"."""
    duration_s = seconds(duration)
    return _sleep("sleep", arguments.digest(duration_s), {"for_s": duration_s})


def sleep_until(when: datetime | float) -> Awaitable[None]:
    """Sleep until a time: unix seconds, or a datetime (a naive one is in the machine's zone, UTC).

    The time is not compared on replay: it is often computed from the clock."""
    try:
        until = when.timestamp() if isinstance(when, datetime) else float(when)
    except (TypeError, ValueError):
        until = math.nan
    if not 0 <= until <= messages.TIME_MAX:
        raise ValueError(f"sleep_until({when!r}): give unix seconds or a datetime")
    return _sleep("sleep_until", arguments.digest(), {"until": until})


def checkpoint() -> Awaitable[None]:
    """Have a snapshot taken now: a crash later on will not go back behind this point."""
    refuse_inside("checkpoint")
    operation = current("checkpoint").begin("checkpoint", "checkpoint", arguments.digest(), {})
    return _without_result("checkpoint", operation)


def wait_any(*waits: Wait) -> WaitResult:
    """Wait until one of `waits` has ended, and give how; the others go on. A child that failed is a
    result, too: its `status` says so, nothing is raised."""
    _check("wait_any", waits)
    if not waits:
        raise ValueError("wait_any needs at least one waitpoint or child")

    def first() -> WaitResult:
        # The same one on replay, when more of them have ended.
        ended = [each for each in waits if each.done]
        return min(ended, key=lambda each: each._operation.order)._ended()

    def block() -> WaitResult:
        lines.add(threading.current_thread())
        futures.wait([each._operation.future for each in waits], None, futures.FIRST_COMPLETED)
        return first()

    async def wait() -> WaitResult:
        lines.add(threading.current_thread())
        wrapped = [asyncio.wrap_future(each._operation.future) for each in waits]
        # Not cancelled afterwards: that would cancel the operations' own futures.
        await asyncio.wait(wrapped, return_when=asyncio.FIRST_COMPLETED)
        return first()

    return here("wait_any", block, wait)


def wait_all(*waits: Wait) -> WaitResults:
    """Wait until all of `waits` have ended; how is as in `wait_any`."""
    _check("wait_all", waits)

    def block() -> WaitResults:
        return WaitResults(all_ended(waits))

    async def wait() -> WaitResults:
        return WaitResults(await all_ending(waits))

    return here("wait_all", block, wait)


def _check(what: str, waits: Sequence[object]) -> None:
    """Raises TypeError for what is no wait, before anything is waited for."""
    refuse_copies(f"torpor.{what}")
    for each in waits:
        if isinstance(each, (list, tuple)):
            raise TypeError(f"torpor.{what} takes waits one by one: write torpor.{what}(*waits)")
        if not isinstance(each, Wait):
            raise TypeError(
                f"torpor.{what} takes results of torpor.waitpoint, event and spawn, not {each!r}"
            )


def all_ended(waits: Sequence[Wait]) -> list[WaitResult]:
    """How each has ended: blocks until all have. The run sleeps until then."""
    if not waits:
        return []
    runtime = current("wait_all")
    runtime.wait_for_all(each._operation for each in waits)
    try:
        return [each._ended() for each in waits]
    finally:
        runtime.wait_for_all(())


async def all_ending(waits: Sequence[Wait]) -> list[WaitResult]:
    """As `all_ended`, in this event loop."""
    if not waits:
        return []
    runtime = current("wait_all")
    runtime.wait_for_all(each._operation for each in waits)
    try:
        return [await each._ending() for each in waits]
    finally:
        runtime.wait_for_all(())


def _request(
    data: Any,
    prompt: str | None,
    schema: Mapping[str, Any] | None,
    tags: str | Sequence[str],
    idempotency_key: str | None,
    remind_after: Durations,
    webhook: str | Sequence[str],
) -> Callable[[], dict[str, Any]]:
    """The fields of a wait, of those that need not be given only those that are."""

    def fields() -> dict[str, Any]:
        several = isinstance(remind_after, Sequence) and not isinstance(remind_after, str)
        after = remind_after if several else (remind_after,)
        also = {
            "id_key": idempotency_key,
            "webhooks": _words("webhook", webhook),
            "remind_after": [seconds(each) for each in cast(Sequence[Duration], after)],
        }
        return {
            "prompt": prompt or "",
            "data": values.pack(data),
            "schema": None if schema is None else values.pack(dict(schema)),
            "tags": _words("tags", tags),
            **{key: value for key, value in also.items() if value not in (None, [])},
        }

    return fields


def _words(what: str, given: str | Sequence[str]) -> list[str]:
    """One may be given as itself."""
    words = [given] if isinstance(given, str) else given
    if not isinstance(words, Iterable) or not all(isinstance(each, str) for each in words):
        raise Invalid(f"{what} must be text or a list of texts, not {given!r}")
    return list(words)


def _begin_wait(
    what: str,
    name: str,
    timeout: Duration | None,
    request: Callable[[], dict[str, Any]],
    *,
    approve: bool,
) -> Operation:
    refuse_inside(what)
    runtime = current(what)
    timeout_s = None if timeout is None else seconds(timeout)
    try:
        fields = request() | {"timeout_s": timeout_s, "approve": approve}
        digest = arguments.digest(fields["prompt"] or None, fields["data"], approve)
        return runtime.begin("wait", name, digest, fields)
    except values.NotJson as error:
        raise TypeError(f"torpor.{what}: data or schema cannot be sent: {error}") from None
    except Invalid as error:
        raise refused(what, error) from None


def _sleep(what: str, digest: str, end: Mapping[str, float]) -> Awaitable[None]:
    refuse_inside(what)
    operation = current(what).begin("sleep", "sleep", digest, end)
    return _without_result(what, operation)


def blocking_or_awaitable(
    what: str, operation: Operation, convert: Callable[[Operation, Outcome], T]
) -> T:
    async def wait() -> T:
        return convert(operation, await operation.wait())

    return here(what, lambda: convert(operation, operation.block()), wait)


def here(what: str, block: Callable[[], T], wait: Callable[[], Awaitable[T]]) -> T:
    return cast(T, _Unawaited(what, wait)) if in_event_loop() else block()


def value_of(operation: Operation, outcome: Outcome) -> Any:
    """What a wait has ended with. Raises ValueError if the host refused it."""
    if not outcome.ok:
        error = outcome.error or {}
        if error.get("type") == Invalid.__name__:  # the host refused it
            raise ValueError(f"torpor.{operation.kind} {operation.name}: {error['message']}")
        raise RuntimeError(f"{operation.op} failed: {error.get('type')}: {error.get('message')}")
    return values.unpack(outcome.value)


def _wait_result(operation: Operation, outcome: Outcome) -> WaitResult:
    value = value_of(operation, outcome)
    return WaitResult(
        status=value["status"],
        data=value.get("data"),
        approved=value.get("approved"),
        note=value.get("note"),
        by=value.get("by"),
        name=operation.name,
    )


def _verdict(operation: Operation, outcome: Outcome) -> Verdict:
    result = _wait_result(operation, outcome)
    return Verdict(
        approved=bool(result.approved),
        note=result.note,
        data=result.data,
        by=result.by,
        status=result.status,
    )


def _without_result(what: str, operation: Operation) -> Awaitable[None]:
    """None in plain code: there is nothing to await, and nobody looks."""
    return cast(Awaitable[None], blocking_or_awaitable(what, operation, _nothing))


def _nothing(operation: Operation, outcome: Outcome) -> None:
    value_of(operation, outcome)
