"""`run`: an agent in this process, from its input to its outcome."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import copy_context
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from torpor.core.errors import Invalid
from torpor.policy import inputs
from torpor.sdk import agents, conversation, current, process, values
from torpor.sdk.lines import in_event_loop
from torpor.testing.clock import LoopClock
from torpor.testing.host import Host
from torpor.testing.log import Log
from torpor.testing.models import Models, Replies
from torpor.testing.outcome import LogLine, Outcome
from torpor.testing.playing import Channel, PlayedRuntime
from torpor.testing.script import Answers, Script

_RUN = "run_test"
_one_at_a_time = threading.Lock()


def run(
    agent: Callable[..., Any],
    input: Mapping[str, Any] | None = None,
    /,
    *,
    answers: Answers | None = None,
    models: Models | None = None,
    now: datetime | None = None,
    check: bool = True,
) -> Outcome:
    """Run `agent`, a function that is a `torpor.agent`, on `input`, its arguments by name.

    `answers` says what its waits get, by what they are called: `{"approve": True,
    "waitpoint:table": {...}, "event:paid": 12, "child:research": [...]}`, or as a function of the
    wait (`Wait`). An answer is what it brings (of an approval True or False), `TIMEOUT`, or an
    `Answer`, which may come later; a list is one answer for each. A child that is an agent of the
    same program and has no answer is run, too. `models` says what model calls get: replies one by
    one (text, a `ToolCall` or several, a body), or a function of the `ModelRequest`. `now` is when
    the run begins.

    The clock skips: sleeps, timeouts and the pauses of retries take no time. What steps do, they
    really do.

    Raises what the agent raises; with `check=False` the outcome has it. Raises `Unanswered` if it
    waits for what has no answer, `Unused` if it never asked for one that there is, ValueError if
    `input` does not fit."""
    began = time.time() if now is None else now.timestamp()
    chosen = agents.of(agent)
    try:
        packed = values.pack(dict(input or {}))
        inputs.check_input(inputs.usable(chosen.describe()), packed)
    except Invalid as error:
        raise ValueError(f"{error.message}. {error.hint}".strip()) from None
    case = _Case(chosen, packed, _RUN, Script(answers or {}), Replies(models), began)
    with _alone():
        outcome = case.play(Log(), complete=False)
    if check and outcome.error is not None:
        raise outcome.error
    if outcome.error is None:
        case.script.check_used()
        case.replies.check_used()
    return outcome


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """A process has one runtime."""
    if not _one_at_a_time.acquire(blocking=False):
        raise RuntimeError("another thread of this process is running an agent: run one at a time")
    try:
        yield
    finally:
        _one_at_a_time.release()


class _Ended(NamedTuple):
    value: Any = None
    error: BaseException | None = None
    failure: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class _Case:
    agent: agents.Agent
    given: Mapping[str, Any]
    run: str
    script: Script
    replies: Replies
    began: float

    def play(self, log: Log, *, complete: bool) -> Outcome:
        """Run it, from `log`, which has all that it does if it is `complete`."""
        if not in_event_loop() and self.run == _RUN:
            return self._play(log, complete)
        # Its own thread: here, nothing could block.
        outcomes: list[Outcome] = []
        failed: list[BaseException] = []

        def body() -> None:
            try:
                outcomes.append(self._play(log, complete))
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=copy_context().run, args=(body,), name="torpor-agent")
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return outcomes[0]

    def _play(self, log: Log, complete: bool) -> Outcome:
        foreign = {*threading.enumerate()} - {threading.current_thread()}
        at = log.entries[-1].at if log.entries else self.began
        clock, channel = LoopClock(at, foreign), Channel()
        host = Host(
            self.agent.name,
            self.run,
            self.given,
            channel,
            clock,
            self.script,
            self.replies,
            log,
            self._spawn,
        )
        runtime = PlayedRuntime(channel, clock, foreign, log.journal(), complete=complete)
        host.runtime, channel.lines = runtime, host.lines()
        with clock.in_charge(), agents.of_program(self.agent), conversation.another():
            ended = _ended(runtime, self.agent)
        if host.error is not None:
            raise host.error
        if runtime.diverged is not None:
            raise runtime.diverged
        return Outcome(
            agent=self.agent.name,
            input=self.given,
            result=values.unpack(ended.value),
            error=ended.error,
            failure=ended.failure,
            log=[LogLine(**data) for kind, data in host.notes if kind == "log"],
            emitted=[values.unpack(data) for kind, data in host.notes if kind == "emit"],
            slept=clock.now() - self.began,
            children=host.children,
            _log=log,
            _again=self._again,
        )

    def _again(self, log: Log, *, complete: bool) -> Outcome:
        with _alone():
            return replace(self, script=self.script.replaying()).play(log, complete=complete)

    def _spawn(self, agent: str, given: Mapping[str, Any], run: str, at: float) -> Outcome:
        chosen = agents.choose(agent)
        return replace(self, agent=chosen, given=given, run=run, began=at).play(
            Log(), complete=False
        )


def _ended(runtime: PlayedRuntime, agent: agents.Agent) -> _Ended:
    """What an agent's process does, from its beginning to its end."""
    with _installed(runtime):
        runtime.listen()
        started = runtime.starts.get()
        try:
            return _Ended(process.perform(runtime, agent, started["input"]))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return _Ended(error=error, failure=process.failure(runtime, error))
        finally:
            runtime.close()


@contextlib.contextmanager
def _installed(runtime: PlayedRuntime) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in runtime.environment}
    os.environ.update(runtime.environment)
    outer = current.swap(runtime)
    try:
        yield
    finally:
        current.swap(outer)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
