"""The host of a run in a test: it answers what the agent asks for, by the messages of a real one.

It is a part of the runtime's control thread, as the lines that this reads: when nothing is left to
be read, it looks whether the agent rests, as a real host does before it freezes a machine. Then
what comes next comes: an answer, the end of a sleep or of a timeout, a child; or else the first
timer of an event loop. The clock skips to it. So everything from outside comes when the agent
rests, one after the other, in the same order each time.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from queue import Empty
from typing import TYPE_CHECKING, Any, Protocol

from torpor.core import artifacts, permissions
from torpor.core.errors import Invalid
from torpor.policy import answers
from torpor.sdk import values
from torpor.sdk.runtime import AT_WORK
from torpor.testing import script as scripts
from torpor.testing.clock import LoopClock
from torpor.testing.log import Log
from torpor.testing.models import Replies, refusal
from torpor.testing.playing import Channel, Pause, PlayedRuntime
from torpor.testing.script import Script, Wait
from torpor.wire import messages, names

if TYPE_CHECKING:
    from torpor.testing.outcome import Outcome

_LOOK_S_MIN, _LOOK_S_MAX = 0.0005, 0.05
# After so many looks, a second or more, a step or a connection that does nothing is taken to wait
# itself for what is to come.
_STILL_LOOKS = 30
# Timers in a row, without anything that the host hears of.
_TIMERS_MAX = 10_000


class Spawn(Protocol):
    """Runs a child: its agent, its input, its id, and when it begins."""

    def __call__(self, agent: str, given: Mapping[str, Any], run: str, at: float) -> Outcome: ...


@dataclass
class _Pending:
    """What ends at `due`, by the test's clock. `end` is None where nobody says how."""

    due: float
    order: int
    end: Callable[[], object] | None
    wait: Wait | None = None


@dataclass
class Host:
    agent: str
    run: str
    given: Mapping[str, Any]
    channel: Channel
    clock: LoopClock
    script: Script
    replies: Replies
    log: Log
    spawn: Spawn
    notes: list[tuple[str, Any]] = field(default_factory=list)  # logged and emitted
    children: list[Outcome] = field(default_factory=list)
    error: BaseException | None = None  # the test gives the run up for this

    def __post_init__(self) -> None:
        self.runtime: PlayedRuntime
        self._pending: dict[int, _Pending] = {}
        self._order = 0
        self._decided: dict[str, dict[str, Any]] = {}  # for all of the run
        self._out: deque[bytes] = deque()
        self._parts: dict[str, bytearray] = {}
        self._still = 0  # looks in a row at which nothing moved, though something is at work
        self._timers = 0

    def lines(self) -> Iterator[bytes]:
        """All that the host says, until the run has ended."""
        started = {"run": self.run, "epoch": 1, "agent": self.agent, "input": dict(self.given)}
        yield messages.encode(names.START, **started, journal=[])
        wait_s = 0.0
        while True:
            received: bytes | Pause | None = b""
            with contextlib.suppress(Empty):
                received = self.channel.inbox.get(timeout=wait_s)
            if received is None:
                return
            try:
                moved = self._hear(received) if received else self._come_next()
            except BaseException as error:  # it may be the test's own answers that fail
                moved = True
                self._give_up(error)
            wait_s = 0.0 if moved else min(max(2 * wait_s, _LOOK_S_MIN), _LOOK_S_MAX)
            while self._out:
                yield self._out.popleft()

    def _say(self, t: str, **fields: Any) -> None:
        self._out.append(messages.encode(t, **fields))

    def _give_up(self, error: BaseException) -> None:
        self.error = self.error or error
        self._pending.clear()
        self._say(names.CANCEL, reason=f"the test gives the run up: {type(error).__name__}")

    # ---- what the agent says ----

    def _hear(self, received: bytes | Pause) -> bool:
        if isinstance(received, Pause):
            self._pend(
                self.clock.now() + received.duration_s, lambda: received.over.set_result(None)
            )
            return True
        message = messages.decode(received.rstrip(b"\n"), messages.FROM_GUEST)
        hears = _HEARS.get(message["t"])
        if hears is not None:
            hears(self, message)
            self._timers = 0
        return True

    def _begin(self, message: Mapping[str, Any]) -> None:
        entry = self.log.begin(message, self.clock.now())
        if message["kind"] not in AT_WORK:
            _BEGINS.get(message["kind"], Host._at_once)(self, message, entry.at)

    def _batch(self, message: Mapping[str, Any]) -> None:
        for each in message["begins"]:
            self._begin(each)

    def _part(self, message: Mapping[str, Any]) -> None:
        content = self._parts.setdefault(message["op"], bytearray())
        content += base64.b64decode(message["data"])

    def _end(self, message: Mapping[str, Any]) -> None:
        op = message["op"]
        outcome = {key: message[key] for key in ("ok", "value", "error") if key in message}
        if "blob" not in message:
            self.log.end(op, outcome, self.clock.now())
            self._say(names.RECORDED, op=op)
            return
        content = bytes(self._parts.pop(op, b""))
        blob = {"digest": hashlib.sha256(content).hexdigest(), **message["blob"]}
        self.log.contents[op] = content
        self.log.end(op, {"ok": True, "blob": blob}, self.clock.now())
        if self.log.begun[op].what["kind"] in artifacts.KINDS:
            self._say(names.RESULT, op=op, ok=True, blob=blob)
        else:
            self._say(names.RECORDED, op=op)

    def _fetch(self, message: Mapping[str, Any]) -> None:
        content = self.log.contents[message["op"]]
        places = range(0, max(1, len(content)), messages.PART_BYTES)
        for at in places:
            data = base64.b64encode(content[at : at + messages.PART_BYTES]).decode()
            self._say(names.PIECE, op=message["op"], data=data, last=at == places[-1])

    def _note(self, message: Mapping[str, Any]) -> None:
        self.notes.append((message["kind"], message["data"]))

    # ---- what it asks for ----

    def _at_once(self, message: Mapping[str, Any], at: float, value: Any = None) -> None:
        """A checkpoint, and what this host knows nothing of."""
        self._give(message["op"], value)

    def _verdict(self, message: Mapping[str, Any], at: float) -> None:
        self._say(names.RESULT, op=message["op"], ok=True, value={"go_on": False})

    def _doubt(self, message: Mapping[str, Any], at: float) -> None:
        answer = scripts.value("completed", {"do": "again"}, by="test")
        self._say(names.RESULT, op=message["op"], ok=True, value=answer)

    def _model(self, message: Mapping[str, Any], at: float) -> None:
        try:
            response = self.replies.to(self.run, message["op"], message["data"])
            self._give(message["op"], response)
        except BaseException as error:
            self._give_up(error)
            self._say(names.RESULT, op=message["op"], ok=True, value=refusal(error))

    def _sleep(self, message: Mapping[str, Any], at: float) -> None:
        data = message["data"]
        due = max(at, data["until"]) if "until" in data else at + data["for_s"]
        slept = scripts.value("completed")
        self._pend(due, lambda: self._give(message["op"], slept))

    def _wait(self, message: Mapping[str, Any], at: float) -> None:
        wait = scripts.wait_of(self.agent, message)
        try:
            if wait.schema is not None:
                answers.check_schema(wait.schema)
        except Invalid as error:
            described = messages.error("Invalid", error.message)
            self.log.end(message["op"], {"ok": False, "error": described}, self.clock.now())
            self._say(names.RESULT, op=message["op"], ok=False, error=described)
            return
        if (remembered := self._for_run(message)) is not None:
            self._pend(at, partial(self._give, message["op"], remembered))
            return
        data, answer = message["data"], self.script.find(self.run, message["op"], wait)
        begins = at + data.get("start", {}).get("delay_s", 0)
        if answer is ... and data.get("own"):
            self._pend(begins, lambda: self._run_child(message, begins), wait)
            return
        ending = scripts.ending(wait, answer)
        give = None if ending.value is None else partial(self._give, message["op"], ending.value)
        if give is not None and message["kind"] == permissions.KIND:
            give = partial(self._decide, message, ending.value)
        self._pend(begins + ending.after_s, give, wait)

    def _for_run(self, message: Mapping[str, Any]) -> dict[str, Any] | None:
        """What is decided about a permission already."""
        if message["kind"] != permissions.KIND:
            return None
        return self._decided.get(permissions.scope({"action": message["data"]["action"]}))

    def _decide(self, message: Mapping[str, Any], value: Any) -> None:
        if permissions.decision_of(value).decision == permissions.RUN:
            self._decided[permissions.scope({"action": message["data"]["action"]})] = value
        self._give(message["op"], value)

    def _run_child(self, message: Mapping[str, Any], at: float) -> None:
        data, place = message["data"], [*self.log.begun].index(message["op"])
        run = f"{self.run}.{place + 1}"
        child = self.spawn(data["agent"], data["input"], run, at)
        self.children.append(child)
        if child.failure is None:
            value = scripts.value("completed", values.pack(child.result), by=run)
        else:
            details = {key: child.failure[key] for key in ("type", "message")}
            value = scripts.value("failed", details, by=run)
        self._pend(at + child.slept, lambda: self._give(message["op"], value))

    def _give(self, op: str, value: Any) -> None:
        self.log.end(op, {"ok": True, "value": value}, self.clock.now())
        self._say(names.RESULT, op=op, ok=True, value=value)

    # ---- what comes from outside ----

    def _pend(self, due: float, end: Callable[[], object] | None, wait: Wait | None = None) -> None:
        self._order += 1
        self._pending[self._order] = _Pending(due, self._order, end, wait)

    def _come_next(self) -> bool:
        """Whether something came: it does only when the agent rests."""
        found = self.runtime.look()
        if found.busy or not self.channel.inbox.empty():
            self._still = 0
            return False
        works = self.runtime.works()
        if (works or self.runtime.expects()) and not self._still_long():
            return False
        self._still = 0
        first = min(self._pending.values(), key=lambda each: (each.due, each.order), default=None)
        left_s = math.inf if first is None else max(0.0, first.due - self.clock.now())
        if not works and found.wake_in is not None and found.wake_in <= left_s:
            return self._skip_to_timer(found.wake_in)
        if first is None:
            return False  # it waits for what is not ours
        if first.end is None:
            open_ = [each.wait for each in self._pending.values() if each.end is None]
            raise scripts.unanswered(tuple(each for each in open_ if each is not None))
        self.clock.skip(left_s)
        del self._pending[first.order]
        first.end()
        self.runtime.moved_on()
        return True

    def _still_long(self) -> bool:
        self._still += 1
        return self._still >= _STILL_LOOKS

    def _skip_to_timer(self, wake_in: float) -> bool:
        """Of an event loop."""
        self._timers += 1
        if self._timers > _TIMERS_MAX:
            waits = tuple(each.wait for each in self._pending.values() if each.wait is not None)
            details = f"the agent sets timer after timer ({_TIMERS_MAX:,}) and nothing comes of it"
            raise scripts.unanswered(waits) if waits else scripts.Unanswered(details)
        self.clock.skip(wake_in)
        self.runtime.moved_on()
        return True


_HEARS: dict[str, Callable[[Host, Mapping[str, Any]], None]] = {
    names.BEGIN: Host._begin,
    names.BATCH: Host._batch,
    names.PART: Host._part,
    names.END: Host._end,
    names.FETCH: Host._fetch,
    names.NOTE: Host._note,
}
# By the kind of operation; what has a body is ended by the agent.
_BEGINS: dict[str, Callable[[Host, Mapping[str, Any], float], None]] = {
    "wait": Host._wait,
    permissions.KIND: Host._wait,
    "event": Host._wait,
    "child": Host._wait,
    "sleep": Host._sleep,
    "model": Host._model,
    "doubt": Host._doubt,
    "verdict": Host._verdict,
}
