"""Steps: functions whose result is recorded, so that they happen once.

A step's result is recorded before it is given to the agent (rule 1), and a step with a recorded
result never runs again in its run (rule 2). A step that was cut off by a crash runs again with
the same idempotency key (rule 3, `torpor.run.idempotency_key`).

A step's body is one unit. A step called in it just runs, as a part of it; a wait cannot be in it,
because when the result is replayed the body does not run and the wait would never be asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import json
import random
import secrets
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_args, overload

from torpor.core import jsonvalues
from torpor.core.durations import Duration, seconds
from torpor.core.errors import Invalid
from torpor.core.ids import op_id
from torpor.core.limits import NAME_MAX
from torpor.sdk import arguments, freezing, notes, values
from torpor.sdk.current import current, is_copy, outside
from torpor.sdk.errors import (
    Cancelled,
    NonRetryable,
    OutsideRun,
    RetryAfter,
    StepError,
    step_error,
    text_of,
    traceback_of,
    type_name,
)
from torpor.sdk.holding import Beginning, begun, begun_in_task
from torpor.sdk.operations import Operation, Outcome, inside
from torpor.sdk.results import Results
from torpor.wire import messages

_F = TypeVar("_F", bound=Callable[..., Any])

OnDoubt: TypeAlias = Literal["again", "ask"]

RETRIES_MAX = 1000
BACKOFF_S_MAX = 300.0
_RAW_BYTES_MAX = messages.ENTRY_CHARS_MAX // 4 * 3 - 64  # in base64, with its tag
# Not the agent's generator: retries must not change what a seeded agent draws.
_jitter = random.SystemRandom()
_permission: ContextVar[str | None] = ContextVar("permission", default=None)


def refuse_inside(what: str) -> None:
    if step := inside.get():
        raise OutsideRun(
            f"torpor.{what} was called inside the step {step.name!r}: a step's body is one unit "
            "that is not run again once it is recorded; call it from the agent, around the step"
        )


@dataclass(frozen=True)
class _Spec:
    name: str
    key: arguments.Key | None
    retries: int
    backoff_s: float
    timeout_s: float | None
    ask: bool  # when it is in doubt
    results: Results
    source: tuple[str, int] | None  # file and line of the function

    def delay_s(self, attempt: int, error: Exception) -> float | None:
        """How long to wait after the failed `attempt` (from 1); None: no more."""
        # By type(): what an error says of its class is its own code, and may fail.
        if attempt > self.retries or issubclass(type(error), NonRetryable):
            return None
        if isinstance(error, RetryAfter):
            return error.after_s
        full = min(self.backoff_s * 2.0 ** min(attempt - 1, 30), BACKOFF_S_MAX)
        return full * _jitter.uniform(0.5, 1.0)


@overload
def step(fn: _F, /) -> _F: ...
@overload
def step(
    *,
    retries: int = 0,
    backoff: Duration = 1.0,
    timeout: Duration | None = None,
    on_doubt: OnDoubt = "again",
    name: str | None = None,
    key: Callable[..., Any] | str | None = None,
) -> Callable[[_F], _F]: ...
def step(
    fn: _F | None = None,
    /,
    *,
    retries: int = 0,
    backoff: Duration = 1.0,
    timeout: Duration | None = None,
    on_doubt: OnDoubt = "again",
    name: str | None = None,
    key: Callable[..., Any] | str | None = None,
) -> _F | Callable[[_F], _F]:
    """Make a function, plain or async, a step of the agent. Also inline: `torpor.step(fn)(x)`.

    `retries`: further attempts after a failed one, `backoff` before the first of them, twice as
    long before each next, with jitter, at most 300 s. `timeout` for each attempt; a plain function
    that overruns it is given up, its thread goes on unheeded. `on_doubt`: what to do when a crash
    came while it ran: "again" runs it again; "ask" holds the run until a person has said whether
    it is done (with which result), to be run again, or failed. `name` in the log, by default the
    function's. `key`: what tells one call from another, where that is not the data among the
    arguments: a function of the same arguments that returns data, or parameters by name, with
    attributes, as in "order.id, amount".

    The result must be JSON, bytes or what is written as JSON, and arrives as the return annotation
    says; without one, or if it does not fit, as JSON gives it back: a tuple as a list. A step that
    fails for good raises `StepError`, which is also an instance of what the body raised; so does
    its replay.

    Outside a run, in a test for example, a step is the function that it decorates: it is called
    once, and gives or raises what its body does.
    """
    if not 0 <= retries <= RETRIES_MAX:
        raise ValueError(f"retries={retries!r}: give a number from 0 to {RETRIES_MAX}")
    if on_doubt not in get_args(OnDoubt):
        raise ValueError(f"on_doubt={on_doubt!r}: one of {', '.join(get_args(OnDoubt))}")
    backoff_s = seconds(backoff)
    timeout_s = None if timeout is None else seconds(timeout)

    def decorate(fn: _F) -> _F:
        ask = on_doubt == "ask"
        named = None if key is None else arguments.key_of(fn, key)
        spec = _Spec(
            _name(fn, name), named, retries, backoff_s, timeout_s, ask, Results(fn), _source(fn)
        )
        wrapped = _async_step(fn, spec) if inspect.iscoroutinefunction(fn) else _step(fn, spec)
        return cast(_F, wrapped)

    return decorate if fn is None else decorate(fn)


def _name(fn: Callable[..., Any], name: str | None) -> str:
    inner = fn.func if isinstance(fn, functools.partial) else fn
    found = str(name or getattr(inner, "__qualname__", type(inner).__name__))
    if jsonvalues.fault(found) is not None:
        raise ValueError(f"name={found!r}: half a surrogate pair is not text")
    return found.rpartition("<locals>.")[2].strip("<>")[:NAME_MAX]


def _source(fn: Callable[..., Any]) -> tuple[str, int] | None:
    inner = inspect.unwrap(fn.func if isinstance(fn, functools.partial) else fn)
    code = getattr(inner, "__code__", None)
    return None if code is None else (code.co_filename, code.co_firstlineno)


def _step(fn: Callable[..., Any], spec: _Spec) -> Callable[..., Any]:
    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if inside.get() is not None:
            return fn(*args, **kwargs)
        if outside():
            with _within(spec):
                return fn(*args, **kwargs)
        operation = begun(_beginning(spec, args, kwargs))
        while operation.doubt:
            question = current("step").ask(operation)
            _settle_doubt(operation, question, question.block())
        if operation.own is not None:
            return _give(spec, operation, operation.block())
        current("step").body(operation, begins=True)
        outcome, trace = _attempts(functools.partial(fn, *args, **kwargs), spec, operation)
        _end(operation, outcome)
        return _give(spec, operation, operation.block(), trace)

    return call


def _async_step(
    fn: Callable[..., Coroutine[Any, Any, Any]], spec: _Spec
) -> Callable[..., Coroutine[Any, Any, Any]]:
    @functools.wraps(fn)
    async def call(*args: Any, **kwargs: Any) -> Any:
        if inside.get() is not None:
            return await fn(*args, **kwargs)
        if outside():
            with _within(spec):
                return await fn(*args, **kwargs)
        operation = await begun_in_task(_beginning(spec, args, kwargs))
        while operation.doubt:
            question = current("step").ask(operation)
            _settle_doubt(operation, question, await question.wait())
        if operation.own is not None:
            return _give(spec, operation, await operation.wait())
        body = functools.partial(fn, *args, **kwargs)
        current("step").body(operation, begins=True)
        outcome, trace = await _async_attempts(body, spec, operation)
        _end(operation, outcome)
        return _give(spec, operation, await operation.wait(), trace)

    return call


@contextlib.contextmanager
def using(permission: str) -> Iterator[None]:
    """The step that begins in here uses this permission."""
    token = _permission.set(permission)
    try:
        yield
    finally:
        _permission.reset(token)


@contextlib.contextmanager
def _within(spec: _Spec) -> Iterator[None]:
    """A step's body in plain Python. It is one unit there, too: a wait in it is refused."""
    own = secrets.token_hex(16)
    token = inside.set(Operation(op_id("step", spec.name, 1), "step", spec.name, own))
    try:
        yield
    finally:
        inside.reset(token)


def _beginning(spec: _Spec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Beginning[Operation]:
    runtime = current(f"step ({spec.name})")
    shown: dict[str, Any] = {}
    if spec.key is None:
        digest, hint = arguments.identity(args, kwargs)
    else:
        shown["key"] = spec.key(args, kwargs)
        digest, hint = arguments.identity(shown)
    freezing.flush_output()
    used = _permission.get()

    def data() -> dict[str, Any]:
        previewed = arguments.preview(args, kwargs, **shown)
        return previewed if used is None else {**previewed, "permission": used}

    at = "" if spec.source is None else runtime.place(*spec.source)
    return runtime.beginning("step", spec.name, digest, data, at=at, once=spec.ask, hint=hint)


def _settle_doubt(operation: Operation, question: Operation, ruling: Outcome) -> None:
    """Do what a person said about a step in doubt: run it again, or end it."""
    runtime, answer = current("step"), ruling.value
    if answer["status"] != "completed":
        raise Cancelled("nobody is left to settle a step in doubt")
    settled = answer["data"]
    if settled["do"] == "done":
        runtime.conclude(operation, Outcome(True, value=settled["result"]))
    elif settled["do"] == "fail":
        runtime.conclude(operation, _failed(NonRetryable(settled["message"])))
    elif question.doubt > operation.doubt:
        operation.doubt = question.doubt
    else:
        runtime.begin_again(operation)


def _attempts(
    body: Callable[[], Any], spec: _Spec, operation: Operation
) -> tuple[Outcome, Exception | None]:
    token = inside.set(operation)
    try:
        for attempt in range(1, spec.retries + 2):
            try:
                result = body() if spec.timeout_s is None else _timed(body, spec.timeout_s)
            except Exception as error:
                delay_s = spec.delay_s(attempt, error)
                if delay_s is None:
                    return _failed(error), error
                _report(spec, attempt, error, delay_s)
                current("step").pause(delay_s)
            else:
                return _packed(operation, result)
        raise AssertionError("the last attempt returns")
    except BaseException:
        if not is_copy():  # which a body may have forked
            current("step").abandon(operation)
        raise
    finally:
        inside.reset(token)


async def _async_attempts(
    body: Callable[[], Coroutine[Any, Any, Any]], spec: _Spec, operation: Operation
) -> tuple[Outcome, Exception | None]:
    token = inside.set(operation)
    try:
        for attempt in range(1, spec.retries + 2):
            try:
                result = await asyncio.wait_for(body(), spec.timeout_s)
            except Exception as error:
                delay_s = spec.delay_s(attempt, error)
                if delay_s is None:
                    return _failed(error), error
                _report(spec, attempt, error, delay_s)
                await current("step").pause_task(delay_s)
            else:
                return _packed(operation, result)
        raise AssertionError("the last attempt returns")
    except BaseException:
        if not is_copy():  # which a body may have forked
            current("step").abandon(operation)
        raise
    finally:
        inside.reset(token)


def _timed(body: Callable[[], Any], timeout_s: float) -> Any:
    """Call `body` in a thread that is given up on when it overruns: there is no safe way to stop
    a plain function in the middle."""
    done: list[Callable[[], Any]] = []

    def run() -> None:
        try:
            result = body()
        except BaseException as error:
            raised = error

            def give() -> Any:
                raise raised

            done.append(give)
        else:
            done.append(lambda: result)

    thread = threading.Thread(target=copy_context().run, args=(run,), daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not done:
        raise TimeoutError(f"it took longer than {timeout_s:g} s")
    return done[0]()


def _report(spec: _Spec, attempt: int, error: Exception, delay_s: float) -> None:
    notes.log(
        f"step {spec.name}: attempt {attempt} of {spec.retries + 1} failed with "
        f"{type(error).__name__}: {text_of(error)}; next in {delay_s:.1f} s",
        level="warning",
    )


def _failed(error: Exception) -> Outcome:
    described = messages.error(type_name(type(error)), text_of(error), notes.trace(error))
    return Outcome(False, error=described)


def _packed(operation: Operation, result: Any) -> tuple[Outcome, Exception | None]:
    what = f"step {operation.name} cannot be recorded"
    try:
        if isinstance(result, (bytes, bytearray)) and len(result) > _RAW_BYTES_MAX:
            content, form = bytes(result), "bytes"
        else:
            text = values.written(result)
            if len(text) <= messages.ENTRY_CHARS_MAX:  # what is larger goes to a blob
                return Outcome(True, value=json.loads(text)), None
            content, form = text.encode(), "json"
    except values.NotJson as error:
        return _failed(TypeError(f"{what}: {error}")), None
    if len(content) > messages.VALUE_BYTES_MAX:
        limit = f"at most {messages.VALUE_BYTES_MAX:,} are kept; write it to a file"
        return _failed(ValueError(f"{what}: {len(content):,} bytes; {limit}")), None
    return Outcome(True, content=content, form=form), None


def _end(operation: Operation, outcome: Outcome) -> None:
    runtime = current("step")
    freezing.flush_output()
    runtime.body(operation, begins=False)
    try:
        runtime.end(operation, outcome)
    except Invalid as error:  # too large, or text that is no Unicode
        message = f"step {operation.name} cannot be recorded: {error.message}; {error.hint}"
        runtime.end(operation, _failed(ValueError(message)))


def _give(
    spec: _Spec, operation: Operation, outcome: Outcome, raised: Exception | None = None
) -> Any:
    if outcome.ok and outcome.content is not None:
        if outcome.form == "bytes":
            return bytes(outcome.whole)
        return spec.results.of(json.loads(outcome.whole))
    if outcome.ok:
        return spec.results.of(outcome.value)
    error: StepError = step_error(operation.name, outcome.error or {})
    if raised is not None:
        # One traceback that leads into the body, as if its own exception had come through.
        error = error.with_traceback(traceback_of(raised))
    raise error from None
