"""Forks: what they share, what is their own, what a retry tries again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from torpor.contextlog import schema
from torpor.contextlog.agents import NewAgent, put_agent
from torpor.contextlog.entries import (
    EntryRow,
    NewEntry,
    append,
    journal,
    read_entries,
    read_op,
)
from torpor.contextlog.forks import (
    Fork,
    failures,
    family,
    fork_of,
    fork_run,
    forks_of,
    shared_end,
)
from torpor.contextlog.keys import find_key, put_key
from torpor.contextlog.lineage import OPEN_END, Part, fork_parts, same_upto
from torpor.contextlog.output import Piece, append_output
from torpor.contextlog.runs import RunRow, claim, get_run, request_cancel, transition
from torpor.contextlog.snapshots import NewSnapshot, SnapshotRow, base_of, record_snapshot
from torpor.contextlog.waits import NewWait, complete_wait, create_wait, list_waits
from torpor.core import jsonvalues
from torpor.core.errors import Conflict, Invalid, NotFound
from torpor.core.ids import AgentVersion, Epoch, OpId, RunId, Seq
from torpor.core.states import RunState

FIGURES: dict[str, Any] = {"manifest": "m", "bytes": 9, "pause_ms": 1.0, "freeze_ms": 2.0}
NEWER = AgentVersion("b" * 32)


def begin(op: str, kind: str = "step") -> NewEntry:
    name = op.partition(":")[2].partition("#")[0]
    return NewEntry("op.begin", OpId(op), {"kind": kind, "name": name, "digest": "d"})


def end(op: str, value: object = None) -> NewEntry:
    return NewEntry("op.end", OpId(op), {"ok": True, "value": value})


def fail(op: str, message: str = "no") -> NewEntry:
    error = {"type": "ValueError", "message": message}
    return NewEntry("op.end", OpId(op), {"ok": False, "error": error})


def rewrap(owner: RunId, wrapped: bytes, fork: RunId) -> bytes:
    return wrapped + b" of " + owner.encode() + b" for " + fork.encode()


class Story:
    """One run, and forks of it."""

    def __init__(self, commit: Any) -> None:
        self.commit = commit
        self.run, self.epoch = commit.claimed()  # two entries
        self.now = 20.0

    def write(self, *entries: NewEntry, run: RunId | None = None) -> list[Seq]:
        return self.commit(  # type: ignore[no-any-return]
            lambda c: append(c, run or self.run, self.epoch, entries, self.now)
        )

    def did(self, *ops: str) -> None:
        for op in ops:
            self.write(begin(op))
            self.write(end(op, op))

    def row(self, run: RunId | None = None) -> RunRow:
        return self.commit(lambda c: get_run(c, run or self.run))  # type: ignore[no-any-return]

    def fork(self, at: int | None = None, of: RunId | None = None, **changes: Any) -> RunRow:
        origin = self.row(of)

        def make(c: Any) -> RunRow:
            place = shared_end(c, origin) if at is None else Seq(at)
            return fork_run(c, origin, fork_of(origin, place, **changes), rewrap, self.now)

        return self.commit(make)  # type: ignore[no-any-return]

    def log(self, run: RunId | None = None) -> list[EntryRow]:
        return self.commit(lambda c: read_entries(c, run or self.run))  # type: ignore[no-any-return]

    def results(self, run: RunId, after: int) -> list[dict[str, Any]]:
        found = self.commit(lambda c: journal(c, run, after))
        return [record for record in found if "ok" in record]

    def end(self, state: RunState, **outcome: Any) -> None:
        self.commit(lambda c: transition(c, self.run, self.epoch, state, self.now, **outcome))

    def snapshot(
        self, seq: int, seen_upto: int | None = None, run: RunId | None = None
    ) -> SnapshotRow:
        of: dict[str, Any] = {"run": run or self.run, "epoch": self.row(run).epoch}
        place: dict[str, Any] = {"seq": Seq(seq), "seen_upto": seen_upto}
        return self.commit(  # type: ignore[no-any-return]
            lambda c: record_snapshot(
                c,
                NewSnapshot(
                    version=self.commit.version, created_at=self.now, **of, **place, **FIGURES
                ),
            )
        )


@pytest.fixture
def story(commit: Any) -> Story:
    return Story(commit)


def written(parts: Sequence[Part], upto: int) -> list[RunId]:
    """Who wrote each of the first entries."""
    return [next(p.source for p in parts if p.after < seq <= p.upto) for seq in range(1, upto + 1)]


FORKS = st.tuples(st.integers(0, 5), st.integers(0, 12), st.sets(st.integers(1, 12)))


@settings(deadline=None)
@given(st.lists(FORKS, max_size=8))
def test_every_place_of_every_fork_has_one_writer(
    forks: list[tuple[int, int, set[int]]],
) -> None:
    parts = {0: [Part(0, OPEN_END, RunId("run_0"))]}
    writers = {0: [RunId("run_0")] * 20}
    for number, (of, at, replaced) in enumerate(forks, start=1):
        origin, run = of % number, RunId(f"run_{number}")
        places = {seq for seq in replaced if seq <= at}
        parts[number] = fork_parts(parts[origin], run, at, places)
        writers[number] = [
            run if seq > at or seq in places else writers[origin][seq - 1] for seq in range(1, 21)
        ]
        assert written(parts[number], 20) == writers[number]
        for other in parts:
            for seq in range(21):
                alike = writers[other][:seq] == writers[number][:seq]
                assert same_upto(parts[other], parts[number], seq) == alike
        # One look-up finds all: no gap, no overlap, in order.
        ends = [0, *(part.upto for part in parts[number])]
        assert [part.after for part in parts[number]] == ends[:-1]


def test_a_fork_shares_the_beginning_and_goes_on_by_itself(story: Story) -> None:
    story.did("step:a#1", "step:b#1")  # 3 to 6
    story.now = 30.0
    fork = story.fork(4)
    assert (fork.state, fork.epoch, fork.last_seq) == (RunState.QUEUED, story.epoch, 5)
    assert (fork.origin, fork.origin_seq, fork.base) == (story.run, 4, None)
    story.did("step:c#1")
    mine = story.log(fork.id)
    assert [e.seq for e in mine] == [1, 2, 3, 4, 5]
    assert [e.kind for e in mine[:4]] == [e.kind for e in story.log()[:4]]
    assert {e.run for e in mine} == {fork.id}
    assert mine[-1].kind == "run.forked"
    assert mine[-1].data["origin"] == story.run and mine[-1].data["seq"] == 4
    counted = (
        select(func.count()).select_from(schema.entries).where(schema.entries.c.run == fork.id)
    )
    assert story.commit(lambda c: c.scalar(counted)) == 1, "nothing is copied"

    epoch = story.commit(lambda c: claim(c, fork.id, 31.0))
    assert epoch == story.epoch + 1
    # What the shared beginning records is recorded (rule 2), what came later is not.
    with pytest.raises(Conflict, match="has a result already"):
        story.commit(lambda c: append(c, fork.id, epoch, [end("step:a#1")], 32.0))
    places = story.commit(
        lambda c: append(c, fork.id, epoch, [begin("step:a#1"), begin("step:b#1")], 32.0)
    )
    assert places == [3, 7]
    assert [r["op"] for r in story.results(fork.id, 0)] == ["step:a#1"]
    assert story.results(fork.id, 4) == []
    story.commit(lambda c: append(c, fork.id, epoch, [end("step:b#1", "mine")], 33.0))
    values = [r["value"] for r in story.results(fork.id, 0)]
    assert values == ["step:a#1", "mine"]
    assert story.log()[5].data["value"] == "step:b#1", "the origin's is its own"
    some = story.commit(lambda c: read_entries(c, fork.id, 3, ["op.end", "op.begin"], 2))
    assert [e.seq for e in some] == [4, 7]
    assert story.commit(lambda c: read_op(c, fork.id, OpId("step:b#1")))["digest"] == "d"


def test_a_fork_of_a_fork(story: Story) -> None:
    story.did("step:a#1")  # 3, 4
    one = story.fork()
    epoch = story.commit(lambda c: claim(c, one.id, 31.0))  # 6
    story.commit(lambda c: append(c, one.id, epoch, [begin("step:b#1"), end("step:b#1")], 32.0))
    two = story.fork(8, of=one.id)
    assert [e.kind for e in story.log(two.id)] == [
        *("run.created", "run.started", "op.begin", "op.end", "run.forked"),
        *("run.started", "op.begin", "op.end", "run.forked"),
    ]
    early = story.fork(3, of=two.id)
    assert [e.kind for e in story.log(early.id)][2:] == ["op.begin", "run.forked"]
    tree = story.commit(lambda c: family(c, get_run(c, early.id)))
    assert [(r.id, r.origin) for r in tree] == [
        *((story.run, None), (one.id, story.run), (two.id, one.id), (early.id, two.id))
    ]
    assert [r.id for r in story.commit(lambda c: forks_of(c, one.id))] == [two.id]


def test_places_that_there_are_not(story: Story) -> None:
    story.did("step:a#1")
    for at in (-1, 5):
        with pytest.raises(Conflict, match="its log ends at 4"):
            story.fork(at)
    story.end(RunState.COMPLETED, result=1)
    with pytest.raises(Conflict, match="ends at 4, where it completed"):
        story.fork(5)
    assert story.fork().origin_seq == 4, "how it ended is not shared"
    with pytest.raises(NotFound, match="no agent version"):
        story.fork(version=NEWER)
    assert len(story.commit(lambda c: forks_of(c, story.run))) == 1, "nothing came of the others"


def test_output_goes_on_where_the_fork_begins(story: Story) -> None:
    def out(run: RunId, epoch: Epoch, offset: int, text: str) -> Any:
        return story.commit(
            lambda c: append_output(c, run, epoch, Piece("stdout", offset, text), story.now)
        )

    out(story.run, story.epoch, 0, "één ")  # 6 bytes
    out(story.run, story.epoch, 6, "two ")
    same, other = story.fork(3), story.fork(3, version=_newer(story))
    assert (same.out_offset, same.err_offset, other.out_offset) == (6, 0, 6)
    epoch = story.commit(lambda c: claim(c, same.id, 31.0))
    assert out(same.id, epoch, 0, "één ") is None, "the shared log has it"
    out(same.id, epoch, 6, "zwei")
    texts = [e.data["text"] for e in story.log(same.id) if e.kind == "output"]
    assert texts == ["één ", "zwei"]


def _newer(story: Story) -> AgentVersion:
    def put(c: Any) -> None:
        put_agent(
            c,
            NewAgent(engine="qemu", version=NEWER, name="a", entry="a.py", source=b"", spec={}),
            1.0,
        )

    story.commit(put)
    return NEWER


def ask(story: Story, name: str, due_at: float | None = None, kind: str = "wait") -> Any:
    named: dict[str, Any] = {"op": OpId(f"{kind}:{name}#1"), "name": name, "digest": "d"}
    return story.commit(
        lambda c: create_wait(
            c, story.run, story.epoch, NewWait(kind=kind, due_at=due_at, **named), story.now
        )
    )


def test_an_open_wait_is_opened_anew_and_answered_once_for_each(story: Story) -> None:
    answered, theirs = ask(story, "before"), ask(story, "q", due_at=120.0)
    slept = ask(story, "s", due_at=90.0, kind="sleep")
    story.commit(lambda c: complete_wait(c, answered.id, value={"data": 0}, now=20.0))
    story.now = 500.0
    fork = story.fork(7)
    mine = {w.op: w for w in story.commit(lambda c: list_waits(c, fork.id))}
    assert set(mine) == {theirs.op, slept.op}
    assert mine[theirs.op].id != theirs.id
    assert mine[theirs.op].due_at == 600.0, "as long to go as at the fork's place"
    assert mine[slept.op].due_at == 90.0, "a time is a time"
    shown = story.commit(lambda c: list_waits(c, fork.id, open_only=False))
    assert {w.id for w in shown} == {answered.id, *(w.id for w in mine.values())}

    story.commit(lambda c: complete_wait(c, theirs.id, value={"data": "theirs"}, now=501.0))
    assert [w.state for w in story.commit(lambda c: list_waits(c, fork.id))] == ["open"] * 2
    story.commit(lambda c: complete_wait(c, mine[theirs.op].id, value={"data": "mine"}, now=502.0))
    values = [r["value"]["data"] for r in story.results(fork.id, 0)]
    assert values == [0, "mine"]
    # Asked again by the agent, it is the one that there is.
    epoch = story.commit(lambda c: claim(c, fork.id, 503.0))
    again = story.commit(
        lambda c: create_wait(
            c, fork.id, epoch, NewWait(op=theirs.op, name="q", digest="d", kind="wait"), 503.0
        )
    )
    assert (again.id, again.state) == (mine[theirs.op].id, "completed")


def test_a_result_is_set_where_it_stood(story: Story) -> None:
    story.did("step:a#1", "step:b#1")
    wait = ask(story, "q")
    story.commit(lambda c: complete_wait(c, wait.id, value={"data": 1}, now=20.0))
    answer = {"data": 2}
    fork = story.fork(set={OpId("step:a#1"): [7], OpId(wait.op): answer})
    log, theirs = story.log(fork.id), story.log()
    assert [(e.seq, e.kind, e.op) for e in log[:-1]] == [(e.seq, e.kind, e.op) for e in theirs]
    assert log[3].data == {"ok": True, "value": [7], "set": {"was": theirs[3].data}}
    assert log[-1].data["set"] == ["step:a#1", wait.op]
    values = {r["op"]: r["value"] for r in story.results(fork.id, 0)}
    assert values["step:a#1"] == [7] and values["step:b#1"] == "step:b#1"
    assert values[wait.op]["data"] == 2
    (mine,) = story.commit(lambda c: list_waits(c, fork.id, open_only=False))
    assert (mine.state, mine.value["data"], mine.run) == ("completed", 2, fork.id)
    # It is recorded for good, for its own forks, too.
    epoch = story.commit(lambda c: claim(c, fork.id, 40.0))
    with pytest.raises(Conflict, match="has a result already"):
        story.commit(lambda c: append(c, fork.id, epoch, [end("step:a#1")], 41.0))
    second = story.fork(5, of=fork.id)
    assert [e.data for e in story.log(second.id)[:5]] == [e.data for e in log[:5]]


def test_what_cannot_be_set(story: Story) -> None:
    story.did("step:a#1")
    story.write(begin("step:b#1"), begin("model:m#1", "model"), end("model:m#1", {"status": 200}))
    wait = ask(story, "q")
    for op in ("step:b#1", "step:never#1", wait.op):
        with pytest.raises(Conflict, match="has no result in the first 8 entries"):
            story.fork(set={OpId(op): 1})
    with pytest.raises(Conflict, match="has no result in the first 3"):
        story.fork(3, set={OpId("step:a#1"): 1})
    with pytest.raises(Invalid, match="an HTTP response"):
        story.fork(set={OpId("model:m#1"): "text"})
    with pytest.raises(Invalid, match="the result of step:a#1 holds NaN"):
        story.fork(set={OpId("step:a#1"): float("nan")})
    deep: Any = 1
    for _ in range(jsonvalues.DEPTH_MAX + 1):
        deep = [deep]
    with pytest.raises(Invalid, match="nested more than 64 deep"):
        story.fork(set={OpId("step:a#1"): deep})
    story.commit(lambda c: complete_wait(c, wait.id, value={"data": 1}, now=20.0))
    for value in (True, {"approved": True, "why": 1}):
        with pytest.raises(Invalid, match="its result is an answer"):
            story.fork(set={OpId(wait.op): value})
    assert story.commit(lambda c: forks_of(c, story.run)) == []


def test_a_large_result_can_be_set_over_a_large_one(story: Story) -> None:
    large = "x" * 600_000
    story.write(begin("step:a#1"), end("step:a#1", large))
    fork = story.fork(set={OpId("step:a#1"): "y" * 600_000})
    assert story.log(fork.id)[3].data["set"] == {}, "what it was is in the origin's log"


def test_a_retry_tries_again_what_the_run_failed_for(story: Story) -> None:
    story.write(begin("step:handled#1"), fail("step:handled#1", "fatal"))
    story.did("step:fallback#1")
    story.write(begin("step:bad#1"), begin("step:beside#1"), fail("step:bad#1", "fatal"))
    story.write(end("step:beside#1", 1))
    ask(story, "open")
    story.end(RunState.FAILED, error={"type": "ValueError", "message": "fatal", "traceback": "…"})
    row = story.row()
    again = story.commit(lambda c: failures(c, row))
    assert again == {"step:bad#1"}
    fork = story.fork(how="retry", retried=again)
    log = story.log(fork.id)
    assert log[8].kind == "op.retried" and log[8].data["was"]["error"]["message"] == "fatal"
    assert [e.kind for e in log[-2:]] == ["op.begin", "run.forked"]
    recorded = {r["op"]: r["ok"] for r in story.results(fork.id, 0)}
    assert recorded == {"step:handled#1": False, "step:fallback#1": True, "step:beside#1": True}
    epoch = story.commit(lambda c: claim(c, fork.id, 40.0))
    # In doubt until it ends, this time otherwise.
    entries = [begin("step:bad#1"), end("step:bad#1", "well")]
    assert story.commit(lambda c: append(c, fork.id, epoch, entries, 41.0)) == [14, 15]
    assert [e.kind for e in story.log(fork.id)][-2:] == ["op.again", "op.end"]
    assert [w.state for w in story.commit(lambda c: list_waits(c, fork.id))] == ["open"]
    assert story.row().state is RunState.FAILED


@pytest.mark.parametrize(
    ("entries", "again"),
    [
        # The agent's own error, after a failure that it dealt with.
        ([begin("step:a#1"), fail("step:a#1"), begin("step:b#1"), end("step:b#1")], set()),
        # It let a failure pass as another error.
        ([begin("step:a#1"), fail("step:a#1")], {"step:a#1"}),
        # Steps side by side, both failed.
        (
            [begin("step:a#1"), begin("step:b#1"), fail("step:b#1"), fail("step:a#1")],
            {"step:a#1", "step:b#1"},
        ),
        # The model refused; its client asked again, in vain.
        (
            [
                *(begin("model:x#1", "model"), end("model:x#1", {"status": 503})),
                *(begin("step:a#1"), begin("model:y#1", "model")),
                *(end("model:y#1", {"status": 429}), begin("model:y#2", "model")),
                *(end("model:y#2", {"status": 429}), begin("model:z#1", "model")),
                *(end("model:z#1", {"status": 200}), fail("step:a#1")),
            ],
            {"step:a#1", "model:y#1", "model:y#2"},
        ),
        # Asked outside of any step.
        ([begin("model:y#1", "model"), end("model:y#1", {"status": 500})], {"model:y#1"}),
        ([begin("model:y#1", "model"), end("model:y#1", {"status": 200})], set()),
        ([], set()),
    ],
)
def test_what_is_tried_again(story: Story, entries: list[NewEntry], again: set[str]) -> None:
    story.write(*entries)
    story.end(RunState.FAILED, error={"type": "KeyError", "message": "other"})
    assert story.commit(lambda c: failures(c, get_run(c, story.run))) == again


def test_a_retry_of_a_cancelled_run_forgets_the_cancellation(story: Story) -> None:
    story.did("step:a#1")
    ask(story, "q")
    story.commit(lambda c: request_cancel(c, story.run, 30.0))
    story.commit(lambda c: request_cancel(c, story.run, 30.0))
    story.did("step:clean#1")
    story.end(RunState.CANCELLED, error={"type": "Cancelled", "message": "", "traceback": None})
    assert [e.kind for e in story.log()].count("run.cancel_requested") == 1
    fork = story.fork()
    assert fork.origin_seq == 5 and not fork.cancel_requested
    assert [e.kind for e in story.log(fork.id)][4:] == ["op.begin", "run.forked"]
    assert [w.state for w in story.commit(lambda c: list_waits(c, fork.id))] == ["open"]


def test_a_fork_begins_from_the_newest_snapshot_that_did_nothing_else(story: Story) -> None:
    story.did("step:a#1")  # 4
    first = story.snapshot(4)  # the entry is 5
    story.did("step:b#1")  # 7
    # It had seen b's end on its way only, and begun c.
    story.write(begin("step:c#1"))  # 8
    second = story.snapshot(6, seen_upto=8)
    story.commit(lambda c: put_key(c, story.run, b"key"))

    def base(at: int | None, **changes: Any) -> str | None:
        return story.fork(at, **changes).base

    assert [base(at) for at in (3, 4, 7, 8, None)] == [
        *(None, first.id, first.id, second.id, second.id)
    ]
    assert base(8, base=first.id) == first.id
    with pytest.raises(Conflict, match="its machine has seen more than the fork shares"):
        base(7, base=second.id)
    # Whose result is another cannot have been seen.
    assert base(8, set={OpId("step:b#1"): 1}) == first.id
    assert base(8, retried=frozenset({OpId("step:a#1")})) is None
    assert base(8, version=_newer(story)) is None
    assert base(8, input={"n": 2}) is None

    fork = story.fork()
    assert story.commit(lambda c: base_of(c, fork.id)) == second
    mine = story.commit(lambda c: find_key(c, fork.id))
    assert mine == rewrap(story.run, b"key", fork.id)
    alone = story.fork(3)
    assert story.commit(lambda c: find_key(c, alone.id)) is None
    # Its own forks may begin there, too, or from what it froze itself.
    assert base(8, of=fork.id) == second.id
    story.commit(lambda c: claim(c, fork.id, 40.0))  # 10
    third = story.snapshot(10, run=fork.id)
    assert (base(None, of=fork.id), base(9, of=fork.id)) == (third.id, second.id)
    # The origin's later snapshots are of another story.
    story.snapshot(10)
    assert base(10, of=fork.id) == third.id
    edited = story.fork(8, set={OpId("step:b#1"): 1})
    assert base(8, of=edited.id) == first.id


def test_a_fork_may_have_another_input_and_nothing_else(story: Story) -> None:
    story.did("step:a#1")
    fork = story.fork(0, input={"n": 2})
    assert [e.kind for e in story.log(fork.id)] == ["run.forked"]
    assert (fork.input, fork.epoch, fork.last_seq) == ({"n": 2}, 0, 1)


def test_what_a_fork_is_by_default(story: Story) -> None:
    row = story.row()
    assert fork_of(row, Seq(2)) == Fork(Seq(2), row.version, row.agent, row.input)


def test_a_fork_of_a_run_that_went_on_without_a_wait_shares_what_came_after(story: Story) -> None:
    """That the wait was given up is not how the run ended; nor is it asked for in the fork."""
    story.did("step:a#1")
    wait = story.commit(
        lambda c: create_wait(
            *(c, story.run, story.epoch),
            NewWait(op=OpId("wait:q#1"), kind="wait", name="q", digest="d"),
            21.0,
        )
    )
    given_up = story.write(NewEntry("log.superseded", OpId("verdict:x#1"), {"ops": ["wait:q#1"]}))
    before = story.fork(at=given_up[0])
    assert story.commit(lambda c: list_waits(c, before.id)) == [], "be it cut off just there"
    story.commit(lambda c: complete_wait(c, wait.id, value={"status": "cancelled"}, now=22.0))
    story.did("step:b#1")
    row = story.row()
    assert story.commit(lambda c: shared_end(c, row)) == row.last_seq
    copy = story.fork()
    assert [each["op"] for each in story.results(copy.id, 0)] == ["step:a#1", "step:b#1"]
    assert story.commit(lambda c: list_waits(c, copy.id)) == []
