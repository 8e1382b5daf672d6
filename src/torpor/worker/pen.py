"""How a run's driver writes to its log: fenced by its machine's epoch (rule 4), never in part."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from sqlalchemy import Connection

from torpor.contextlog import agents, children, entries, events, output, runs, snapshots, waits
from torpor.contextlog.entries import NewEntry
from torpor.contextlog.keys import put_key
from torpor.contextlog.output import Piece
from torpor.contextlog.runs import Suspension
from torpor.contextlog.snapshots import NewSnapshot, SnapshotRow
from torpor.contextlog.waits import WaitRow
from torpor.core import permissions
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.errors import CallerError, Exhausted, HostError, Invalid, full_disk
from torpor.core.home import Home
from torpor.core.ids import Epoch, OpId, RunId, SnapshotId
from torpor.core.limits import LIMITS, ServerLimits
from torpor.core.states import RunState
from torpor.logstore.protocol import Store
from torpor.policy import answers
from torpor.policy.inputs import check_input
from torpor.wire.messages import EXCHANGES
from torpor.worker import retrying, verdicts
from torpor.worker.beside import Beside
from torpor.worker.interpreting import Ending
from torpor.worker.printed import Printed
from torpor.worker.sealing import SealingKeys

log = logging.getLogger(__name__)

T = TypeVar("T")

# An entry to append, or anything else that is written with it.
Write = NewEntry | Callable[[Connection], object]


class Refused(Exception):
    """What the agent wants recorded cannot be (rule 13): too large, or against its own log. On
    another machine it would want the same."""

    def __init__(self, error: CallerError) -> None:
        super().__init__(str(error))
        self.error = error

    def shown(self) -> dict[str, Any]:
        """The error as a run that fails for it shows it."""
        kind, hint = type(self.error).__name__, self.error.hint
        message = f"{self.error.message}. {hint}" if hint else self.error.message
        return {"type": kind, "message": message, "traceback": None}


class Unrecorded(HostError):
    """Messages were taken from a machine and could not be recorded. It will not send them again, so
    it is lost; the next one sends them."""


@contextlib.contextmanager
def recorded_or_lost() -> Iterator[None]:
    """For recording what came in the middle of a freeze, which is otherwise given up when the host
    fails, and the machine goes on. Raises Unrecorded."""
    try:
        yield
    except (HostError, OSError) as error:
        raise Unrecorded(f"its messages could not be recorded: {error}") from error


def _agent(c: Connection, run: RunId) -> agents.AgentRow:
    return agents.get_agent(c, runs.get_run(c, run).version)


def _check_named(c: Connection, run: RunId, webhooks: Sequence[str]) -> None:
    """Raises Invalid unless the agent's file names these."""
    if webhooks:
        known = _agent(c, run).spec.get("webhooks", {})
        if unknown := sorted(set(webhooks) - set(known)):
            raise Invalid(
                f"the agent's file defines no webhook {', '.join(unknown)}; "
                f"[tool.torpor.webhooks] has {', '.join(known) or 'none'}"
            )


class Pen:
    def __init__(
        self,
        store: Store,
        run: RunId,
        epoch: Epoch,
        clock: Clock = SYSTEM_CLOCK,
        limits: ServerLimits = LIMITS,
    ) -> None:
        """`epoch` is the machine's, to be set anew when the run is claimed. A full disk stops a
        run's writes until there is room again."""
        self._clock, self._limits = clock, limits
        self.epoch = epoch
        self.waits_for: str | None = None  # what keeps it from writing, in words
        self._store = store
        self._beside = Beside(Home(store.path.parent).output)
        self._output_limit: int | None = None  # bytes; known when it is first needed
        self.run = run

    def output(self, piece: Piece) -> Write:
        def write(c: Connection) -> None:
            if self._output_limit is None:
                version = runs.get_run(c, self.run).version
                self._output_limit = agents.get_agent(c, version).rules.output_bytes
            output.append_output(
                *(c, self.run, self.epoch, piece, self._clock.now()),
                limit=self._output_limit,
                beside=lambda at, data: self._beside.keep(self.run, piece.stream, at, data),
            )

        return write

    async def printed(self, stream: str, after: int) -> Printed:
        """What there is of a stream when its agent, restored, first prints to it."""
        ends = await self._store.read(lambda c: output.ends(c, self.run))
        return Printed(self._store, self._beside, self.run, stream, after, ends[stream])

    async def note(self, kind: str, **data: Any) -> None:
        await self.write(NewEntry(kind, None, data))

    async def write(self, *writes: Write) -> list[Any]:
        """All of `writes` in one transaction, in their order; what the functions among them gave,
        without None. A full disk is waited out: the agent only sees that its operations take
        longer. Raises StaleEpoch, Refused, HostError."""

        def together(c: Connection) -> list[Any]:
            several: list[NewEntry] = []  # entries that follow each other: at once is much cheaper
            found = []
            for write in writes:
                if isinstance(write, NewEntry):
                    several.append(write)
                else:
                    self.append(c, several)
                    found.append(write(c))
            self.append(c, several)
            return [each for each in found if each is not None]

        return await self.when_there_is_room(lambda: self._recorded(together))

    async def _recorded(self, write: Callable[[Connection], T]) -> T:
        try:
            return await self._store.write(write)
        except CallerError as error:
            raise Refused(error) from error

    async def when_there_is_room(self, do: Callable[[], Awaitable[T]]) -> T:
        """What `do` gives, however long the disk is full."""
        try:
            while True:
                try:
                    return await do()
                except (Exhausted, OSError) as error:
                    full = full_disk(error)
                    if full is None:
                        raise
                    if self.waits_for is None:
                        log.warning("run %s waits for room: %s", self.run, full)
                    self.waits_for = f"waiting for room on the disk: {full}"
                    await self._clock.sleep(self._limits.full_disk_write_retry_s)
        finally:
            self.waits_for = None

    def append(self, c: Connection, some: list[NewEntry]) -> None:
        if some:
            entries.append(c, self.run, self.epoch, some, self._clock.now())
            some.clear()

    def create_waits(self, c: Connection, begins: Sequence[Mapping[str, Any]]) -> list[WaitRow]:
        """Record what begin messages of waits, or of children, ask for."""
        if all(each["kind"] == "child" for each in begins):
            return children.spawn(c, self.run, self.epoch, begins, check_input, self._clock.now())
        return [self._create_wait(c, each) for each in begins]

    def _create_wait(self, c: Connection, message: Mapping[str, Any]) -> WaitRow:
        now, data = self._clock.now(), message["data"]
        named = {key: message[key] for key in ("op", *entries.IDENTITY) if key in message}
        if message["kind"] == "sleep":
            due_at = data["until"] if "until" in data else now + data["for_s"]
            return waits.create_wait(
                c, self.run, self.epoch, waits.NewWait(**named, due_at=due_at), now
            )
        if message["kind"] == "doubt":
            step = OpId(message["name"])
            began = entries.read_op(c, self.run, step)
            shown = {"step": step, "at": began.get("at"), "arguments": began.get("data")}
            prompt = f"{step} was interrupted, and may have happened. Was it done?"
            return waits.create_wait(
                c, self.run, self.epoch, waits.NewWait(**named, prompt=prompt, data=shown), now
            )
        if message["kind"] == permissions.KIND:
            return self._ask_permission(c, named, data, now)
        timeout_s = data["timeout_s"]
        due_at = None if timeout_s is None else now + timeout_s
        if message["kind"] == "event":
            del named["kind"]
            return events.wait_for_event(c, self.run, self.epoch, **named, now=now, due_at=due_at)
        request = {key: value for key, value in data.items() if key != "timeout_s"}
        refused = self._refusal(c, request)
        return waits.create_wait(
            c,
            self.run,
            self.epoch,
            waits.NewWait(**named, **request, due_at=due_at, refused=refused),
            now,
        )

    def _ask_permission(
        self, c: Connection, named: Mapping[str, Any], data: Mapping[str, Any], now: float
    ) -> WaitRow:
        """What people are shown of it is made of the action, when they look; the prompt too, since
        the agent's own words could say something else. Of the webhooks in the agent's file the one
        that is called `permission` is told of it."""
        action = {key: data[key] for key in data if key != "timeout_s"}
        agent, timeout_s = _agent(c, self.run), data["timeout_s"]
        if timeout_s is None:
            timeout_s = agent.rules.permission_timeout_s
        due_at = None if timeout_s is None else now + timeout_s
        notified = [permissions.KIND] if permissions.KIND in agent.spec.get("webhooks", {}) else []
        new = waits.NewWait(**named, data=action, approve=True, due_at=due_at, webhooks=notified)
        try:
            permissions.check_action(action)
            new = replace(new, prompt=permissions.prompt(action))
        except Invalid as error:
            new = replace(new, refused={"type": type(error).__name__, "message": error.message})
        return waits.create_wait(c, self.run, self.epoch, new, now)

    def _refusal(self, c: Connection, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """Why the agent cannot have the wait that it requests, as the error that it gets."""
        try:
            if request.get("schema") is not None:
                answers.check_schema(request["schema"])
            _check_named(c, self.run, request.get("webhooks", ()))
        except Invalid as error:
            return {"type": type(error).__name__, "message": error.message}
        return None

    def judge(self, c: Connection, message: Mapping[str, Any]) -> dict[str, Any]:
        """Record the verdict that a begin message asks for. Its outcome."""
        return verdicts.judge(c, self.run, self.epoch, message, self._clock.now())

    async def has_suspended(self) -> bool:
        """Whether the run is, as this epoch left it. A write that failed may have been done all the
        same: it is the log that knows."""
        row = await self._store.read(lambda c: runs.get_run(c, self.run))
        return row.state is RunState.SUSPENDED and row.epoch == self.epoch

    def suspension(self, how: Suspension) -> Write:
        """That the run is suspended."""

        def write(c: Connection) -> None:
            runs.suspend(c, self.run, self.epoch, self._clock.now(), how)

        return write

    async def end(self, keys: SealingKeys, ending: Ending) -> None:
        """The run ends so. A failure may have a successor, which is made in the same write."""
        failure = ending.failure
        rewrap = None
        if failure is not None:
            rewrap = await retrying.rewrapper(self._store, keys, self.run, failure)

        def write(c: Connection) -> None:
            error, successor, now = ending.error, None, self._clock.now()
            if error is not None and failure is not None and rewrap is not None:
                if failure.diverged is not None:
                    successor = verdicts.take_over(c, self.run, failure.diverged, rewrap, now)
                    error = verdicts.explained(error, successor)
                else:
                    successor = retrying.retry(c, self.run, error, failure, rewrap, now)
            at = (self.epoch, ending.state, now)
            runs.transition(
                c, self.run, *at, result=ending.result, error=error, successor=successor
            )

        await self.write(write)

    def repeat(self, c: Connection, snapshot: SnapshotRow, went_on: bool) -> None:
        """A machine goes on from `snapshot`, in the middle of steps: what they did after that is
        done again (rule 3), unless the machine in it never `went_on`, because it was handed over
        there. Model calls may be under way still (`torpor.worker.calls`)."""
        newest = snapshots.newest_snapshot(c, self.run)
        if not went_on and newest is not None and newest.id == snapshot.id:
            return
        again = [
            NewEntry(entries.AGAIN, record["op"], {})
            for record in entries.in_doubt(c, self.run)
            if record["kind"] not in EXCHANGES and record["seq"] <= snapshot.seq
        ]
        entries.append(c, self.run, self.epoch, again, self._clock.now())

    async def record_snapshot(
        self, new: NewSnapshot, wrapped_key: bytes | None, *also: Write
    ) -> SnapshotId:
        """Rule 5: what `new` names is durable. Its parent is what its machine was restored from, or
        its own snapshot before; `also` goes into the same transaction."""

        def write(c: Connection) -> SnapshotId:
            row = snapshots.record_snapshot(c, new)
            if wrapped_key is not None:
                put_key(c, self.run, wrapped_key)
            return row.id

        recorded: SnapshotId = (await self.write(write, *also))[0]
        return recorded
