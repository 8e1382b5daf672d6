"""Where a reader of the end of a log begins."""

from __future__ import annotations

from sqlalchemy import Connection, text
from tests.unit.contextlog.conftest import Commit

from torpor.contextlog.entries import NewEntry, append, read_entries, read_page
from torpor.contextlog.forks import fork_of, fork_run
from torpor.contextlog.output import printed_before
from torpor.contextlog.reading import begin
from torpor.contextlog.runs import get_run
from torpor.core.ids import RunId, Seq


def note(n: int) -> NewEntry:
    return NewEntry("note.log", None, {"message": str(n)})


def filled(commit: Commit) -> RunId:
    """A run with a note a second, and what it printed after every other."""
    run, epoch = commit.claimed()

    def fill(c: Connection) -> None:
        for n in range(20):
            append(c, run, epoch, [note(n)], 100.0 + n)
            if n % 2:
                data = {"stream": "stdout", "text": "x", "offset": n}
                append(c, run, epoch, [NewEntry("output", None, data)], 100.5 + n)

    commit(fill)
    return run


def test_the_last_so_many(commit: Commit) -> None:
    run = filled(commit)

    def check(c: Connection) -> None:
        for kinds in (None, ["note.log"], ["output"], ["output", "note.log"], ["none"]):
            whole = [each.seq for each in read_entries(c, run, kinds=kinds)]
            for tail in (0, 1, 3, len(whole), 1000):
                after = begin(c, run, kinds=kinds, tail=tail)
                found = [each.seq for each in read_entries(c, run, after, kinds)]
                assert found == (whole[-tail:] if tail else []), (kinds, tail)

    commit(check)


def test_reading_a_row_at_a_time_leaves_the_connection_as_it_was(commit: Commit) -> None:
    """It serves others afterwards, which want all of their rows at once."""
    run = filled(commit)

    def check(c: Connection) -> None:
        before = dict(c.get_execution_options())
        assert len(read_page(c, run, 0, None, 5).entries) == 5
        assert printed_before(c, run, "stdout", None, 3, 10)
        assert dict(c.get_execution_options()) == before

    commit(check)


def test_what_is_not_older(commit: Commit) -> None:
    run = filled(commit)

    def check(c: Connection) -> None:
        for since in (0.0, 100.0, 110.2, 119.5, 1e9):
            found = [each.at for each in read_entries(c, run, begin(c, run, since=since))]
            whole = [each.at for each in read_entries(c, run)]
            assert found == [at for at in whole if at >= since]
        assert begin(c, run, tail=30, since=119.0) == begin(c, run, since=119.0)
        assert begin(c, run, tail=1, since=0.0) == begin(c, run, tail=1)

    commit(check)


def test_a_forks_log_goes_back_into_what_it_shares(commit: Commit) -> None:
    run = filled(commit)

    def check(c: Connection) -> None:
        origin = get_run(c, run)
        fork = fork_run(c, origin, fork_of(origin, Seq(12)), lambda *_: b"", 200.0).id
        whole = [each.seq for each in read_entries(c, fork)]
        for tail in range(len(whole) + 2):
            found = [each.seq for each in read_entries(c, fork, begin(c, fork, tail=tail))]
            assert found == (whole[-tail:] if tail else [])

    commit(check)


def test_it_looks_no_further_back(commit: Commit) -> None:
    """By the key, from the end: no sorting of all of it."""
    run = filled(commit)

    def check(c: Connection) -> None:
        asked = (
            "EXPLAIN QUERY PLAN SELECT seq FROM log WHERE run = :run "
            "ORDER BY part DESC, seq DESC LIMIT 1 OFFSET 3"
        )
        plan = [row[-1] for row in c.execute(text(asked), {"run": run})]
        assert not any("TEMP B-TREE" in step for step in plan), plan

    commit(check)
