"""Rule 11 and the slots of queues: answers, events, timeouts and cancellations, among freezes,
crashes, forks and new servers, of runs that share a host and their queues' limits, in whatever
order. The log is the real one, and so is what the scheduler asks whom to claim; machines are what
an agent has in memory, and the clock is ours.

What is checked: a machine is never told two things of one wait, whatever it was restored from; what
somebody was told is taken is in the log, once, and reaches the agent; no limit is exceeded, and no
run is held up without one; what sleeps has no slot, what crashed keeps its own; and when everybody
has had their say, every run ends, though queues have one slot each.

    TORPOR_INTERLEAVINGS=10000 pytest tests/unit/contextlog/test_log_races.py

runs that many programs; hypothesis prints the steps of one that fails, and replays it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from sqlalchemy import Connection, bindparam, select
from tests.unit.contextlog.conftest import claimable
from tests.unit.contextlog.programs import (
    PROGRAMS,
    Asked,
    Machine,
    Program,
    Taken,
    Told,
    program_of,
)
from tests.unit.contextlog.slots import LIMITS, Slots
from tests.unit.contextlog.test_log_queues import NEEDS, space

from torpor.contextlog import deadlines, queues, schema
from torpor.contextlog.agents import NewAgent, put_agent
from torpor.contextlog.entries import journal, read_end, read_entries, seen_before
from torpor.contextlog.events import KIND, RECEIVED, send_event, wait_for_event
from torpor.contextlog.forks import fork_of, fork_run, shared_end
from torpor.contextlog.prepared import Prepared
from torpor.contextlog.runs import (
    RunRow,
    Suspension,
    claim,
    create_run,
    get_run,
    request_cancel,
    runs_in,
    suspend,
    transition,
)
from torpor.contextlog.snapshots import NewSnapshot, newest_snapshot, record_snapshot
from torpor.contextlog.waits import NewWait, answer_wait, create_wait, end_due, list_waits
from torpor.control.scheduler.claims import next_runs
from torpor.core import ids
from torpor.core.errors import Conflict, StaleEpoch
from torpor.core.ids import AgentVersion, Epoch, OpId, RunId, Seq, SnapshotId
from torpor.core.starting import Start
from torpor.core.states import FINAL, RunState
from torpor.logstore.migrate import prepare
from torpor.logstore.sqlite import make_engine
from torpor.policy import recovery
from torpor.policy.recovery import Act, Facts
from torpor.policy.recovery import Driver as By

INTERLEAVINGS = int(os.environ.get("TORPOR_INTERLEAVINGS", "100"))
VERSION = AgentVersion("a" * 32)
RUNS_MAX = 4
ROOM = 2  # machines of the host
# Where runs wait: mostly where there is one slot for several of them.
STARTS = st.builds(
    Start,
    queue=st.sampled_from(["one", "one", "keyed", "rated"]),
    key=st.sampled_from(["x", "x", None]),
    priority=st.integers(-1, 1),
    delay_s=st.sampled_from([0.0, 0.0, 0.0, 5.0]),
    expires_s=st.sampled_from([None, None, None, 8.0]),
)

T = TypeVar("T")

_runs = schema.runs.c


class Row(NamedTuple):
    """What is asked of a run most often."""

    state: RunState
    epoch: Epoch
    cancel_requested: bool
    base: SnapshotId | None


_ROW = Prepared(
    select(_runs.state, _runs.epoch, _runs.cancel_requested, _runs.base).where(
        _runs.id == bindparam("in_run")
    )
)


class Races(RuleBasedStateMachine):
    _connection: Connection | None = None

    @classmethod
    def connection(cls) -> Connection:
        if cls._connection is None:
            engine = make_engine(Path(":memory:"), connections=1, begin="BEGIN")
            cls._connection = engine.connect()
            with cls._connection.begin():
                prepare(cls._connection)
        return cls._connection

    def __init__(self) -> None:
        super().__init__()
        # All of an example is one transaction, given up at its end.
        self.c = self.connection()
        self.all = self.c.begin()
        self.now = 100.0
        # An id is later than all before it: who goes first among equals is no matter of chance.
        clock = SimpleNamespace(time_ns=count(0, 1_000_000).__next__)
        self.ids = patch.object(ids, "time", clock)
        self.ids.start()
        self.programs: dict[RunId, Program] = {}
        self.slots = Slots(ROOM)
        self.claiming: list[RunId] = []  # they have drivers that have not claimed them yet
        self.machines: dict[RunId, Machine] = {}
        self.lost: list[tuple[RunId, Epoch]] = []  # machines that are not dead yet
        self.taken: dict[RunId, Taken] = {}
        self.snapshots: dict[SnapshotId, Machine] = {}
        self.answers: dict[str, Any] = {}  # wait → what somebody was told is taken
        self.sent: dict[RunId, list[tuple[str, Any, str | None]]] = {}
        self.said = 0
        fields: Told = {"name": "a", "entry": "a.py", "source": b"", "spec": {}}
        self.commit(lambda c: put_agent(c, NewAgent(engine="qemu", version=VERSION, **fields), 1.0))
        self.commit(lambda c: queues.declare_queues(c, LIMITS, 1.0))

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            self.ids.stop()
            self.all.rollback()

    def commit(self, fn: Callable[[Connection], Any]) -> Any:
        self.now += 0.01
        self.c.info.clear()
        with self.c.begin_nested():
            return fn(self.c)

    def row(self, run: RunId) -> Any:
        row = _ROW.rows(self.c, in_run=run)[0]
        return Row(RunState(row[0]), *row[1:])

    def pick(self, data: st.DataObject, among: Collection[RunId]) -> RunId:
        """One of these runs, in the order in which they were made."""
        return self.one(data, [run for run in self.programs if run in among])

    def one(self, data: st.DataObject, among: list[T]) -> T:
        return among[data.draw(st.integers(0, len(among) - 1))]

    def something(self) -> str:
        self.said += 1
        return f"said {self.said}"

    # -- runs and machines ------------------------------------------------------------------------

    @property
    def held(self) -> list[RunId]:
        """The runs that have drivers."""
        return [*self.claiming, *self.machines]

    @property
    def takers(self) -> list[RunId]:
        """A slot each. What ended before it was claimed has a driver that does not know yet."""
        return [run for run in self.held if self.row(run).state not in FINAL]

    @initialize(first=PROGRAMS, second=PROGRAMS, how=STARTS)
    def first(self, first: Any, second: Any, how: Start) -> None:
        self.start(first, how)
        self.start(second, how)
        self.considered()

    @precondition(lambda self: len(self.programs) < RUNS_MAX)
    @rule(phases=PROGRAMS, how=STARTS)
    def start(self, phases: Any, how: Start) -> None:
        fields: Told = {"version": VERSION, "agent": "a", "input": {}, "start": how}
        made = self.commit(lambda c: create_run(c, now=self.now, **fields))
        self.programs[made.id], self.sent[made.id] = program_of(phases), []
        self.slots.put(made)

    @rule(at_once=st.integers(0, ROOM))
    def considered(self, at_once: int = ROOM) -> None:
        """The scheduler looks whom to claim. So many are claimed before anything else happens."""
        room, chosen = self.slots.room - len(self.held), list[RunId]()
        for row in next_runs(self.c, space(room), NEEDS, self.held, self.now).rows:
            if self.decide(row, room=room > len(chosen)) is Act.CLAIM:
                chosen.append(row.id)
        self.claiming += chosen
        left = [row for row in claimable(self.c) if row.id not in self.held]
        room -= len(chosen)
        self.slots.check_chosen(chosen, left, self.takers, room, self.now)
        for run in chosen[:at_once]:
            self.claim(run)

    def decide(self, row: RunRow, **known: Any) -> Act:
        act = recovery.decide(
            Facts(row.state, By.NONE, row.ready, cancel=row.cancel_requested, **known)
        )
        if act is Act.CANCEL:
            self.commit(lambda c: transition(c, row.id, None, RunState.CANCELLED, self.now))
        return act

    @precondition(lambda self: self.claiming)
    @rule(data=st.data())
    def claimed(self, data: st.DataObject) -> None:
        self.claim(self.pick(data, self.claiming))

    def claim(self, run: RunId) -> None:
        before = self.row(run)
        self.claiming.remove(run)
        try:
            self.commit(lambda c: claim(c, run, self.now))
        except Conflict:
            assert before.state in FINAL
            return
        if before.state is RunState.RUNNING:
            self.lost.append((run, before.epoch))
        elif before.state is RunState.QUEUED:
            self.slots.started(run, self.now)
        newest = newest_snapshot(self.c, run)
        base = newest.id if newest else self.row(run).base
        machine = copy.deepcopy(self.snapshots[base]) if base else Machine()
        after = 0
        if base:
            query = select(schema.snapshots.c.seq).where(schema.snapshots.c.id == base)
            after = self.c.scalar(query) or 0
        for record in journal(self.c, run, after):
            if "ok" in record:
                assert record["ok"], record
                machine.recorded[OpId(record["op"])] = record["value"]
        for op in machine.waits_for():
            if op in machine.recorded:
                machine.learn(op, machine.recorded[op])
        self.machines[run] = machine

    @precondition(lambda self: self.machines)
    @rule(data=st.data(), most=st.integers(1, 4))
    def goes_on(self, data: st.DataObject, most: int) -> None:
        run = self.pick(data, self.machines)
        for _ in range(most):
            if run in self.machines:
                self.go_on(run)

    def go_on(self, run: RunId) -> bool:
        """A machine begins what comes next, or ends. False if it can do neither."""
        machine, epoch, program = self.machines[run], self.row(run).epoch, self.programs[run]
        if self.row(run).cancel_requested:
            self.end(run, RunState.CANCELLED)
        elif (asked := machine.next(program)) is not None:
            machine.begun.append(asked.op)
            if asked.op in machine.recorded:
                machine.learn(asked.op, machine.recorded[asked.op])
            else:
                row = self.commit(lambda c: self.begin(c, run, epoch, asked))
                if row.state != "open":
                    machine.learn(asked.op, row.value)
        elif machine.phase == len(program):
            self.end(run, RunState.COMPLETED, machine.known)
        else:
            return False
        return True

    def go_on_to_a_wait(self, run: RunId) -> None:
        while run in self.machines and self.go_on(run):
            pass

    def begin(self, c: Connection, run: RunId, epoch: Epoch, asked: Asked) -> Any:
        due_at = None if asked.limit_s is None else self.now + asked.limit_s
        named: Told = {"op": asked.op, "name": asked.name, "digest": "d", "due_at": due_at}
        if asked.kind == "event":
            return wait_for_event(c, run, epoch, now=self.now, **named)
        kind = "sleep" if asked.kind == "sleep" else "wait"
        key = asked.name if asked.kind == "ask" else None
        return create_wait(c, run, epoch, NewWait(kind=kind, id_key=key, **named), self.now)

    def end(self, run: RunId, state: RunState, result: Any = None) -> None:
        epoch = self.row(run).epoch
        self.commit(lambda c: transition(c, run, epoch, state, self.now, result=result))
        del self.machines[run]
        self.taken.pop(run, None)

    @precondition(lambda self: self.machines)
    @rule(data=st.data())
    def delivered(self, data: st.DataObject) -> None:
        """A driver tells its machine of one answer that is recorded."""
        self.deliver_one(self.pick(data, self.machines))

    def deliver_one(self, run: RunId) -> None:
        for op in self.machines[run].waits_for():
            if self.deliver(run, op):
                break

    def deliver(self, run: RunId, op: OpId) -> bool:
        end = read_end(self.c, run, op)
        if end is not None:
            self.machines[run].learn(op, end["value"])
        return end is not None

    @precondition(lambda self: self.machines)
    @rule(data=st.data())
    def crashed(self, data: st.DataObject) -> None:
        """And is found to have: the log says that it runs, so it is to be claimed again."""
        self.lose(self.pick(data, self.machines))

    def lose(self, run: RunId) -> None:
        del self.machines[run]
        self.taken.pop(run, None)
        self.claiming.append(run)

    @precondition(lambda self: self.claiming or self.machines)
    @rule()
    def restarted(self) -> None:
        """Another server, which knows what the log says."""
        self.machines, self.taken = {}, {}
        running = runs_in(self.c, [RunState.RUNNING])
        self.claiming = [row.id for row in running if self.decide(row) is Act.CLAIM]

    @precondition(lambda self: self.lost)
    @rule(data=st.data())
    def came_back(self, data: st.DataObject) -> None:
        """Rule 4: a machine that was only thought to be dead is refused everything."""
        run, epoch = self.one(data, self.lost)
        asked = Asked(OpId("wait:late#1"), "wait", "late", None)
        for write in (
            lambda c: self.begin(c, run, epoch, asked),
            lambda c: transition(c, run, epoch, RunState.SUSPENDED, self.now),
            lambda c: transition(c, run, epoch, RunState.COMPLETED, self.now),
        ):
            try:
                self.commit(write)
            except StaleEpoch:
                continue
            raise AssertionError(f"epoch {epoch} of {run} wrote")

    @precondition(lambda self: self.machines)
    @rule(data=st.data())
    def paused(self, data: st.DataObject) -> None:
        """The first half of a freeze."""
        self.pause(self.pick(data, self.machines))

    def pause(self, run: RunId) -> None:
        machine = self.machines[run]
        place = seen_before(self.c, run, machine.waits_for())
        self.taken[run] = Taken(copy.deepcopy(machine), place, self.row(run).epoch)

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), handed_over=st.booleans())
    def frozen(self, data: st.DataObject, handed_over: bool) -> None:
        """The second half: the snapshot is recorded; the run sleeps, unless it has something to do.
        One that is handed over sleeps whatever it was at."""
        self.freeze(self.pick(data, self.taken), handed_over)

    def freeze(self, run: RunId, handed_over: bool) -> None:
        taken, machine = self.taken.pop(run), self.machines[run]
        idle = machine.told == taken.machine.told and bool(machine.waits_for())
        idle = idle and machine.begun == taken.machine.begun
        idle = idle and machine.next(self.programs[run]) is None
        idle = idle and not self.row(run).cancel_requested
        sleeps = idle or (handed_over and machine.begun == taken.machine.begun)

        def record(c: Connection) -> SnapshotId:
            figures: Told = {"manifest": "m", "bytes": 1, "pause_ms": 1.0, "freeze_ms": 1.0}
            made = record_snapshot(
                c,
                NewSnapshot(
                    run=run,
                    version=VERSION,
                    epoch=taken.epoch,
                    seq=taken.place.seq,
                    seen_upto=taken.place.seen_upto,
                    created_at=self.now,
                    **figures,
                ),
            )
            if sleeps:
                how = Suspension(handed_over=not idle)
                suspend(c, run, taken.epoch, self.now, how)
            return made.id

        self.snapshots[self.commit(record)] = taken.machine
        if sleeps:
            del self.machines[run]

    @precondition(lambda self: self.machines)
    @rule(
        data=st.data(),
        between=st.lists(st.sampled_from(["said", "said", "time", "deliver"]), max_size=2),
    )
    def slept(self, data: st.DataObject, between: list[str]) -> None:
        """A whole freeze, in the middle of which something happens to the run."""
        self.sleep(self.pick(data, self.machines), between)

    def sleep(self, run: RunId, between: Collection[str] = ()) -> None:
        self.go_on_to_a_wait(run)
        if run not in self.machines:  # that was its end
            return
        self.pause(run)
        for what in between:
            waiting = [w for w in list_waits(self.c, run) if w.kind in ("wait", KIND)]
            if what == "time":
                self.time_passed(5.0)
            elif what == "deliver":
                self.deliver_one(run)
            elif waiting and waiting[0].kind == KIND:
                self.send(run, waiting[0].prompt, None)
            elif waiting:
                self.answer(waiting[0])
        self.freeze(run, handed_over=False)

    @precondition(lambda self: len(self.programs) < RUNS_MAX)
    @rule(data=st.data())
    def forked(self, data: st.DataObject) -> None:
        origin = get_run(self.c, self.pick(data, self.programs))
        end = shared_end(self.c, origin)
        at = Seq(data.draw(st.just(int(end)) | st.integers(0, end)))
        fork = self.commit(
            lambda c: fork_run(c, origin, fork_of(origin, at), lambda *_: b"", self.now)
        )
        self.programs[fork.id] = self.programs[origin.id]
        shared = read_entries(self.c, origin.id, 0, [RECEIVED])
        self.slots.put(fork)
        self.sent[fork.id] = self.sent[origin.id][: sum(each.seq <= at for each in shared)]

    # -- others -----------------------------------------------------------------------------------

    @rule(data=st.data())
    def answered(self, data: st.DataObject) -> None:
        order = list(self.programs)
        waits = [wait for wait in list_waits(self.c, open_only=False) if wait.kind == "wait"]
        if waits:
            self.answer(self.one(data, sorted(waits, key=lambda w: (order.index(w.run), w.op))))

    def answer(self, wait: Any) -> None:
        value = {"data": self.something()}
        try:
            ended = self.commit(lambda c: answer_wait(c, wait, value=value, now=self.now))
        except Conflict:  # told that it is too late
            now_state = {w.id: w.state for w in list_waits(self.c, open_only=False)}[wait.id]
            assert now_state != "open"
            return
        for each in ended:
            assert each.id not in self.answers, "an answer was taken twice"
            self.answers[each.id] = value["data"]

    @rule(data=st.data(), name=st.sampled_from(["x", "y", "z"]), again=st.booleans())
    def event_sent(self, data: st.DataObject, name: str, again: bool) -> None:
        run = self.pick(data, self.programs)
        known = [event for _, _, event in self.sent[run] if event is not None]
        event = known[0] if again and known else f"e{self.said}" if again else None
        self.send(run, name, event)

    def send(self, run: RunId, name: str, event: str | None) -> None:
        given = self.something()
        known = event is not None and event in [each for _, _, each in self.sent[run]]
        try:
            sent = self.commit(lambda c: send_event(c, run, name, given, now=self.now, event=event))
        except Conflict:
            assert self.row(run).state in FINAL
            return
        assert sent.again == known
        if not known:
            self.sent[run].append((name, given, event))

    @rule(later_s=st.sampled_from([0.0, 1.0, 5.0, 12.0]))
    def time_passed(self, later_s: float) -> None:
        self.now += later_s
        self.commit(lambda c: deadlines.end_due(c, self.now))
        self.commit(lambda c: end_due(c, self.now))

    @rule(
        name=st.sampled_from(["one", "keyed"]),
        concurrency=st.sampled_from([None, 1, 2]),
        per_key=st.sampled_from([None, 1]),
    )
    def limited(self, name: str, **limits: Any) -> None:
        self.slots.limits[name] |= limits
        self.commit(lambda c: queues.set_queue(c, name, self.now, **limits))

    @rule(name=st.sampled_from(list(LIMITS)), paused=st.booleans())
    def queue_paused(self, name: str, paused: bool) -> None:
        (self.slots.paused.add if paused else self.slots.paused.discard)(name)
        self.commit(lambda c: queues.set_queue(c, name, self.now, paused=paused))

    @precondition(lambda self: len(self.programs) > 2)  # little happens to what is cancelled
    @rule(data=st.data())
    def cancelled(self, data: st.DataObject) -> None:
        run = self.pick(data, self.programs)
        if self.row(run).state not in FINAL:
            self.commit(lambda c: request_cancel(c, run, self.now))

    # -- what must hold ---------------------------------------------------------------------------

    @invariant()
    def slots_are_of_runs_that_have_machines(self) -> None:
        running = {run for run, _, _ in queues.running(self.c, list(LIMITS))}
        assert self.machines.keys() <= running <= set(self.held)
        self.slots.check_limits(self.takers)

    def what_was_taken_is_recorded(self) -> None:
        waits = list_waits(self.c, open_only=False)
        kept = {(row.run, row.name) for row in self._events() if not row.taken}
        ended = select(schema.log.c.run, schema.log.c.op, schema.log.c.data)
        ended = ended.where(schema.log.c.kind == "op.end")
        ends = {(run, op): data for run, op, data in self.c.execute(ended)}
        final = {run for run in self.programs if self.row(run).state in FINAL}
        said_of: dict[str, set[Any]] = {}
        for wait in waits:
            if wait.id_key and wait.id in self.answers:
                said_of.setdefault(wait.id_key, set()).add(self.answers[wait.id])
        for wait in waits:
            end = ends.get((wait.run, wait.op))
            assert (end is None) == (wait.state == "open"), wait
            if end is not None:
                assert end["value"] == wait.value, wait
            if wait.id in self.answers:
                assert wait.state == "completed", wait
                assert wait.value is not None and wait.value["data"] == self.answers[wait.id], wait
            elif wait.kind == "wait" and wait.state == "completed":
                assert wait.value is not None and wait.id_key is not None
                assert wait.value["data"] in said_of[wait.id_key], wait
            if wait.kind == KIND and wait.state == "open":
                assert (wait.run, wait.prompt) not in kept, "an event lies beside a wait for it"
            if wait.run in final:
                assert wait.state != "open", wait

    def each_event_is_taken_once_in_order(self) -> None:
        events = list(self._events())
        for run in self.programs:
            log = read_entries(self.c, run, 0, [RECEIVED, "op.end"])
            received = {e.seq: e.data for e in log if e.kind == RECEIVED}
            got = [(e["name"], e["data"], e["event"]) for e in received.values()]
            assert got == self.sent[run]
            takes = [
                (e.data["value"]["event"], e.data["value"]["data"], e.data["name"])
                for e in log
                if e.kind == "op.end" and e.data["value"].get("event") is not None
            ]
            for name in ("x", "y", "z"):
                order = [seq for seq, _, of in takes if of == name]
                assert order == sorted(set(order)), takes
            assert all(received[seq]["data"] == data for seq, data, _ in takes)
            taken = {seq for seq, _, _ in takes}
            assert {row.seq: row.taken for row in events if row.run == run} == {
                seq: seq in taken for seq in received
            }

    def _events(self) -> Iterator[Any]:
        return iter(self.c.execute(select(schema.events)).all())

    def settle(self) -> None:
        """Everybody has had their say: machines that were lost are found, what waits for a person
        is answered, time passes. Then every run ends, though there is one slot for several of them,
        and has what the log has."""
        self.what_was_taken_is_recorded()
        self.each_event_is_taken_once_in_order()
        for name, limits in LIMITS.items():
            self.limited(name, **{"concurrency": None, "per_key": None} | limits)
            self.queue_paused(name, False)
        for run in list(self.claiming):
            self.claim(run)
        for run in list(self.machines):
            self.sleep(run, ["said"])
        for _ in range(60):
            self.considered()
            self.slots_are_of_runs_that_have_machines()
            for run in list(self.machines):
                for op in self.machines[run].waits_for():
                    self.deliver(run, op)
                self.go_on_to_a_wait(run)
            for wait in list_waits(self.c):
                if wait.due_at is None and wait.kind == "wait":
                    self.answer(wait)
            self.time_passed(250.0)
            if all(self.row(run).state in FINAL for run in self.programs):
                break
        self.what_was_taken_is_recorded()
        self.each_event_is_taken_once_in_order()
        for run, program in self.programs.items():
            row = get_run(self.c, run)
            assert row.state in FINAL, f"{run} is stuck: {row}"
            if row.state is RunState.COMPLETED:
                assert set(row.result) == {each.op for phase in program for each in phase}
                log = read_entries(self.c, run, 0, ["op.end"])
                assert {e.op: e.data["value"] for e in log} == row.result


TestRaces = Races.TestCase
TestRaces.settings = settings(
    max_examples=INTERLEAVINGS,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
