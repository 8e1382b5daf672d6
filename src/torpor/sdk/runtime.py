"""The agent's side of every operation: names and counts it, matches it with the log or asks the
host, and hands the answer to whoever waits for it.

    agent's threads ── begin ──► journal? ── recorded ──► settled at once
                                    └─ live ─► supervisor ─► host ─► log ─► `result`, `recorded`
    control thread  ◄── results, cancel, prepare ── supervisor        settles what is pending

One `Runtime` exists in an agent's process and none elsewhere (`torpor.sdk.current`). All that it
knows changes under one lock. The control thread is the only reader of the socket, and keeps that
lock from before the process is held (`freezing.hold`) until the results that came while the machine
slept are in the journal: so no operation is matched with an old journal.

A cancellation reaches the main thread as a signal whose handler raises `Cancelled` wherever that
thread is, in a computation, a sleep or a wait; but not within the runtime's own lock, where it
could tear a message in two: there it is raised on leaving (`torpor.sdk.critical`).
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple, NoReturn

from torpor.core import artifacts
from torpor.core.divergence import SUPERSEDED_MAX
from torpor.core.ids import op_id
from torpor.replay.journal import Divergence, Early, Intent, Journal, Match, Recorded
from torpor.sdk import current, files, freezing, looptime, rest
from torpor.sdk.control import Control
from torpor.sdk.critical import Cancelling, Critical
from torpor.sdk.errors import Cancelled, OutsideRun
from torpor.sdk.holding import Beginning, Held, Holding, begun
from torpor.sdk.lines import Lines
from torpor.sdk.operations import Operation, Outcome, outcome_of, pieces, settle
from torpor.sdk.places import caller, place
from torpor.sdk.stillness import prepare
from torpor.wire import messages, names

_SENDING_MAX = 16  # large contents at once; fewer than the host takes
AT_WORK = ("step", "read", "context", *artifacts.KINDS)
_WAITS = (*("wait", "event", "sleep", "doubt"), "permission", "child")  # they end from outside


class _Verdict(NamedTuple):
    """Asked for because of `error`."""

    error: Divergence
    operation: Operation


class Runtime:
    machine = True  # the agent has one to itself

    def __init__(self, control: Control, hold_fd: int) -> None:
        # `run`, `epoch`: who this process is. `freezing.hold` changes it in place.
        self.identity: dict[str, Any] = {}
        self.agent: str | None = None
        self.input: dict[str, Any] = {}
        self.running = False
        self.diverged: Divergence | None = None
        self._verdict: _Verdict | None = None  # on a divergence, while it is not known
        # What the main thread is to do: `import`, `load`, `start`.
        self.starts: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        # The directories of the agent's files, and of its dependencies, ending in separators.
        self.app = ""
        self.deps: tuple[str, ...] = ()
        self._control = control
        self._reader = control.makefile("rb")
        self._hold_fd = hold_fd
        self._critical = Critical()
        self._cancelling = Cancelling(self._critical)
        self._sending = threading.BoundedSemaphore(_SENDING_MAX)
        self._journal = Journal()
        self._pending: dict[str, Operation] = {}
        self._holding = Holding(self._is_at_work)
        self._order = 0  # of what ended last
        self._transfers = 0  # of large values, under way
        self._status: tuple[int, int, bool] = (0, 0, False)
        self._all_of: frozenset[str] = frozenset()  # what the agent, if it is alone, waits for
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._listen, name="torpor", daemon=True)
        self.lines = Lines(self._thread)
        self._watch = rest.Watch(self.lines.own, self._critical.entering)
        self._handlers: dict[str, Callable[[dict[str, Any]], None]] = {
            **dict.fromkeys((names.IMPORT, names.LOAD), self.starts.put),
            names.START: self._start,
            names.RESULT: self._result,
            names.RECORDED: self._recorded,
            names.PIECE: self._piece,
            names.CANCEL: self._cancel,
            names.PREPARE: self._prepare,
            names.REHEARSE: self._rehearse,
        }

    def listen(self) -> None:
        """Start the control thread. Call in the main thread."""
        self._cancelling.listen()
        self._thread.start()

    @property
    def cancel_reason(self) -> str | None:
        return self._cancelling.reason

    def forked(self) -> None:
        """In a copy of this process: it is no run, and its words would get mixed with ours."""
        current.forked()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in (self._control.fileno(), self._hold_fd):
            if fd >= 0:
                os.dup2(nowhere, fd, inheritable=False)
        os.close(nowhere)

    # ---- what agents' threads call ----

    def begin(
        self,
        kind: str,
        name: str,
        digest: str,
        data: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
        *,
        held: list[bytes] | None = None,
    ) -> Operation:
        """Start an operation that has no body; see `beginning`."""
        return begun(self.beginning(kind, name, digest, data, held=held))

    def beginning(
        self,
        kind: str,
        name: str,
        digest: str,
        data: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
        *,
        at: str = "",
        once: bool = False,
        hint: str = "",
        held: list[bytes] | None = None,
    ) -> Beginning[Operation]:
        """Start an operation; it may be settled already. Does not wait for the host, but for other
        lines if it comes early (`torpor.sdk.holding`). `data` may be made on demand: it is not
        needed where the log has the outcome. `at` is its place in the agent's source where none of
        the agent's own code calls it. One that is to happen only `once` does not begin if it is in
        doubt. What is to tell the host is put into `held`, if that is given.

        Raises Divergence, Cancelled, or Invalid when `data` cannot be sent."""
        if threading.get_ident() == self._thread.ident:
            raise OutsideRun("an on_freeze or on_thaw hook cannot use operations")
        at = caller(self.app, self.deps) or at
        intent = Intent(kind, name, digest, at, self.lines.is_side(), hint)
        held_back: Held | None = None
        if callable(data) and self._journal.empty:  # needed for sure: not asked for under the lock
            data = data()
        while True:
            verdict: _Verdict | None = None
            early: Early | None = None
            with self._critical:
                if self.diverged is not None:
                    raise self.diverged
                if self.cancel_reason is not None and intent.kind in _WAITS:
                    raise Cancelled(self.cancel_reason)
                late = held_back.late if held_back is not None else None
                try:
                    match = self._journal.find(intent, self.lines.is_alone, late)
                except Divergence as error:
                    verdict = self._ask_verdict(error)
                except Early as error:
                    early = error
                    held_back = self._holding.hold(error, held_back)
                else:
                    if match.settled or not callable(data):
                        given = {} if callable(data) else data
                        return self._begin(intent, match, given, once, held)
            if verdict is not None:
                self._heed(verdict)
            elif early is not None and held_back is not None:
                yield held_back
            elif callable(data):
                data = data()  # the agent's own code may run in it: not under the lock

    def begin_all(
        self, kind: str, several: Iterable[tuple[str, str, Mapping[str, Any]]]
    ) -> list[Operation]:
        """As `begin`, for each of these (name, digest, data): what is new is one message, and so
        one write to the log."""
        held: list[bytes] = []
        begun = [self.begin(kind, *each, held=held) for each in several]
        fields = map(json.loads, held)
        begins = [{key: each[key] for key in each if key != "t"} for each in fields]
        with self._critical:
            if begins:
                self._send(messages.encode(names.BATCH, begins=begins))
            self._update_status()
        return begun

    def _begin(
        self,
        intent: Intent,
        match: Match,
        data: Mapping[str, Any],
        once: bool,
        held: list[bytes] | None,
    ) -> Operation:
        op, record = match
        self._holding.moved(journal=record is not None)
        operation = Operation(op, intent.kind, intent.name, intent.digest, once=once)
        operation.cancelled = self._cancelling.noted
        if record is not None and "ok" in record:
            self._journal.take(intent, match)
            self._replay(operation, record)
            return operation
        named = {"op": op, "kind": intent.kind, "name": intent.name, "digest": intent.digest}
        line: dict[str, Any] = {"side": True} if intent.side else {}
        if intent.hint:
            line["hint"] = intent.hint
        operation.message = messages.encode(names.BEGIN, **named, data=data, at=intent.at, **line)
        self._journal.take(intent, match)
        if once and record is not None:
            operation.doubt = record.get("again", 0) + 1
        else:
            self._start_now(operation, held)
        return operation

    def _ask_verdict(self, error: Divergence) -> _Verdict:
        """Ask the host whether the agent may go on. Under the lock."""
        if self._verdict is not None:
            return self._verdict
        op = op_id("verdict", error.recorded["op"], 1)
        digest = error.recorded["digest"]
        unused = [record["op"] for record in self._journal.unused]
        if len(unused) > SUPERSEDED_MAX:
            unused = []
        data = {"message": error.message, "superseded": unused}
        operation = Operation(op, "verdict", error.recorded["op"], digest)
        operation.message = messages.encode(
            names.BEGIN, op=op, kind="verdict", name=operation.name, digest=digest, data=data
        )
        self._verdict = _Verdict(error, operation)
        record = self._journal.questions.pop(op, None)
        if record is not None and "ok" in record:
            operation.replayed = outcome_of(record)
        else:
            self._start_now(operation)
        return self._verdict

    def _heed(self, verdict: _Verdict) -> None:
        """Wait for the verdict. Raises the Divergence if the agent may not go on."""
        go_on = verdict.operation.block().value["go_on"]
        with self._critical:
            if self._verdict is verdict:
                self._verdict = None
                if go_on:
                    self._journal.supersede()
                else:
                    self.diverged = verdict.error
                self._holding.moved(journal=True)
        if not go_on:
            raise verdict.error

    def ask(self, operation: Operation) -> Operation:
        """The question what is to become of an `operation` in doubt. Its value is that of a wait
        whose data is as in `torpor.core.doubts`; if its own `doubt` is higher after that, a
        crash came after the answer, in the middle of the repeat. Raises Cancelled."""
        op = op_id("doubt", operation.op, operation.doubt)
        intent = Operation(op, "doubt", operation.op, operation.digest)
        intent.cancelled = self._cancelling.noted
        intent.message = messages.encode(
            names.BEGIN, op=op, kind="doubt", name=operation.op, digest=operation.digest, data={}
        )
        with self._critical:
            if self.cancel_reason is not None:
                raise Cancelled(self.cancel_reason)
            record = self._journal.questions.pop(op, None)
            if record is not None and "ok" in record:
                intent.replayed = outcome_of(record)
            else:
                self._start_now(intent)
        return intent

    def begin_again(self, operation: Operation) -> None:
        """Begin an operation in doubt."""
        with self._critical:
            operation.doubt = 0
            self._start_now(operation)

    def conclude(self, operation: Operation, outcome: Outcome) -> None:
        """Give an operation in doubt the outcome that it is said to have had."""
        with self._critical:
            operation.doubt = 0
            self._pend(operation)
        self.end(operation, outcome)

    def end(self, operation: Operation, outcome: Outcome) -> None:
        """Send a step's outcome to the log; its future settles once it is there. Does nothing if
        the log turned out to hold one (rule 2). Raises Invalid when it cannot be sent."""
        if outcome.content is not None:
            with self._sending:
                self._end_large(operation, outcome)
            return
        fields = outcome.fields | operation.also
        message = messages.encode(names.END, op=operation.op, **fields)
        with self._critical:
            if operation.op in self._pending:
                operation.own = outcome
                self._send(message)

    def _end_large(self, operation: Operation, outcome: Outcome) -> None:
        """In parts, others' messages between them."""
        assert outcome.content is not None
        size = 0
        with self._critical:
            self._transfers += 1
        try:
            for piece in pieces(outcome.content, messages.PART_BYTES):
                size += len(piece)
                data = base64.b64encode(piece).decode()
                part = messages.encode(names.PART, op=operation.op, data=data)
                with self._critical:
                    if operation.op not in self._pending:
                        return
                    self._send(part)
            blob = {"bytes": size, "form": outcome.form}
            end = messages.encode(names.END, op=operation.op, ok=True, blob=blob, **operation.also)
            with self._critical:
                operation.own = outcome
                self._send(end)
        finally:
            with self._critical:
                self._transfers -= 1

    def body(self, operation: Operation, *, begins: bool) -> None:
        """A step's body begins, or is through and not yet recorded. One that wrote files is
        recorded with a snapshot that has them."""
        if begins:
            operation.before = files.mark()
        elif files.mark() != operation.before:
            operation.also = {"files": True}

    def abandon(self, operation: Operation) -> None:
        """The step's body was cut off: it stays in the log without a result (rule 3)."""
        with self._critical:
            if self._pending.pop(operation.op, None) is not None:
                self._update_status()

    def say(self, t: str, **fields: Any) -> None:
        """Tell the host something without an answer. Raises Invalid."""
        message = messages.encode(t, **fields)
        with self._critical:
            self._send(message)

    def time(self) -> float:
        """The time of day, in unix seconds."""
        return time.time()

    def pause(self, duration_s: float) -> None:
        """Between two attempts of a step."""
        time.sleep(duration_s)

    async def pause_task(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)

    def place(self, file: str, line: int) -> str:
        """A place in the agent's source as it is written in the log."""
        return place(self.app, file, line)

    def wait_for_all(self, operations: Iterable[Operation]) -> None:
        """The calling line goes on when all of these have ended; with none, it goes on. If there is
        no other, the run need not be woken before that."""
        ops = [each.op for each in operations]
        with self._critical:
            self._all_of = frozenset(ops if self.lines.is_alone() else ())
            self._update_status()

    def attach(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
        """The agent is `task`: a cancellation goes there instead of to the main thread."""
        self.lines.main_task, self._loop = task, loop

    def finish(self) -> None:
        """The agent has ended. Raises Divergence if the log holds operations that it should have
        asked for."""
        with self._critical:
            if self.diverged is not None:
                raise self.diverged
            try:
                self._journal.finish()
            except Divergence as error:
                verdict = self._ask_verdict(error)
            else:
                return
        self._heed(verdict)

    # ---- under the lock ----

    def _pend(self, operation: Operation) -> None:
        self._pending[operation.op] = operation
        operation.future  # noqa: B018 -- it is made here, where no two threads can

    def _is_at_work(self) -> bool:
        return any(each.kind in AT_WORK for each in tuple(self._pending.values()))

    def _start_now(self, operation: Operation, held: list[bytes] | None = None) -> None:
        self._pend(operation)
        if held is None:
            self._send(operation.message)
            self._update_status()
        else:
            held.append(operation.message)
        operation.message = b""

    def _replay(self, operation: Operation, record: Recorded) -> None:
        if operation.kind == "step":
            operation.own = outcome_of(record)
            if "blob" in record:
                operation.fetched = bytearray()
                self._transfers += 1
                self._pend(operation)
                self._send(messages.encode(names.FETCH, op=operation.op))
            self._replay_step(operation, record)
        else:
            operation.order = self._next_order(record.get("seq", 0))
            operation.replayed = outcome_of(record)

    def _next_order(self, seq: int | None = None) -> int:
        """For an operation that ended at `seq` in the log; None: only now, after all of these."""
        self._order = self._order + 1 if seq is None else max(self._order, seq)
        return self._order if seq is None else seq

    def _replay_step(self, operation: Operation, record: Recorded) -> None:
        """Its body printed, and will not again: the host must know where in the agent's output it
        was left out. Settled once what was printed so far is taken."""
        self._pend(operation)
        self._send(messages.encode(names.REPLAYED, op=operation.op))

    def _send(self, message: bytes) -> None:
        self._watch.stir()
        self._control.sendall(message + b"\n")

    def _update_status(self) -> None:
        """Tell the host what it needs to know to freeze. While nothing waits it never freezes,
        and how many steps are at work is not worth a message each."""
        waits = [each for each in self._pending.values() if each.kind in _WAITS]
        if not waits and not self._status[0]:
            return
        busy = sum(each.kind in AT_WORK for each in self._pending.values())
        patient = bool(waits) and self._all_of.issuperset(each.op for each in waits)
        status = (len(waits), busy, patient)
        if status != self._status:
            self._status = status
            state = {"waiting": len(waits), "busy": busy}
            self._tell(names.STATUS, **state, **({"all": True} if patient else {}))

    def _extend_journal(self, records: Iterable[Recorded]) -> list[Operation]:
        """Put what the log got while this machine slept behind what is still unused; the pending
        operations among it are returned, to be settled."""
        settled, unused = [], []
        for record in records:
            if record["op"] not in self._pending:
                unused.append(record)
            elif "ok" in record:
                operation = self._pending.pop(record["op"])
                operation.own = outcome_of(record)._replace(content=operation.content)
                operation.order = self._next_order(record.get("seq", 0))
                if operation.kind == "doubt":
                    operation.doubt = record.get("again", 0) + 1
                settled.append(operation)
        self._journal.extend(unused)
        self._holding.moved(journal=True)
        self._update_status()
        self._watch.stir()
        return sorted(settled, key=attrgetter("order"))

    # ---- the control thread ----

    def _listen(self) -> None:
        try:
            for line in self._reader:
                message = json.loads(line)
                self._handlers[message["t"]](message)
        except BaseException:
            traceback.print_exc()
        self._over()

    def _over(self) -> None:
        """Nothing more comes."""
        self._gone()

    def _gone(self) -> NoReturn:
        os._exit(70)  # without its supervisor a process can do nothing that counts

    def _start(self, message: dict[str, Any]) -> None:
        with self._critical:
            self.identity.update(run=message["run"], epoch=message["epoch"])
            self.input = message["input"]
            self._journal.extend(message["journal"])
            self._settle_in()
            self.running = True
        self.starts.put(message)

    def _settle_in(self) -> None:
        """A run begins in this process, which has imported its agent."""
        freezing.spare_heap()
        looptime.restart_clock()

    def _result(self, message: dict[str, Any]) -> None:
        self._settle(message["op"], outcome_of(message))

    def _recorded(self, message: dict[str, Any]) -> None:
        self._settle(message["op"], None)

    def _piece(self, message: dict[str, Any]) -> None:
        with self._critical:
            operation = self._pending.get(message["op"])
            if operation is None or operation.fetched is None or operation.own is None:
                return
            operation.fetched += base64.b64decode(message["data"])
            if not message["last"]:
                return
            del self._pending[operation.op]
            self._transfers -= 1
            own = operation.own._replace(content=operation.fetched)
        if "problem" in message:
            operation.future.set_exception(RuntimeError(message["problem"]))
        else:
            settle(operation.future, own)

    def _settle(self, op: str, outcome: Outcome | None) -> None:
        """Give a pending operation its outcome, or the one that it sent itself. What is not
        pending was settled from the journal: an answer may come by both ways."""
        with self._critical:
            operation = self._pending.get(op)
            if operation is None or operation.fetched is not None:
                return
            del self._pending[op]
            self._holding.moved()
            operation.order = self._next_order()
            self._watch.stir()
            self._update_status()
        outcome = outcome if outcome is not None else operation.own
        if outcome is not None:
            settle(operation.future, outcome)

    def _cancel(self, message: dict[str, Any]) -> None:
        with self._critical:
            if not self.running or self.cancel_reason is not None:
                return
            reason = self._cancelling.reason = message["reason"] or "the run was cancelled"
            self._journal.interrupt()
            self._holding.moved(journal=True)
            waits = [each for each in self._pending.values() if each.kind in _WAITS]
            for operation in waits:
                del self._pending[operation.op]
            self._update_status()
        for operation in waits:
            if operation.future.set_running_or_notify_cancel():
                operation.future.set_exception(Cancelled(reason))
        if self._loop is None:
            self._interrupt_main()
        elif not waits and self.lines.main_task is not None:
            self._loop.call_soon_threadsafe(self.lines.main_task.cancel, reason)

    def _interrupt_main(self) -> None:
        self.lines.own.add(self._cancelling.interrupt())

    def _rehearse(self, message: dict[str, Any]) -> None:
        """Once, before the first freeze: what a thaw needs is loaded and has run."""
        freezing.hold(self._hold_fd, self.identity)

    def _prepare(self, message: dict[str, Any]) -> None:
        ours = (self._obstacle, self._stand_still, self._tell)
        for operation in prepare(message, self._watch, self._critical, *ours):
            if operation.own is not None:
                settle(operation.future, operation.own)

    def _obstacle(self) -> str:
        """Why a machine could not go on from a snapshot of now."""
        if once := next((each.op for each in self._pending.values() if each.once), None):
            # One restored in the middle of such a step would do the rest of it again.
            return f"{once} is at work, and may not be repeated without a person's consent"
        # The other end of it is a process that would not be there.
        return "a large result is on its way" if self._transfers else ""

    def _tell(self, t: str, **fields: Any) -> None:
        """Of how the agent stands, which stirs nothing."""
        self._control.sendall(messages.encode(t, **fields) + b"\n")

    def _stand_still(self, found: rest.Rest) -> list[Operation]:
        """Held until the machine goes on, frozen or not; the operations that were answered."""
        self._tell(names.PREPARED, **found.report())
        with looptime.over_a_sleep(stands=found.calls):
            freezing.hold(self._hold_fd, self.identity)
        if self.identity.pop("journal", False):
            return self._extend_journal(json.loads(self._reader.readline())["records"])
        return []
