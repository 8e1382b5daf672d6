"""The context log of one run: positions, fences, operations, output, the journal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torpor.contextlog.codecs import check_object
from torpor.contextlog.entries import (
    NewEntry,
    append,
    in_doubt,
    journal,
    read_entries,
    read_page,
)
from torpor.contextlog.output import Piece, append_output
from torpor.contextlog.runs import claim, get_run, transition
from torpor.core.errors import Conflict, Invalid, NotFound, StaleEpoch
from torpor.core.ids import Epoch, OpId, RunId
from torpor.core.jsonvalues import ENTRY_BYTES_MAX
from torpor.core.states import RunState


class Undone(Exception):
    """Raised by a write that only looks, so that it leaves nothing behind."""


def begin(op: str, digest: str = "d") -> NewEntry:
    return NewEntry("op.begin", OpId(op), {"kind": "step", "name": op[:-2], "digest": digest})


def end(op: str, value: object = None) -> NewEntry:
    return NewEntry("op.end", OpId(op), {"ok": True, "value": value})


def note(text: str) -> NewEntry:
    return NewEntry("note.log", None, {"text": text})


def test_a_page_is_bounded_in_bytes_and_says_whether_more_follows(
    commit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torpor.contextlog.entries.PAGE_BYTES_MAX", 1000)
    run, epoch = commit.claimed()
    written = [note("x" * 400) for _ in range(5)] + [note("y" * 2000), note("z")]
    commit(lambda c: append(c, run, epoch, written, 12.0))

    def page(
        after: int, limit: int = 100, kinds: list[str] | None = None
    ) -> tuple[list[int], bool]:
        read = commit(lambda c: read_page(c, run, after, kinds, limit))
        return [entry["seq"] for entry in read.entries], read.more

    assert page(2) == ([3, 4], True)
    assert page(6) == ([7], True)
    assert page(7) == ([8], True)  # alone it is given, however large
    assert page(8) == ([9], False)
    assert page(9) == ([], False)
    assert page(0, limit=2) == ([1, 2], True)
    assert page(7, limit=1) == ([8], True)
    assert page(8, limit=1) == ([9], False)
    assert page(0, kinds=["run.started"]) == ([2], False)


def test_positions_have_no_gaps_and_entries_come_back_as_written(commit: Any) -> None:
    run, epoch = commit.claimed()
    data = {"text": "naïve \x00 🦥", "n": [1, 2.5, None, {"deep": True}]}
    assert commit(lambda c: append(c, run, epoch, [note("a"), note("b")], 12.0)) == [3, 4]
    entry = NewEntry("note.emit", None, data)
    assert commit(lambda c: append(c, run, None, [entry], 13.0)) == [5]
    assert commit(lambda c: append(c, run, None, [], 13.0)) == []
    rows = commit(lambda c: read_entries(c, run))
    assert [(r.seq, r.kind, r.epoch) for r in rows] == [
        (1, "run.created", None),
        (2, "run.started", 1),
        (3, "note.log", 1),
        (4, "note.log", 1),
        (5, "note.emit", None),
    ]
    assert rows[-1].data == data
    assert rows[-1].to_json() == {
        "run": run,
        "seq": 5,
        "at": 13.0,
        "epoch": None,
        "kind": "note.emit",
        "op": None,
        "data": data,
    }
    some = commit(lambda c: read_entries(c, run, after=2, kinds=["note.log"], limit=1))
    assert [r.seq for r in some] == [3]


def test_only_the_newest_epoch_of_a_live_run_writes(commit: Any) -> None:
    run, old = commit.claimed()
    new = commit(lambda c: claim(c, run, 12.0))
    for epoch in (old, Epoch(new + 1)):
        for entries in ([note("x")], [begin("step:a#1")], []):
            with pytest.raises(StaleEpoch, match=f"epoch is {new}"):
                commit(lambda c, e=entries, by=epoch: append(c, run, by, e, 13.0))
        with pytest.raises(StaleEpoch):
            commit(lambda c, by=epoch: append_output(c, run, by, Piece("stdout", 0, "x"), 13.0))
    commit(lambda c: append(c, run, new, [note("mine")], 13.0))
    commit(lambda c: transition(c, run, None, RunState.CANCELLED, 14.0))
    with pytest.raises(StaleEpoch, match="which is cancelled"):
        commit(lambda c: append(c, run, new, [note("too late")], 15.0))
    with pytest.raises(NotFound):
        commit(lambda c: append(c, RunId("run_none"), new, [note("x")], 15.0))
    kinds = [e.kind for e in commit(lambda c: read_entries(c, run))]
    assert kinds == ["run.created", "run.started", "run.recovered", "note.log", "run.cancelled"]


def test_an_operation_begins_once_and_ends_once(commit: Any) -> None:
    run, epoch = commit.claimed()

    def write(*entries: NewEntry) -> Any:
        return commit(lambda c: append(c, run, epoch, entries, 12.0))

    assert write(begin("step:a#1"), begin("step:b#1")) == [3, 4]
    # Begun again after a recovery: the same place, and what is new beside it has no gap.
    again = NewEntry("op.begin", OpId("wait:w#1"), {"kind": "wait", "name": "w", "digest": "d"})
    assert write(again) == [5]
    assert write(note("x"), again, note("y"), begin("step:c#1")) == [6, 5, 7, 8]
    # What is done again says so (rule 3); what has its result is not.
    assert write(begin("step:b#1"), end("step:b#1", 1)) == [9, 10]
    assert write(begin("step:b#1")) == [4]
    (marked,) = commit(lambda c: read_entries(c, run, kinds=["op.again"]))
    assert (marked.op, marked.data) == ("step:b#1", {})
    before = commit(lambda c: read_entries(c, run))
    illegal = [
        (Conflict, [note("z"), end("step:b#1", 2)]),
        (Conflict, [note("z"), begin("step:a#1", "other")]),
        (Conflict, [end("step:a#1"), end("step:a#1")]),
        (Invalid, [begin("step:d#1"), begin("step:d#1")]),
        (Invalid, [end("step:never#1")]),
        (Invalid, [NewEntry("op.begin", OpId("step:e#1"), {"kind": "step"})]),
        (Invalid, [NewEntry("op.end", None, {"ok": True})]),
    ]
    for error, entries in illegal:

        def caught(c: Any, error: Any = error, entries: Any = entries) -> None:
            # Caught inside, so that the transaction is committed: it must hold nothing of it.
            with pytest.raises(error):
                append(c, run, epoch, entries, 13.0)

        commit(caught)
    assert commit(lambda c: read_entries(c, run)) == before
    assert write(end("step:a#1", 3)) == [11]


def test_the_journal_gives_what_ended_or_is_in_doubt_after_a_place(commit: Any) -> None:
    run, epoch = commit.claimed()
    failed = NewEntry("op.end", OpId("step:b#1"), {"ok": False, "error": {"type": "E"}})
    entries = [begin("step:a#1"), begin("step:b#1", "d2"), begin("step:c#1"), end("step:a#1", [1])]
    commit(lambda c: append(c, run, epoch, entries, 12.0))
    commit(lambda c: append(c, run, epoch, [failed, end("step:c#1", None)], 12.0))
    place = {"at": "a.py:3", "side": True}
    doubt = {"kind": "step", "name": "step:d", "digest": "d", **place, "data": {}}
    begun = NewEntry("op.begin", OpId("step:d#1"), doubt)
    for _ in range(3):
        commit(lambda c: append(c, run, epoch, [begun], 12.0))
    want = [
        {"op": "step:a#1", "kind": "step", "name": "step:a", "digest": "d", "ok": True}
        | {"value": [1], "seq": 6},
        {"op": "step:b#1", "kind": "step", "name": "step:b", "digest": "d2", "ok": False}
        | {"error": {"type": "E"}, "seq": 7},
        {"op": "step:c#1", "kind": "step", "name": "step:c", "digest": "d", "ok": True}
        | {"value": None, "seq": 8},
        {"op": "step:d#1", "kind": "step", "name": "step:d", "digest": "d", **place, "again": 2},
    ]
    assert commit(lambda c: journal(c, run, 0)) == want
    assert commit(lambda c: journal(c, run, 6)) == want[1:]
    assert commit(lambda c: journal(c, run, 8)) == want[3:]
    assert commit(lambda c: journal(c, run, 9)) == []
    assert commit(lambda c: in_doubt(c, run)) == [
        {**want[3], "seq": 9, "began_at": 12.0, "epoch": epoch}
    ]


def test_the_journal_and_operations_are_found_by_index(commit: Any) -> None:
    from torpor.contextlog import entries

    for statement, parameters in (
        (entries._ENDED, {"in_run": "r", "after": 0}),
        (entries._IN_DOUBT, {"in_run": "r", "after": 0}),
        (entries._KNOWN, {"in_run": "r", "in_op": "a"}),
    ):
        plan: list[str] = []

        def explain(c: Any, s: Any = statement, p: Any = parameters, plan: Any = plan) -> None:
            compiled = s._for(c)
            sql, values = f"EXPLAIN QUERY PLAN {compiled.sql}", tuple(compiled.parameters(p))
            plan.extend(row[3] for row in c.exec_driver_sql(sql, values))

        commit(explain)
        assert any("entries_one_" in line for line in plan), plan
        assert not any(line.startswith("SCAN") for line in plan), plan


@pytest.mark.parametrize(
    "data", [[], "x", None, {"x": float("nan")}, {"x": object()}, {"x": {1, 2}}]
)
def test_what_is_no_json_object_is_refused(commit: Any, data: Any) -> None:
    run, epoch = commit.claimed()
    with pytest.raises(Invalid):
        commit(lambda c: append(c, run, epoch, [NewEntry("note.emit", None, data)], 12.0))
    assert commit(lambda c: get_run(c, run)).last_seq == 2


def test_entries_are_limited_in_size_and_depth() -> None:
    check_object({"x": "a" * (ENTRY_BYTES_MAX - 8)}, "it")
    with pytest.raises(Invalid, match="1,048,577 bytes"):
        check_object({"x": "a" * (ENTRY_BYTES_MAX - 7)}, "it")
    deep: Any = {}
    for _ in range(100_000):
        deep = {"x": deep}
    with pytest.raises(Invalid, match="it is nested more than 72 deep"):
        check_object(deep, "it")


def test_repeated_output_is_appended_once(commit: Any) -> None:
    """Whatever pieces of its output a machine repeats, the log's pieces make up the whole."""

    run, epoch = commit.claimed()

    def repeat(c: Any, text: str, cuts: list[tuple[int, int]]) -> None:
        base = get_run(c, run).out_offset
        first = len(read_entries(c, run))
        done = 0  # characters that the log must hold by now
        for back, length in [*cuts, (0, len(text))]:
            start = max(0, done - back)
            piece = text[start : start + length]
            offset = base + len(text[:start].encode())
            append_output(c, run, epoch, Piece("stdout", offset, piece), 12.0)
            done = max(done, start + len(piece))
            rows = read_entries(c, run, after=first)
            assert "".join(row.data["text"] for row in rows) == text[:done]
            assert get_run(c, run).out_offset == base + len(text[:done].encode())

    @settings(max_examples=40, deadline=None)
    @given(st.text(max_size=30), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 15))))
    def check(text: str, cuts: list[tuple[int, int]]) -> None:
        def fn(c: Any) -> None:
            repeat(c, text, cuts[:6])
            raise Undone

        with pytest.raises(Undone):
            commit(fn)

    check()


def test_output_streams_are_apart(commit: Any) -> None:
    run, epoch = commit.claimed()

    def put(stream: str, offset: int, text: str) -> Any:
        return commit(lambda c: append_output(c, run, epoch, Piece(stream, offset, text), 12.0))

    assert put("stdout", 0, "grüße\n") == 3
    assert put("stderr", 0, "oh\n") == 4
    assert put("stdout", 0, "grüße\n") is None
    assert put("stdout", 2, "üße\nmore") == 5
    with pytest.raises(Invalid, match="stdin"):
        put("stdin", 0, "x")
    rows = commit(lambda c: read_entries(c, run, kinds=["output"]))
    assert [r.data for r in rows] == [
        {"stream": "stdout", "text": "grüße\n", "offset": 0},
        {"stream": "stderr", "text": "oh\n", "offset": 0},
        {"stream": "stdout", "text": "more", "offset": 8},
    ]


def test_output_beyond_the_limit_is_counted_and_given_away(commit: Any) -> None:
    run, epoch = commit.claimed()
    given: list[tuple[int, bytes]] = []

    def out(stream: str, offset: int, text: str) -> Any:
        return commit(
            lambda c: append_output(
                *(c, run, epoch, Piece(stream, offset, text), 12.0),
                limit=10,
                beside=lambda at, data: given.append((at, data)),
            )
        )

    out("stdout", 0, "12345")
    out("stderr", 0, "abc")
    out("stdout", 5, "6789")  # what reaches the limit is in the log whole
    assert out("stdout", 9, "more") is None
    assert out("stdout", 7, "89mo") is None, "a recovered machine repeats itself"
    assert out("stdout", 9, "more and more") is None
    assert out("stderr", 1, "bcdé") is None
    assert given == [(9, b"more"), (13, b" and more"), (3, "dé".encode())]
    log = [(e.kind, e.data) for e in commit(lambda c: read_entries(c, run, 2))]
    assert log == [
        ("output", {"stream": "stdout", "text": "12345", "offset": 0}),
        ("output", {"stream": "stderr", "text": "abc", "offset": 0}),
        ("output", {"stream": "stdout", "text": "6789", "offset": 5}),
        ("output.beside", {"limit": 10, "stdout": 9, "stderr": 3}),
    ]
    row = commit(lambda c: get_run(c, run))
    assert (row.out_offset, row.err_offset) == (22, 6)
    stale = Epoch(epoch - 1)
    with pytest.raises(StaleEpoch):
        commit(lambda c: append_output(c, run, stale, Piece("stdout", 22, "x"), 13.0, limit=10))
