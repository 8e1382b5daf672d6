"""Artifacts and what is kept at the end, with real processes for agents, killed where it may
hurt."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from blake3 import blake3

from torpor.contextlog import deletion, forks, runs
from torpor.contextlog.artifacts import list_artifacts
from torpor.contextlog.forks import fork_of, fork_run
from torpor.contextlog.runs import RunRow
from torpor.contextlog.values import value_names
from torpor.control.service.files import Artifacts
from torpor.core.errors import Invalid, NotFound
from torpor.core.ids import OpId, RunId, Seq
from torpor.core.states import RunState
from torpor.snapshot.values import Incoming
from torpor.testing.fakes.plain import Plain
from torpor.worker import values

pytestmark = pytest.mark.anyio


AGENT = """
import asyncio, os, threading, time
import torpor

@torpor.step
def render(text):
    open("page.html", "w").write(text)
    return torpor.artifact("page.html").size

@torpor.agent
def story():
    os.makedirs("out")
    open("out/a.csv", "w").write("a,b\\n" * 400_000)
    told = [vars(torpor.artifact("out/a.csv"))]
    told.append(render("<p>"))
    told.append(torpor.approve("go on?").approved)
    open("out/a.csv", "a").write("more\\n")
    told.append(vars(torpor.artifact("out/a.csv")))
    told.append(torpor.artifact(data="text", name="note.txt", media_type="text/x-note").size)
    open("left.txt", "w").write("left")
    return told

@torpor.agent
def fails():
    open("left.txt", "w").write("left")
    os.makedirs("__pycache__", exist_ok=True)
    open("__pycache__/x.pyc", "w").write("junk")
    raise RuntimeError("for a reason")

@torpor.step
def breaks():
    open("left.txt", "w").write("left")
    raise KeyError("x")

@torpor.agent
def other():
    try:
        breaks()
    except KeyError:
        raise RuntimeError("another error") from None

@torpor.agent
def odd():
    open(b"no\\xfftext", "w").close()
    open("two\\nlines", "w").close()
    os.symlink("two\\nlines", "link")
    open("fine", "w").close()

@torpor.agent
def lingers(how):
    open("left.txt", "w").write("left")
    torpor.emit("written")
    if how == "waits":
        torpor.approve("go on?")
    while True:
        time.sleep(0.01)

@torpor.agent
def given(spoil):
    if spoil:
        open("in/data.csv", "a").write("more")
    return sorted(os.listdir("in"))

@torpor.agent
def nothing():
    return 1

@torpor.agent
def refused():
    told = []
    os.mkdir("d")
    for arguments in (
        {"path": "d"}, {"path": "none.txt"}, {}, {"path": "x", "data": b"x"}, {"data": b"x"},
        {"data": b"x", "name": "../x"}, {"data": b"x", "name": "/etc/x"}, {"data": 1, "name": "x"},
        {"data": b"x", "name": "x", "media_type": "text\\n"}, {"path": "/dev/null"},
    ):
        try:
            torpor.artifact(**arguments)
        except (OSError, ValueError, TypeError) as error:
            told.append(f"{type(error).__name__}: {error}")
    return told

@torpor.agent
def lost():
    try:
        torpor.artifact(data=b"x" * 10, name="x")
    except OSError as error:
        first = str(error)
    torpor.approve("go on?")
    return first

@torpor.agent
async def crowd():
    def publish(n):
        return torpor.artifact(data=str(n), name=f"{n}.txt").size
    sizes = await asyncio.gather(*(asyncio.to_thread(publish, n) for n in range(100)))
    return sum(sizes)

@torpor.agent
def many():
    for n in range(230):
        open(f"{n:03}.txt", "w").write(str(n))
    open("empty", "w").close()
    with open("huge", "wb") as file:
        file.truncate(65 << 20)
"""
CSV = b"a,b\n" * 400_000
FIRST = {"name": "out/a.csv", "size": len(CSV), "digest": blake3(CSV).hexdigest()}
SECOND = {
    "name": "out/a.csv",
    "size": len(CSV) + 5,
    "digest": blake3(CSV + b"more\n").hexdigest(),
}
STORY = [FIRST, 3, True, SECOND, 4]


def reached(seq: int, row: RunRow) -> bool:
    return row.last_seq >= seq or row.state is RunState.COMPLETED


async def listed(plain: Plain, run: RunId) -> list[tuple[str, int, int, bool]]:
    found = await Artifacts(plain.store, plain.scheduler.shared.values).list(run)
    return [(each["name"], each["version"], each["bytes"], each["kept"]) for each in found]


async def content(plain: Plain, run: RunId, name: str, version: int | None = None) -> bytes:
    artifacts = Artifacts(plain.store, plain.scheduler.shared.values)
    _, content = await artifacts.content(run, name, version)
    return b"".join(content)


ALL = [
    ("note.txt", 1, 4, False),
    ("out/a.csv", 2, len(CSV) + 5, False),
    ("out/a.csv", 1, len(CSV), False),
    ("page.html", 1, 3, False),
    ("left.txt", 1, 4, True),
]


async def test_what_is_published_is_there_when_the_run_has_ended(plain: Plain, hasty: None) -> None:
    run = await plain.run(await plain.deploy(AGENT), "story")
    await plain.suspended(run)
    assert await listed(plain, run) == [ALL[2], ALL[3]]
    await plain.answer(run, approved=True)
    assert await plain.result(run) == STORY
    assert await listed(plain, run) == ALL
    assert await content(plain, run, "out/a.csv", 1) == CSV
    assert await content(plain, run, "out/a.csv") == CSV + b"more\n"
    assert await content(plain, run, "left.txt") == b"left"
    with pytest.raises(NotFound, match="no artifact 'nope'"):
        await content(plain, run, "nope")
    with pytest.raises(NotFound, match="in version 3"):
        await content(plain, run, "out/a.csv", 3)
    found = await Artifacts(plain.store, plain.scheduler.shared.values).list(run)
    types = {each["name"]: (each["media_type"], each["step"]) for each in found}
    assert types["page.html"] == ("text/html", "step:render#1")
    assert types["note.txt"] == ("text/x-note", None)
    # Replayed after the wait: sent once each.
    assert len([op for op in await plain.ops(run, "op.begin") if op and "a.csv" in op]) == 2


async def test_killed_after_every_entry_of_its_log(plain: Plain) -> None:
    """kill -9 as soon as the k-th entry is there, for each k: what was recorded is not sent again,
    what was cut off is, and nothing diverges."""
    version = await plain.deploy(AGENT)
    for k in range(1, 24):
        run = await plain.run(version, "story")
        answered = False

        async def answer(run: RunId = run) -> None:
            await plain.answer(run, approved=True)

        answering = asyncio.create_task(answer())
        row = await plain.until(run, partial(reached, k))
        if row.state is RunState.COMPLETED:
            answered = True
        else:
            await plain.kill(run)
        assert await plain.result(run) == STORY, k
        await answering
        assert await content(plain, run, "out/a.csv") == CSV + b"more\n"
        names = {(name, kept) for name, _, _, kept in await listed(plain, run)}
        assert names == {(name, kept) for name, _, _, kept in ALL}, k
        ended = [op for op in await plain.ops(run, "op.end") if op and op.startswith("artifact:")]
        assert len(ended) == 3, k
        if answered:
            return


async def test_the_server_goes_in_the_middle_of_an_upload(
    plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    came = asyncio.Event()
    loop = asyncio.get_running_loop()
    spool = values.Results.spool

    def counted(self: values.Results, op: OpId, data: bytes) -> None:
        spool(self, op, data)
        loop.call_soon(came.set)

    monkeypatch.setattr(values.Results, "spool", counted)
    run = await plain.run(await plain.deploy(AGENT), "story")
    await came.wait()
    await plain.stop()
    await plain.start()
    await plain.answer(run, approved=True)
    assert await plain.result(run) == STORY
    assert await listed(plain, run) == ALL
    assert await content(plain, run, "out/a.csv", 1) == CSV


async def test_a_run_that_fails_leaves_its_files(plain: Plain) -> None:
    run = await plain.run(await plain.deploy(AGENT), "fails")
    row = await plain.ended(run)
    assert row.state is RunState.FAILED and row.error is not None
    assert row.error["message"] == "for a reason"
    assert await listed(plain, run) == [("left.txt", 1, 4, True)]
    assert await content(plain, run, "left.txt") == b"left"


async def test_a_run_that_wrote_nothing_says_nothing_more(plain: Plain) -> None:
    run = await plain.run(await plain.deploy(AGENT), "nothing")
    await plain.ended(run)
    kinds = [entry.kind for entry in await plain.entries(run)]
    assert kinds == ["run.created", "run.started", "machine.up", "run.completed"]


async def test_what_cannot_be_published_says_what_to_do(plain: Plain) -> None:
    run = await plain.run(await plain.deploy(AGENT), "refused")
    told = await plain.result(run)
    expected = (
        ("IsADirectoryError", "shutil.make_archive"),
        ("FileNotFoundError", "none.txt"),
        ("TypeError", "give the path of a file"),
        ("TypeError", "not both"),
        ("TypeError", "give it name="),
        ("ValueError", "relative path"),
        ("ValueError", "relative path"),
        ("TypeError", "data must be bytes or text"),
        ("ValueError", "such as text/csv"),
        ("ValueError", "not a file"),
    )
    for (kind, words), said in zip(expected, told, strict=True):
        assert said.startswith(f"{kind}: ") and words in said
    assert await plain.ops(run, "op.begin") == []


async def test_one_that_cannot_be_stored_is_the_agents_to_catch(
    plain: Plain, monkeypatch: pytest.MonkeyPatch, hasty: None
) -> None:
    """The same error when it happens and when it is replayed."""

    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Incoming, "store", broken)
    run = await plain.run(await plain.deploy(AGENT), "lost")
    await plain.suspended(run)
    await plain.answer(run, approved=True)
    assert "could not be stored" in await plain.result(run)
    assert await listed(plain, run) == []


@pytest.mark.parametrize("after", [None, 40, 150])
async def test_many_at_once(plain: Plain, after: int | None) -> None:
    """From threads; killed when the log has so many entries."""
    run = await plain.run(await plain.deploy(AGENT), "crowd")
    if after is not None:
        await plain.until(run, partial(reached, after))
        await plain.kill(run)
    assert await plain.result(run) == 190
    assert len(await listed(plain, run)) == 100


async def test_what_is_not_kept_is_named(plain: Plain) -> None:
    run = await plain.run(await plain.deploy(AGENT), "many")
    await plain.ended(run)
    assert len(await listed(plain, run)) == 200
    assert ("empty", 1, 0, True) in await listed(plain, run)
    (note,) = await plain.entries(run, "note.log")
    assert note.data["level"] == "warning"
    for words in ("200.txt", "and 27 more", "64 MiB", "torpor.artifact(path)"):
        assert words in note.data["message"]


async def test_a_fork_has_what_was_published_before_its_place(plain: Plain, hasty: None) -> None:
    run = await plain.run(await plain.deploy(AGENT), "story")
    await plain.suspended(run)
    place = (await plain.row(run)).last_seq
    await plain.answer(run, approved=True)
    await plain.ended(run)
    begun = await plain.entries(run, "op.begin")
    (asked,) = [entry for entry in begun if entry.op == "wait:approve#1"]
    assert asked.seq <= place
    origin = await plain.row(run)
    fork = await plain.store.write(
        lambda c: fork_run(c, origin, fork_of(origin, Seq(asked.seq)), lambda *_: b"", 9.0)
    )
    assert await listed(plain, fork.id) == [ALL[2], ALL[3]]
    assert await content(plain, fork.id, "out/a.csv") == CSV
    await plain.answer(fork.id, approved=True)
    assert await plain.result(fork.id) == STORY
    assert await listed(plain, fork.id) == ALL
    # A retry of what ended does not inherit what was kept at that end.
    assert [each.kept for each in await plain.store.read(lambda c: list_artifacts(c, run))][-1]
    retry = await plain.store.write(
        lambda c: fork_run(c, origin, forks.retry_of(c, origin), lambda *_: b"", 9.0)
    )
    assert (await listed(plain, retry.id))[-1] == ALL[3]


async def test_they_go_with_their_run(plain: Plain) -> None:
    run = await plain.run(await plain.deploy(AGENT), "fails")
    await plain.ended(run)
    assert await plain.store.read(value_names)
    unused = await plain.store.read(lambda c: deletion.mark(c, run))
    await plain.store.write(lambda c: deletion.delete_run(c, run, unused))
    assert not await plain.store.read(value_names)


async def test_a_published_file_cannot_be_set_to_something_else(plain: Plain) -> None:
    run = await plain.run(await plain.deploy(AGENT), "crowd")
    await plain.ended(run)
    origin = await plain.row(run)
    fork = fork_of(origin, Seq(origin.last_seq - 1), set={OpId("artifact:7.txt#1"): 1})
    with pytest.raises(Invalid, match="published a file"):
        await plain.store.write(lambda c: fork_run(c, origin, fork, lambda *_: b"", 9.0))


async def test_what_is_kept_hides_no_failure_from_a_retry(plain: Plain) -> None:
    """What failed last is tried again, though something was kept after it."""
    run = await plain.run(await plain.deploy(AGENT), "other")
    assert (await plain.ended(run)).state is RunState.FAILED
    assert [row[3] for row in await listed(plain, run)] == [True]
    origin = await plain.row(run)
    assert await plain.store.read(lambda c: forks.failures(c, origin)) == {"step:breaks#1"}


@pytest.mark.parametrize("spoil", [True, False])
async def test_files_of_the_run_are_kept_only_if_they_were_changed(
    plain: Plain, spoil: bool
) -> None:
    async def coming() -> AsyncIterator[bytes]:
        yield b"a,b"

    digest = blake3(b"a,b").hexdigest()
    await plain.files.receive(coming(), digest, 3)
    version = await plain.deploy(AGENT)
    files = dict.fromkeys(("in/data.csv", "in/other.csv"), digest)
    run = await plain.run(version, "given", files=files, spoil=spoil)
    assert await plain.result(run) == ["data.csv", "other.csv"]
    assert await listed(plain, run) == ([("in/data.csv", 1, 7, True)] if spoil else [])


@pytest.mark.parametrize("how", ["waits", "computes"])
async def test_a_run_that_is_cancelled_at_work_leaves_its_files(plain: Plain, how: str) -> None:
    run = await plain.run(await plain.deploy(AGENT), "lingers", how=how)
    with plain.store.subscribe(run) as subscription:
        while not await plain.entries(run, "note.emit"):
            await subscription.wait()
    await plain.store.write(lambda c: runs.request_cancel(c, run, time.time()))
    plain.scheduler.drivers[run].cancel()
    assert (await plain.ended(run)).state is RunState.CANCELLED
    assert await listed(plain, run) == [("left.txt", 1, 4, True)]


async def test_a_name_that_is_no_text_is_named_all_the_same(plain: Plain) -> None:
    run = await plain.run(await plain.deploy(AGENT), "odd")
    await plain.result(run)
    assert await listed(plain, run) == [("fine", 1, 0, True)]
    (note,) = await plain.entries(run, "note.log")
    assert r"no\udcfftext" in note.data["message"] and r"two\nlines" in note.data["message"]
