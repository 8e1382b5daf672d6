"""Ended runs, deleted: nothing of them is left, and nothing of others is gone."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, func, select
from sqlalchemy.exc import IntegrityError
from tests.unit.query.conftest import Log, completion

from torpor.contextlog import deletion, schema
from torpor.contextlog.entries import read_entries
from torpor.contextlog.events import send_event
from torpor.contextlog.forks import fork_of, fork_run
from torpor.contextlog.keys import put_key
from torpor.contextlog.output import Piece, append_output
from torpor.contextlog.runs import claim, create_run, get_run, transition
from torpor.contextlog.snapshots import NewSnapshot, record_snapshot
from torpor.contextlog.values import ValueRow, put_value
from torpor.contextlog.waits import NewWait, create_wait
from torpor.core.errors import Conflict, NotFound
from torpor.core.ids import AgentVersion, Epoch, OpId, RunId, Seq
from torpor.core.position import Position
from torpor.core.starting import Start
from torpor.core.states import RunState

VERSION = AgentVersion("a" * 32)
SHARED = {"role": "system", "content": "what everybody says " * 100}
TOOLS = "the tools of all " * 30


def work(c: Connection, secret: str, now: float = 100.0, **of: Any) -> RunId:
    """A run of everything, which has ended. `secret` is in all that it says."""
    asked: dict[str, Any] = {
        "version": VERSION,
        "agent": "a",
        "input": {"q": secret},
        "id_key": f"key-{secret}",
    }
    run = create_run(c, **asked, now=now, **of).id
    put_key(c, run, f"wrapped {secret}".encode())
    log = Log(c, run, claim(c, run, now), now)
    log.step(secret, value=secret)
    append_output(c, run, log.epoch, Piece("stdout", 0, f"printed {secret}\n"), now)
    log.entry("note.log", None, {"message": secret})
    said = [SHARED, {"role": "user", "content": f"asked {secret} " * 100}]
    log.call(1, said, completion({"content": f"answered {secret}"}))
    log.call(2, [*said, {"role": "user", "content": secret}], completion({"content": secret}))
    named: dict[str, Any] = {"name": "go", "digest": "d" * 32, "prompt": secret}
    create_wait(
        c,
        run,
        log.epoch,
        NewWait(op=OpId("wait:go#1"), kind="wait", **named, data={"s": secret}),
        now,
    )
    send_event(c, run, "happened", {"s": secret}, now=now, by=secret, event=f"event-{secret}")
    record_snapshot(
        c,
        NewSnapshot(
            version=VERSION,
            manifest=f"manifest{secret}",
            bytes=1,
            pause_ms=1.0,
            freeze_ms=1.0,
            created_at=now,
            run=run,
            epoch=log.epoch,
            position=Position(printed={OpId(secret): {}}),
        ),
    )
    token = {"id": f"token-{secret}", "name": secret, "digest": secret, "scopes": [], "run": run}
    c.execute(schema.api_keys.insert(), [{**token, "created_at": now}])
    put_value(c, ValueRow(run, f"digest{secret}", 1, True, f"value{secret}"))
    end(c, run, log.epoch, secret, now + 10)
    return run


def end(c: Connection, run: RunId, epoch: Epoch, secret: str, now: float) -> None:
    transition(c, run, epoch, RunState.COMPLETED, now, result={"r": secret})


def remove(commit: Any, run: RunId) -> deletion.Gone:
    unused = commit(lambda c: deletion.mark(c, run))
    gone: deletion.Gone = commit(lambda c: deletion.delete_run(c, run, unused))
    return gone


def file_of(commit: Any) -> bytes:
    path: Path = commit._store.path
    with sqlite3.connect(path) as c:
        c.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.read_bytes() + path.with_name(path.name + "-wal").read_bytes()


def rows(commit: Any) -> dict[str, int]:
    def count(c: Connection) -> dict[str, int]:
        tables = schema.metadata.sorted_tables
        return {t.name: c.scalar(select(func.count()).select_from(t)) or 0 for t in tables}

    return dict(commit(count))


def whole(commit: Any, run: RunId) -> str:
    def read(c: Connection) -> str:
        log = [entry.to_json() for entry in read_entries(c, run, limit=10_000)]
        return json.dumps([log, str(get_run(c, run))])

    return str(commit(read))


def test_nothing_is_left_of_a_run_and_all_of_another(commit: Any) -> None:
    other = commit(lambda c: work(c, "OTHERSECRET"))
    before, log = rows(commit), whole(commit, other)
    run = commit(lambda c: work(c, "DOOMEDSECRET"))
    assert b"DOOMEDSECRET" in file_of(commit)
    gone = remove(commit, run)
    assert gone.manifests == {"manifestDOOMEDSECRET"} and gone.values == {"valueDOOMEDSECRET"}
    left = file_of(commit)
    assert b"DOOMEDSECRET" not in left and run.encode() not in left
    assert rows(commit) == before
    assert whole(commit, other) == log and "what everybody says" in log
    with pytest.raises(NotFound):
        remove(commit, run)
    again = commit(lambda c: work(c, "DOOMEDSECRET"))  # its key may be used again
    assert again != run


def test_what_is_sent_meanwhile_in_the_same_words_stays(commit: Any) -> None:
    run = commit(lambda c: work(c, "SAME"))
    unused = commit(lambda c: deletion.mark(c, run))
    said = [SHARED, {"role": "user", "content": "asked SAME " * 100}]

    def send(c: Connection) -> RunId:
        late = create_run(c, version=VERSION, agent="a", input={}, now=200.0).id
        Log(c, late, claim(c, late, 200.0)).call(1, said, completion({"content": "x"}))
        return late

    late = commit(send)
    log = whole(commit, late)
    commit(lambda c: deletion.delete_run(c, run, unused))
    assert whole(commit, late) == log and "asked SAME" in log
    commit(lambda c: end(c, late, get_run(c, late).epoch, "", 300.0))
    remove(commit, late)
    assert rows(commit)["messages"] == rows(commit)["conversations"] == 0


def test_one_that_has_not_ended_or_is_shared_is_refused(commit: Any) -> None:
    running, epoch = commit.claimed()
    with pytest.raises(Conflict, match="has not ended: it is running") as refused:
        remove(commit, running)
    assert refused.value.hint == f"Cancel it first: torpor cancel {running}"
    run = commit(lambda c: work(c, "ORIGIN"))

    def fork(c: Connection) -> RunId:
        row = get_run(c, run)
        return fork_run(c, row, fork_of(row, Seq(9)), lambda *_: b"", 300.0).id

    first, second = commit(fork), commit(fork)
    logs = whole(commit, second)
    with pytest.raises(Conflict, match=f"{first}, {second}") as refused:
        remove(commit, run)
    assert f"torpor delete {first} {second} {run}" in refused.value.hint
    commit(lambda c: transition(c, first, None, RunState.CANCELLED, 400.0))
    remove(commit, first)  # a sibling takes nothing of the other
    assert whole(commit, second) == logs
    commit(lambda c: transition(c, second, None, RunState.CANCELLED, 400.0))
    for each in (second, run):
        remove(commit, each)
    assert b"ORIGIN" not in file_of(commit)
    commit(lambda c: end(c, running, epoch, "", 500.0))


def test_entries_cannot_be_deleted_otherwise(commit: Any) -> None:
    run = commit(lambda c: work(c, "KEPT"))
    mine = schema.entries.c.run == run
    for where in (mine, mine & (schema.entries.c.seq == 3)):
        with pytest.raises(IntegrityError, match="append-only"):
            commit(lambda c, where=where: c.execute(delete(schema.entries).where(where)))
    assert rows(commit)["deleting"] == 0


def test_what_retention_may_take(commit: Any) -> None:
    runs, snapshots = schema.runs, schema.snapshots
    old = commit(lambda c: work(c, "OLD", now=100.0))
    key_in_force = commit(lambda c: work(c, "KEYED", 101.0, start=Start(id_key_for_s=1000.0)))
    parent, _ = commit.claimed()
    origin = commit(lambda c: work(c, "ORIGIN", 103.0))

    def others(c: Connection) -> None:
        child = runs.c.id == work(c, "CHILD", 102.0)
        c.execute(runs.update().where(child).values(parent=parent))
        row = get_run(c, origin)
        fork_run(c, row, fork_of(row, Seq(9)), lambda *_: b"", 300.0)
        pinned = snapshots.c.run == work(c, "PINNED", 104.0)
        c.execute(snapshots.update().where(pinned).values(pinned=True))

    commit(others)
    new = commit(lambda c: work(c, "NEW", now=500.0))

    def may(now: float, before: float | None) -> list[RunId]:
        return list(commit(lambda c: deletion.deletable(c, now, 10, before)))

    assert may(600.0, 400.0) == [old]
    assert may(600.0, None) == [old, new]
    assert may(2000.0, 400.0) == [old, key_in_force]


def test_free_pages_are_given_back(commit: Any) -> None:
    run = commit(lambda c: printed(c, "x" * 100_000))
    large = len(file_of(commit))
    remove(commit, run)
    commit._runner.run(commit._store.give_back())
    assert len(file_of(commit)) < large - 4_000_000
    with sqlite3.connect(commit._store.path) as c:
        assert c.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert c.execute("PRAGMA freelist_count").fetchone() == (0,)


def printed(c: Connection, text: str) -> RunId:
    run = create_run(c, version=VERSION, agent="a", input={}, now=100.0).id
    epoch = claim(c, run, 100.0)
    for n in range(50):
        append_output(c, run, epoch, Piece("stdout", n * len(text), text), 100.0)
    end(c, run, epoch, "", 200.0)
    return run
