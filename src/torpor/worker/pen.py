"""How a run's driver writes to its log: fenced by its machine's epoch (rule 4), never in part."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection

from torpor.contextlog import agents, children, entries, events, output, runs, snapshots, waits
from torpor.contextlog.entries import NewEntry, Place
from torpor.contextlog.keys import put_key
from torpor.contextlog.snapshots import SnapshotRow
from torpor.contextlog.waits import WaitRow
from torpor.core.errors import CallerError, Exhausted, HostError, Invalid, full_disk
from torpor.core.home import Home
from torpor.core.ids import AgentVersion, Epoch, OpId, RunId, Seq, SnapshotId
from torpor.core.states import RunState
from torpor.logstore.sqlite import LogStore
from torpor.machines.host import Captured
from torpor.policy import answers
from torpor.policy.inputs import check_input
from torpor.worker import retrying, verdicts
from torpor.worker.beside import Beside
from torpor.worker.printed import Printed
from torpor.worker.sealing import Keys

log = logging.getLogger(__name__)

T = TypeVar("T")

# A full disk stops a run's writes until there is room again; tried this often.
DISK_FULL_RETRY_S = 1.0

# An entry to append, or anything else that is written with it.
Write = NewEntry | Callable[[Connection], object]


class Refused(Exception):
    """What the agent wants recorded cannot be (rule 13): too large, or against its own log. On
    another machine it would want the same."""

    def __init__(self, error: CallerError) -> None:
        super().__init__(str(error))
        self.error = error

    def told(self) -> dict[str, Any]:
        """The error as a run that fails for it shows it."""
        kind, hint = type(self.error).__name__, self.error.hint
        message = f"{self.error.message}. {hint}" if hint else self.error.message
        return {"type": kind, "message": message, "traceback": None}


class Unrecorded(HostError):
    """What a machine said was taken from it and could not be recorded. It will not say it again,
    so the machine is lost; the next one says it."""


@contextlib.contextmanager
def recorded_or_lost() -> Iterator[None]:
    """For recording what was heard in the middle of a freeze, which is otherwise given up when
    the host fails, and the machine goes on. Raises Unrecorded."""
    try:
        yield
    except (HostError, OSError) as error:
        raise Unrecorded(f"what it said could not be recorded: {error}") from error


def _check_named(c: Connection, run: RunId, webhooks: Sequence[str]) -> None:
    """Raises Invalid unless the agent's file names these."""
    if webhooks:
        known = agents.get_agent(c, runs.get_run(c, run).version).spec.get("webhooks", {})
        if unknown := sorted(set(webhooks) - set(known)):
            raise Invalid(
                f"the agent's file names no webhook {', '.join(unknown)}; [tool.torpor.webhooks] "
                f"has {', '.join(known) or 'none'}"
            )


class Pen:
    def __init__(self, store: LogStore, run: RunId, epoch: Epoch) -> None:
        """`epoch` is the machine's, to be set anew when the run is claimed."""
        self.epoch = epoch
        self.waits_for: str | None = None  # what keeps it from writing, in words
        self._store = store
        self._beside = Beside(Home(store.path.parent).output)
        self._output_limit: int | None = None  # bytes; known when it is first needed
        self.run = run

    def begin(self, message: Mapping[str, Any]) -> NewEntry:
        """What a begin message says."""
        named = {key: message[key] for key in entries.IDENTITY if key in message}
        data = {"data": message["data"]} if message["data"] else {}
        return NewEntry(entries.BEGIN, message["op"], named | data)

    def noted(self, message: Mapping[str, Any]) -> NewEntry:
        """What a note message says."""
        data = message["data"]
        if not isinstance(data, dict) or "value" in data:  # so that it can be told what was said
            data = {"value": data}
        return NewEntry(f"note.{message['kind']}", message.get("op"), data)

    def output(self, stream: str, offset: int, text: str, instead: int | None = None) -> Write:
        def write(c: Connection) -> None:
            if self._output_limit is None:
                version = runs.get_run(c, self.run).version
                self._output_limit = agents.get_agent(c, version).rules.output_bytes
            output.append_output(
                *(c, self.run, self.epoch, stream, offset, text, time.time()),
                instead=instead,
                limit=self._output_limit,
                beside=lambda at, data: self._beside.keep(self.run, stream, at, data),
            )

        return write

    async def printed(self, stream: str, after: int) -> Printed:
        """What there is of a stream when its agent, restored, first prints to it."""
        ends = await self._store.read(lambda c: output.ends(c, self.run))
        return Printed(self._store, self._beside, self.run, stream, after, ends[stream])

    async def note(self, kind: str, **data: Any) -> None:
        await self.write(NewEntry(kind, None, data))

    async def write(self, *writes: Write) -> None:
        """All of `writes` in one transaction, in their order. A full disk is waited out: the agent
        only sees that its operations take longer. Raises StaleEpoch, Refused, HostError."""

        def together(c: Connection) -> None:
            several: list[NewEntry] = []  # entries that follow each other: at once is much cheaper
            for write in writes:
                if isinstance(write, NewEntry):
                    several.append(write)
                else:
                    self.append(c, several)
                    write(c)
            self.append(c, several)

        await self.when_there_is_room(lambda: self._recorded(together))

    async def _recorded(self, write: Callable[[Connection], None]) -> None:
        try:
            await self._store.write(write)
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
                    await asyncio.sleep(DISK_FULL_RETRY_S)
        finally:
            self.waits_for = None

    def append(self, c: Connection, some: list[NewEntry]) -> None:
        if some:
            entries.append(c, self.run, self.epoch, some, time.time())
            some.clear()

    def create_waits(self, c: Connection, begins: list[dict[str, Any]]) -> list[WaitRow]:
        """What begin messages of waits, or of children, say, recorded."""
        if all(each["kind"] == "child" for each in begins):
            return children.spawn(c, self.run, self.epoch, begins, check_input, time.time())
        return [self._create_wait(c, each) for each in begins]

    def _create_wait(self, c: Connection, message: dict[str, Any]) -> WaitRow:
        now, data = time.time(), message["data"]
        named = {key: message[key] for key in ("op", *entries.IDENTITY) if key in message}
        if message["kind"] == "sleep":
            due_at = data["until"] if "until" in data else now + data["for_s"]
            return waits.create_wait(c, self.run, self.epoch, **named, now=now, due_at=due_at)
        if message["kind"] == "doubt":
            step = OpId(message["name"])
            began = entries.read_op(c, self.run, step)
            shown = {"step": step, "at": began.get("at"), "arguments": began.get("data")}
            prompt = f"{step} was cut off, and may have happened. Was it done?"
            return waits.create_wait(
                c, self.run, self.epoch, **named, now=now, prompt=prompt, data=shown
            )
        timeout_s = data["timeout_s"]
        due_at = None if timeout_s is None else now + timeout_s
        if message["kind"] == "event":
            del named["kind"]
            return events.wait_for_event(c, self.run, self.epoch, **named, now=now, due_at=due_at)
        asked = {key: value for key, value in data.items() if key != "timeout_s"}
        refused = self._refusal(c, asked)
        return waits.create_wait(
            c, self.run, self.epoch, **named, now=now, **asked, due_at=due_at, refused=refused
        )

    def _refusal(self, c: Connection, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """Why the agent cannot have a wait that is `asked` for so, as the error that it gets."""
        try:
            if asked.get("schema") is not None:
                answers.check_schema(asked["schema"])
            _check_named(c, self.run, asked.get("webhooks", ()))
        except Invalid as error:
            return {"type": type(error).__name__, "message": error.message}
        return None

    def judge(self, c: Connection, message: Mapping[str, Any]) -> dict[str, Any]:
        """The outcome of the verdict that a begin message asks for, recorded."""
        return verdicts.judge(c, self.run, self.epoch, message, time.time())

    async def has_suspended(self) -> bool:
        """Whether the run is, as this epoch left it. A write that was told of a failure may have
        been done all the same: it is the log that knows."""
        row = await self._store.read(lambda c: runs.get_run(c, self.run))
        return row.state is RunState.SUSPENDED and row.epoch == self.epoch

    def suspension(
        self, seen: Seq | None, handed_over: bool, patient: bool, wake_at: float | None
    ) -> Write:
        """Of a run that waits, for all of what it waits for if it is `patient`, or until `wake_at`;
        or that is handed over in the middle of its work."""

        def write(c: Connection) -> None:
            runs.transition(
                c,
                self.run,
                self.epoch,
                RunState.SUSPENDED,
                time.time(),
                seen=seen,
                handed_over=handed_over,
                patient=patient,
                wake_at=wake_at,
            )

        return write

    async def end(
        self, keys: Keys, state: RunState, result: Any, error: Mapping[str, Any] | None
    ) -> None:
        """The run ends, with `result` or `error`. Where that says from which operation of the log
        the agent has `diverged`, a fork may take over."""
        recorded = OpId(error["diverged"]) if error is not None and "diverged" in error else None
        failed = error if state is RunState.FAILED else None
        rewrap = await retrying.rewrapper(self._store, keys, self.run, failed)

        def write(c: Connection) -> None:
            told, now = error, time.time()
            if error is not None and rewrap is not None:
                if recorded is not None:
                    told = verdicts.told(c, self.run, error, recorded, rewrap, now)
                else:
                    told = retrying.told(c, self.run, error, rewrap, now)
            runs.transition(c, self.run, self.epoch, state, now, result=result, error=told)

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
            if record["kind"] != "model" and record["seq"] <= snapshot.seq
        ]
        entries.append(c, self.run, self.epoch, again, time.time())

    async def record_snapshot(
        self,
        version: AgentVersion,
        parent: SnapshotId | None,
        captured: Captured,
        place: Place,
        detail: dict[str, Any],
        freeze_ms: float,
        wrapped_key: bytes | None,
        *also: Write,
    ) -> SnapshotId:
        """Rule 5: `captured` is durable. `parent` is what its machine was restored from, or its
        own snapshot before; `place` is where it stands in the log, `detail` what the machine in it
        waits for; `also` goes into the same transaction."""
        made: list[SnapshotRow] = []

        def write(c: Connection) -> None:
            row = snapshots.record_snapshot(
                c,
                run=self.run,
                version=version,
                epoch=self.epoch,
                seq=place.seq,
                heard=place.heard,
                parent=parent,
                manifest=captured.manifest,
                bytes=captured.bytes,
                pause_ms=captured.pause_ms,
                freeze_ms=freeze_ms,
                now=time.time(),
                link=captured.link.to_json(),
                detail=detail | {"pages": captured.pages},
            )
            made.append(row)
            if wrapped_key is not None:
                put_key(c, self.run, wrapped_key)

        await self.write(write, *also)
        return made[-1].id
