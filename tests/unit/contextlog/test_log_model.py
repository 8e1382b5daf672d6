"""Runs and waits against a small model, by machines of whatever epoch, in whatever order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import Connection
from tests.jsonvalues import ODD, deep, exact
from tests.unit.contextlog.conftest import claimable

from torpor.contextlog.agents import NewAgent, put_agent
from torpor.contextlog.entries import NewEntry, append, journal, read_entries
from torpor.contextlog.runs import claim, create_run, get_run, transition
from torpor.contextlog.snapshots import NewSnapshot, newest_snapshot, record_snapshot
from torpor.contextlog.waits import NewWait, complete_wait, create_wait, end_due, list_waits
from torpor.core.errors import Conflict, StaleEpoch, TorporError
from torpor.core.ids import AgentVersion, Epoch, OpId, RunId, Seq
from torpor.core.jsonvalues import DEPTH_MAX
from torpor.core.states import FINAL, RunState, may_follow
from torpor.logstore.migrate import prepare
from torpor.logstore.sqlite import make_engine

VERSION = AgentVersion("a" * 32)
OPS = [f"wait:w#{n}" for n in range(1, 3)]
DUE_IN_S = 5.0
LIVELY = 16
ANSWER = [*ODD, deep(DEPTH_MAX - 1)]

# How many epochs a machine is behind: mostly none, or nothing would ever happen.
ages = st.sampled_from([0, 0, 0, 0, 0, 1, 2])


@dataclass
class Wait:
    due_at: float
    state: str = "open"


@dataclass
class Model:
    """What must be true of one run."""

    state: RunState = RunState.QUEUED
    epoch: int = 0
    kinds: list[str] = field(default_factory=lambda: ["run.created"])
    waits: dict[str, Wait] = field(default_factory=dict)
    results: dict[str, int] = field(default_factory=dict)  # op → seq of its result
    answers: dict[str, str] = field(default_factory=dict)  # op → data, exactly
    seen: int = 0  # the newest snapshot's place
    fresh: bool = False  # a result came since the last claim

    def end(self, op: str, state: str) -> None:
        self.waits[op].state = state
        self.kinds += [f"wait.{state}", "op.end"]
        self.results[op] = len(self.kinds)
        self.fresh = True

    @property
    def ready(self) -> bool:
        return self.fresh and any(seq > self.seen for seq in self.results.values())


class RunsAndWaits(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        # Savepoints of one connection, as the store's writer makes them, without its fsyncs.
        self.engine = make_engine(Path(":memory:"), connections=1, begin="BEGIN")
        self.connection = self.engine.connect()
        prepare(self.connection)
        self.now = 100.0
        self.model = Model()
        self.run = self.commit(self._create)
        self.claimed()

    def teardown(self) -> None:
        self.connection.close()
        self.engine.dispose()

    def _create(self, c: Connection) -> RunId:
        put_agent(
            c,
            NewAgent(engine="qemu", version=VERSION, name="a", entry="a.py", source=b"", spec={}),
            1.0,
        )
        return create_run(c, version=VERSION, agent=None, input={}, now=self.now).id

    def commit(self, fn: Callable[[Connection], Any]) -> Any:
        self.now += 1.0
        with self.connection.begin_nested():
            return fn(self.connection)

    def attempt(self, fn: Callable[[Connection], Any], error: type[TorporError] | None) -> Any:
        """Do `fn`, which must raise exactly `error`."""
        try:
            value = self.commit(fn)
        except TorporError as raised:
            assert type(raised) is error, raised
            return None
        assert error is None, f"{error} was not raised"
        return value

    def fence(self, age: int) -> tuple[Epoch, type[TorporError] | None]:
        lost = age > 0 or self.model.state in FINAL
        return Epoch(self.model.epoch - age), StaleEpoch if lost else None

    @rule()
    def claimed(self) -> None:
        model = self.model
        refused = not may_follow(model.state, RunState.RUNNING)
        self.attempt(lambda c: claim(c, self.run, self.now), Conflict if refused else None)
        if not refused:
            names = {"queued": "started", "suspended": "resumed", "running": "recovered"}
            model.kinds.append(f"run.{names[model.state.value]}")
            model.state, model.epoch, model.fresh = RunState.RUNNING, model.epoch + 1, False

    @rule(age=ages, count=st.integers(1, 3))
    def appended(self, age: int, count: int) -> None:
        epoch, error = self.fence(age)
        entries = [NewEntry("note.log", None, {"text": "x"})] * count
        if self.attempt(lambda c: append(c, self.run, epoch, entries, self.now), error):
            self.model.kinds += ["note.log"] * count

    @rule(age=ages, op=st.sampled_from(OPS))
    def waited(self, age: int, op: str) -> None:
        epoch, error = self.fence(age)
        asked = {"op": OpId(op), "name": "w", "digest": "d", "kind": "wait"}
        due_at = self.now + DUE_IN_S

        def make(c: Connection) -> Any:
            return create_wait(c, self.run, epoch, NewWait(**asked, due_at=due_at), self.now)  # type: ignore[arg-type]

        if self.attempt(make, error) and op not in self.model.waits:
            self.model.kinds.append("op.begin")
            self.model.waits[op] = Wait(due_at)

    @precondition(lambda self: self.model.waits)
    @rule(data=st.data(), status=st.sampled_from(["completed", "timeout", "cancelled"]))
    def ended(self, data: st.DataObject, status: str) -> None:
        op = data.draw(st.sampled_from(sorted(self.model.waits)))
        waits = {w.op: w for w in self.commit(lambda c: list_waits(c, self.run, open_only=False))}
        late = self.model.waits[op].state != "open"
        error = Conflict if late and status != "timeout" else None
        value = {"status": status, "data": ANSWER}
        took = self.attempt(
            lambda c: complete_wait(c, waits[OpId(op)].id, value=value, now=self.now), error
        )
        assert bool(took) == (not late)
        if took:
            self.model.end(op, status)
            self.model.answers[op] = exact(ANSWER)

    @rule(later_s=st.sampled_from([0.0, 3.0]))
    def time_passed(self, later_s: float) -> None:
        self.now += later_s
        due = self.commit(lambda c: end_due(c, self.now))
        waits = self.model.waits
        want = [op for op, w in waits.items() if w.state == "open" and w.due_at <= self.now]
        assert sorted(w.op for w in due) == sorted(want)
        for wait in due:
            self.model.end(wait.op, "timeout")

    @rule(age=ages, behind=st.integers(0, 4))
    def frozen(self, age: int, behind: int) -> None:
        """A machine that was paused `behind` entries ago: snapshot and suspension in one write."""
        model = self.model
        epoch, error = self.fence(age)
        if error is None and not may_follow(model.state, RunState.SUSPENDED):
            error = Conflict
        seq = max(model.seen, len(model.kinds) - behind)

        def freeze(c: Connection) -> Any:
            record_snapshot(
                c,
                NewSnapshot(
                    run=self.run,
                    epoch=epoch,
                    seq=Seq(seq),
                    version=VERSION,
                    manifest="m",
                    bytes=1,
                    pause_ms=1.0,
                    freeze_ms=1.0,
                    created_at=self.now,
                ),
            )
            return transition(c, self.run, epoch, RunState.SUSPENDED, self.now)

        if self.attempt(freeze, error):
            model.kinds += ["snapshot", "run.suspended"]
            model.state, model.seen = RunState.SUSPENDED, seq
            model.fresh = model.ready

    # Late, for little happens to a run that has ended.
    @precondition(lambda self: len(self.model.kinds) > LIVELY)
    @rule(age=st.none() | ages, to=st.sampled_from(sorted(FINAL)))
    def finished(self, age: int | None, to: RunState) -> None:
        model = self.model
        epoch, error = (None, None) if age is None else self.fence(age)
        if error is None and not may_follow(model.state, to):
            error = Conflict
        if self.attempt(lambda c: transition(c, self.run, epoch, to, self.now), error):
            for op in [op for op, w in model.waits.items() if w.state == "open"]:
                model.end(op, "cancelled")
            model.kinds.append(f"run.{to.value}")
            model.state = to

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "run"):
            return
        model = self.model
        look = self._look(self.connection)
        run, entries, waits, results, newest, wanting = look
        assert (run.state, run.epoch, run.last_seq) == (model.state, model.epoch, len(model.kinds))
        assert [e.seq for e in entries] == list(range(1, len(model.kinds) + 1))
        assert [e.kind for e in entries] == model.kinds
        assert {w.op: w.state for w in waits} == {op: w.state for op, w in model.waits.items()}
        ended = sorted((r for r in results if "ok" in r), key=lambda r: int(r["seq"]))
        assert [r["op"] for r in ended] == sorted(model.results, key=model.results.__getitem__)
        assert all(r["value"]["status"] == model.waits[r["op"]].state for r in ended)
        answered = {r["op"]: exact(r["value"].get("data")) for r in ended}
        assert answered.items() >= model.answers.items()
        in_doubt = {r["op"] for r in results if "ok" not in r}
        assert in_doubt == {op for op, w in model.waits.items() if w.state == "open"}
        assert (newest.seq if newest else 0) == model.seen
        asleep = model.state is RunState.SUSPENDED
        assert bool(wanting) == (model.state is RunState.QUEUED or (asleep and model.ready))
        if model.state in FINAL:
            assert all(w.state != "open" for w in waits)

    def _look(self, c: Connection) -> Any:
        run = self.run
        return (
            get_run(c, run),
            read_entries(c, run),
            list_waits(c, run, open_only=False),
            journal(c, run, 0),
            newest_snapshot(c, run),
            claimable(c),
        )


TestRunsAndWaits = RunsAndWaits.TestCase
TestRunsAndWaits.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
