"""The `process` engine: agents as plain processes, killed wherever that may hurt."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.e2e.stage import wait_gone

from torpor.contextlog import forks, waits
from torpor.contextlog.runs import RunRow
from torpor.core.agentfile import AgentSource
from torpor.core.bodies import stored_body
from torpor.core.errors import GuestError
from torpor.core.ids import RunId, Seq
from torpor.core.rules import parse_rules
from torpor.core.starting import Start
from torpor.core.states import FINAL, RunState
from torpor.egress.upstream import Request
from torpor.engine.process import NAME as PROCESS
from torpor.machines.channel import Output, Skipped
from torpor.testing.fakes.broker import Reply
from torpor.testing.fakes.plain import PROCESS_STUCK_S, Plain
from torpor.wire import names
from torpor.wire.messages import TO_PROCESS, decode
from torpor.wire.streams import LINE
from torpor.worker.loading import logged
from torpor.worker.processguest import MarkedOutput, ProcessGuest

EXAMPLES = Path(__file__).parents[3] / "examples"

pytestmark = pytest.mark.anyio


LEDGER = '''
import os, sys, subprocess, threading, asyncio, urllib.request
import torpor

def ask(question):
    url = os.environ["OPENAI_BASE_URL"] + "/responses"
    request = urllib.request.Request(url, question.encode())
    with urllib.request.urlopen(request) as answer:
        return answer.read().decode()

@torpor.step
def spend(ledger, what):
    print("spending", what)
    with open(ledger, "a") as file:
        file.write(what + "\\n")
    return what

@torpor.agent
def story(ledger):
    """One of everything, in a settled order."""
    print("begun")
    told = [spend(ledger, "a")]
    subprocess.run(["echo", "by another program"])
    told.append(ask("how?"))
    print("then", file=sys.stderr)
    told.append(spend(ledger, "b"))
    torpor.log("half way")
    told.append(torpor.approve("go on?").approved)
    print("approved")
    torpor.sleep(0.05)
    torpor.checkpoint()
    told.append(spend(ledger, "c"))
    print("done")
    return told

@torpor.agent
async def crowd(ledger):
    async def work(name):
        return await asyncio.to_thread(spend, ledger, name)
    first = await asyncio.gather(*(work(f"w{n}") for n in range(5)))
    verdict = await torpor.approve("go on?")
    return [first, verdict.approved, await work("last")]
'''
STORY = ["a", "answer 1", "b", True, "c"]
PRINTED = (
    "begun\nspending a\nby another program\nspending b\napproved\nspending c\ndone\n",
    "then\n",
)


def reached(seq: int, row: RunRow) -> bool:
    return row.last_seq >= seq or row.state in FINAL


async def streams(plain: Plain, run: Any) -> tuple[str, str]:
    said = {"stdout": "", "stderr": ""}
    for entry in await plain.entries(run, "output"):
        said[entry.data["stream"]] += entry.data["text"]
    return said["stdout"], said["stderr"]


async def test_a_run_from_beginning_to_end(plain: Plain, tmp_path: Path) -> None:
    version = await plain.deploy(LEDGER)
    run = await plain.run(version, "story", ledger=str(tmp_path / "ledger"))
    await plain.answer(run, approved=True)
    assert await plain.result(run) == STORY
    assert await streams(plain, run) == PRINTED
    assert (tmp_path / "ledger").read_text() == "a\nb\nc\n"
    assert (await plain.row(run)).engine == "process"
    (created,) = await plain.entries(run, "run.created")
    assert created.data["engine"] == "process"


async def test_what_its_host_sends_is_of_the_vocabulary(
    plain: Plain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[bytes] = []
    send = ProcessGuest.say_line

    def sent(self: ProcessGuest, line: bytes) -> None:
        lines.append(line)
        send(self, line)

    monkeypatch.setattr(ProcessGuest, "say_line", sent)
    run = await plain.run(
        await plain.deploy("import random\n" + LEDGER), "story", ledger=str(tmp_path / "ledger")
    )
    await plain.open_wait(run)
    live = plain.scheduler.drivers[run].live
    assert live is not None
    await live.kill()
    await plain.answer(run, approved=True)
    assert await plain.result(run) == STORY
    await plain.stop()
    types = {decode(line, TO_PROCESS)["t"] for line in lines if not line.startswith(LINE)}
    assert {names.LOAD, names.START, names.RECORDED, names.RESULT} <= types


async def test_killed_after_every_entry_of_its_log(plain: Plain, tmp_path: Path) -> None:
    """kill -9 of the agent as soon as the k-th entry is there, for each k: the same result, the
    same output, no recorded step again, and what was done again is marked."""
    version = await plain.deploy(LEDGER)
    killed = 0
    for k in range(1, 40):
        ledger = tmp_path / f"ledger-{k}"
        plain.upstream.requests.clear()
        run = await plain.run(version, "story", ledger=str(ledger))
        answering = asyncio.create_task(plain.answer(run, approved=True))
        row = await plain.until(run, partial(reached, k))
        if row.state is RunState.COMPLETED:
            await answering
            break
        await plain.kill(run)
        killed += 1
        told = await plain.result(run)
        await answering
        assert (told[0], *told[2:]) == ("a", "b", True, "c"), k
        assert await streams(plain, run) == PRINTED, k
        spent = Counter(ledger.read_text().split())
        again = Counter(str(op) for op in await plain.ops(run, "op.again"))
        for what, step in (("a", 1), ("b", 2), ("c", 3)):
            marked = again[f"step:spend#{step}"]
            assert 1 <= spent[what] <= 1 + marked, (k, spent, again)
        assert len(plain.requests) == 1, k
        assert not [op for op in again if op.startswith("model:")], k
    assert killed > 10


HASTY = '''
import http.client, os, torpor
from urllib.parse import urlsplit

def ask(timeout):
    where = urlsplit(os.environ["OPENAI_BASE_URL"]).netloc
    connection = http.client.HTTPConnection(where, timeout=timeout)
    try:
        connection.request("POST", "/v1/responses", "{}")
        return connection.getresponse().read().decode()
    finally:
        connection.close()

@torpor.agent
def hasty(tries):
    """Gives up, and asks again, as clients do."""
    for _ in range(tries):
        try:
            ask(0.01)
        except TimeoutError:
            print("gave up", flush=True)
    return [ask(None), ask(None)]
'''


async def test_a_client_that_gives_up_and_asks_again_joins_its_call(plain: Plain) -> None:
    let = asyncio.Event()

    async def held(request: Request) -> Reply:
        number = len(plain.requests)
        await let.wait()
        return Reply(200, {}, b"answer %d" % number)

    plain.upstream.answers = held
    run = await plain.run(await plain.deploy(HASTY), tries=3)
    with plain.store.subscribe(run) as subscription:
        while (await plain.output(run)).count("gave up") < 3:
            await subscription.wait()
    let.set()
    assert await plain.result(run) == ["answer 1", "answer 2"]
    assert len(plain.requests) == 2


ASKING = """
import os, time, urllib.request
import torpor

@torpor.agent
def ask(times):
    answers = []
    for number in range(1, times + 1):
        url = os.environ["OPENAI_BASE_URL"] + "/responses"
        with urllib.request.urlopen(urllib.request.Request(url, b"%d" % number)) as answer:
            answers.append(answer.read().decode())
        if torpor.run.epoch == number:
            time.sleep(3600)  # until it is killed
    return answers
"""


async def test_a_model_call_is_progress(plain: Plain) -> None:
    """An agent that is lost after each of its calls is not one that gets nothing done."""
    times = 4  # more than may be lost in a row without any
    run = await plain.run(await plain.deploy(ASKING), times=times)
    for number in range(1, times + 1):
        # Created and started, then for each life: it is up, a call, its answer, recovered.
        await plain.until(run, partial(reached, 1 + 4 * number))
        await plain.kill(run)
    assert await plain.result(run) == [f"answer {number}" for number in range(1, times + 1)]
    assert len(await plain.entries(run, "run.recovered")) == len(plain.requests) == times


async def test_concurrent_steps_killed_again_and_again(plain: Plain, tmp_path: Path) -> None:
    version = await plain.deploy(LEDGER)
    for k in (3, 5, 8, 11, 13):
        ledger = tmp_path / f"ledger-{k}"
        run = await plain.run(version, "crowd", ledger=str(ledger))
        answering = asyncio.create_task(plain.answer(run, approved=False))
        for more in (0, 2):
            row = await plain.until(run, partial(reached, k + more))
            if row.state is RunState.RUNNING:
                await plain.kill(run)
        told = await plain.result(run)
        await answering
        assert told == [["w0", "w1", "w2", "w3", "w4"], False, "last"]
        spent = Counter(ledger.read_text().split())
        again = len(await plain.ops(run, "op.again"))
        assert spent.total() <= len(spent) + again
        assert set(spent) == {"w0", "w1", "w2", "w3", "w4", "last"}


async def test_a_wait_that_is_long_takes_no_process(
    plain: Plain, hasty: None, tmp_path: Path
) -> None:
    version = await plain.deploy(LEDGER)
    run = await plain.run(version, "story", ledger=str(tmp_path / "ledger"))
    await plain.suspended(run)
    await plain.answer(run, approved=True)
    assert await plain.result(run) == STORY
    assert await streams(plain, run) == PRINTED
    assert (tmp_path / "ledger").read_text() == "a\nb\nc\n"
    assert len(plain.requests) == 1
    resumed = await plain.entries(run, "run.resumed")
    assert len(resumed) == len(await plain.entries(run, "run.suspended")) >= 1
    assert not await plain.entries(run, "op.again")


async def test_a_server_that_starts_again_goes_on_from_the_log(
    plain: Plain, tmp_path: Path
) -> None:
    version = await plain.deploy(LEDGER)
    run = await plain.run(version, "story", ledger=str(tmp_path / "ledger"))
    await plain.open_wait(run)
    pid = await plain.pid(run)
    assert pid is not None
    await plain.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    await plain.start()
    await plain.answer(run, approved=True)
    assert await plain.result(run) == STORY
    assert await streams(plain, run) == PRINTED


async def test_what_is_said_again_is_in_the_log_once(plain: Plain, tmp_path: Path) -> None:
    version = await plain.deploy(
        """
import os, signal
from pathlib import Path
import torpor

@torpor.step
def write(number):
    torpor.log("written", number=number)

@torpor.agent
def main(killed):
    torpor.emit("first")
    write(1)
    torpor.log("written", number=1)
    torpor.emit("tick")
    torpor.emit("tick")
    if not Path(killed).exists():
        Path(killed).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    torpor.emit("tick")
    write(2)
    torpor.emit("tick")
"""
    )
    run = await plain.run(version, "main", killed=str(tmp_path / "killed"))
    await plain.result(run)
    assert len(await plain.entries(run, "run.recovered")) == 1
    said = [
        (each.op, each.data.get("value") or each.data["data"]["number"])
        for each in await plain.entries(run, "note.emit", "note.log")
    ]
    assert said == [
        (None, "first"),
        ("step:write#1", 1),
        (None, 1),
        *[(None, "tick")] * 3,
        ("step:write#2", 2),
        (None, "tick"),
    ]


FILES = """
import os, sqlite3, subprocess, threading, torpor
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

Path("imported").write_text("by the file")

def note(name, what):
    with open(name, "a") as file:
        file.write(what)

@torpor.step
def write():
    note("step", "once ")
    note("both", "step ")
    (Path.home() / "too").write_text("home")
    subprocess.run(["sh", "-c", "mkdir -p cloned/empty && echo x > cloned/a && ln -s a cloned/l"])
    with ThreadPoolExecutor(1) as pool:
        pool.submit(note, "threaded", "once").result()
    Path("gone").unlink()

@torpor.step
def beside(table):
    "While it runs, a checkpointer writes."
    busy.set()
    written.wait()
    note("step", f"{table} ")

busy, written = threading.Event(), threading.Event()

@torpor.agent
def main():
    seen = sorted(os.listdir("."))
    note("agent", "once ")
    note("both", "agent ")
    note("gone", "soon")
    write()
    torpor.approve("one?")
    with sqlite3.connect("state.db") as db:
        db.execute("create table t (n)")
        def save():
            busy.wait()
            with sqlite3.connect("state.db") as other:
                other.execute("insert into t values (1)")
            written.set()
        saver = threading.Thread(target=save)
        saver.start()
        beside("t")
        busy.set()
        saver.join()
        db.execute("insert into t values (2)")
    torpor.approve("two?")
    note("both", "agent ")
    names = ("agent", "both", "step", "threaded", "imported")
    told = {name: Path(name).read_text() for name in names}
    rows = sqlite3.connect("state.db").execute("select n from t order by n").fetchall()
    home, link = (Path.home() / "too").read_text(), os.readlink("cloned/l")
    return [seen, told, home, rows, sorted(os.listdir(".")), link]
"""
PROJECT = ["agent.py"]
MADE = ["agent", "both", "cloned", "imported", "state.db", "step", "threaded"]
LEFT = sorted([*PROJECT, *MADE])
TOLD = [
    [*PROJECT, "imported"],  # a replay finds nothing of an earlier life
    {
        "agent": "once ",
        "both": "agent step agent ",
        "step": "once t ",
        "threaded": "once",
        "imported": "by the file",
    },
    "home",
    [[1], [2]],
    LEFT,
    "a",
]


async def test_a_replay_finds_no_files_but_those_of_steps_that_it_does_not_run(
    plain: Plain, hasty: None
) -> None:
    run = await plain.run(await plain.deploy(FILES))
    for _ in ("one?", "two?"):
        await plain.suspended(run)
        await plain.answer(run, approved=True)
    assert await plain.result(run) == TOLD
    assert sorted(path.name for path in (plain.home.work / run / "work").iterdir()) == LEFT
    # A fork replays the steps that it shares.
    (at,) = [e.seq for e in await plain.entries(run, "op.begin") if e.op == "wait:approve#2"]
    origin = await plain.row(run)
    fork = await plain.store.write(
        lambda c: forks.fork_run(c, origin, forks.fork_of(origin, at), lambda *_: b"", time.time())
    )
    await plain.suspended(fork.id)
    await plain.answer(fork.id, approved=True)
    assert await plain.result(fork.id) == TOLD
    ended, later = (await plain.row(run)).ended_at, (await plain.row(fork.id)).ended_at
    assert ended is not None and later is not None
    await plain.carriers.sweep((ended + later) / 2)
    assert not any(path.exists() for path in plain.home.files_of(run))
    assert all(path.exists() for path in plain.home.files_of(fork.id))


OVERLAPPING = """
import os, signal, threading, torpor
from pathlib import Path

def note(name, what):
    with open(name, "a") as file:
        file.write(what)

began, ended, noted = threading.Event(), threading.Event(), threading.Event()

@torpor.step
def long():
    note("own", "long ")
    began.set()
    ended.wait()

@torpor.step
def short():
    note("shared", "short ")

@torpor.agent
def main(lives, crash):
    note(lives, "one ")
    life = len(Path(lives).read_text().split())
    replayed = life == (3 if crash else 2)
    def side():
        if replayed:
            noted.wait()  # now the long one is the last to be done again
        long()
    thread = threading.Thread(target=side)
    thread.start()
    if not replayed:
        began.wait()
    short()
    if crash and life == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ended.set()
    if not replayed:
        thread.join()
    note("shared", "agent ")
    noted.set()
    thread.join()
    torpor.approve("?")
    return [Path(name).read_text() for name in ("own", "shared")]
"""


@pytest.mark.parametrize("crash", [False, True])
async def test_what_a_step_wrote_while_another_ran_is_its_own(
    plain: Plain, tmp_path: Path, hasty: None, crash: bool
) -> None:
    """The other one, done again later, put back a file as it was when that step had ended, or (the
    crash) as it was when it had been done again beside it."""
    lives = str(tmp_path / "lives")
    run = await plain.run(await plain.deploy(OVERLAPPING), lives=lives, crash=crash)
    await plain.suspended(run)
    await plain.answer(run, approved=True)
    assert await plain.result(run) == ["long ", "short agent "]


async def test_files_of_steps_are_there_after_every_crash(plain: Plain) -> None:
    """Killed as soon as the k-th entry is there; in the middle of a step, that begins anew."""
    version = await plain.deploy(FILES)
    for k in range(3, 30):
        run = await plain.run(version)
        approving = asyncio.create_task(approve_all(plain, run))
        killed = (await plain.until(run, partial(reached, k))).state is not RunState.COMPLETED
        if killed:
            await plain.kill(run)
        assert await plain.result(run) == TOLD, k
        await approving
        if not killed:
            break


async def approve_all(plain: Plain, run: RunId) -> None:
    with plain.store.subscribe(run) as subscription:
        while (await plain.row(run)).state not in FINAL:
            if await plain.store.read(lambda c: waits.list_waits(c, run)):
                await plain.answer(run, approved=True)
            await subscription.wait()


async def test_its_files_go_some_time_after_it_has_ended(plain: Plain, tmp_path: Path) -> None:
    version = await plain.deploy(LEDGER)
    ended, waiting = [
        await plain.run(version, "story", ledger=str(tmp_path / name)) for name in ("a", "b")
    ]
    await plain.answer(ended, approved=True)
    await plain.result(ended)
    await plain.open_wait(waiting)
    at = (await plain.row(ended)).ended_at
    assert at is not None
    await plain.carriers.sweep(at)
    assert {path.name for path in plain.home.work.iterdir()} == {ended, waiting}
    await plain.carriers.sweep(at + 1)
    assert {path.name for path in plain.home.work.iterdir()} == {waiting}


ENDS = """
import os, signal, subprocess, sys, time
import torpor

@torpor.step
def once():
    return 1

@torpor.agent
def main(how):
    print("so far", flush=True)
    match how:
        case "exit": os._exit(3)
        case "fault": os.kill(os.getpid(), signal.SIGSEGV)
        case "raise": raise LookupError("no such thing")
        case "nonsense":
            for fd in range(3, 1024):
                try: os.write(fd, b"nonsense\\n")
                except OSError: pass
            time.sleep(60)
        case "always killed": os.kill(os.getpid(), signal.SIGKILL)
        case "orphan":
            child = subprocess.Popen(["sleep", "600"])
            once()
            return child.pid
        case "tidy":
            try:
                time.sleep(600)
            finally:
                print("tidied")
"""


@pytest.mark.parametrize(
    ("how", "type", "words"),
    [
        ("exit", "AgentExited", "exit code 3"),
        ("fault", "AgentExited", "SIGSEGV"),
        ("raise", "LookupError", "no such thing"),
        ("nonsense", "MachineLost", "sent an invalid message"),
        ("always killed", "MachineLost", "ended by SIGKILL"),
    ],
)
async def test_how_it_can_end(plain: Plain, how: str, type: str, words: str) -> None:
    run = await plain.run(await plain.deploy(ENDS), how=how)
    row = await plain.ended(run)
    assert row.state is RunState.FAILED
    assert row.error is not None
    assert row.error["type"] == type
    assert words in row.error["message"]
    assert (await plain.output(run)).startswith("so far\n")


async def test_what_it_started_ends_with_it(plain: Plain) -> None:
    run = await plain.run(await plain.deploy(ENDS), how="orphan")
    child = await plain.result(run)
    await plain.gone(run)
    wait_gone(child)


async def test_one_that_is_cancelled_may_tidy_up(plain: Plain) -> None:
    run = await plain.run(await plain.deploy(ENDS), how="tidy")
    await plain.until(run, lambda row: row.out_offset > 0)
    plain.scheduler.drivers[run].cancel()
    row = await plain.ended(run)
    assert row.state is RunState.CANCELLED
    assert (await plain.output(run)) == "so far\ntidied\n"


async def test_what_it_prints_otherwise_when_it_is_recovered_is_whole(plain: Plain) -> None:
    version = await plain.deploy(
        """
import sys, uuid
import torpor
@torpor.step
def pay():
    print("paying")
@torpor.agent
def main():
    print("AT start")
    print("to the other", file=sys.stderr)
    mine = uuid.uuid4().hex
    print(f"PAID run_{mine}")
    pay()
    print("paid")
    torpor.approve("go on?")
    return mine
"""
    )
    run = await plain.run(version)
    await plain.open_wait(run)
    first = await plain.output(run)
    await plain.kill(run)
    await plain.until(run, lambda row: row.out_offset > len(first))
    await plain.answer(run, approved=True)
    last = await plain.result(run)
    assert f"PAID run_{last}" not in first
    assert await plain.output(run) == first + f"PAID run_{last}\npaid\n"
    assert first.count("AT start\n") == first.count("to the other\n") == 1
    (anew,) = await plain.entries(run, "output.anew")
    assert anew.data["instead"] == len("AT start\n")


async def test_a_file_that_does_not_load_is_refused(plain: Plain) -> None:
    with pytest.raises(GuestError, match="nowhere_at_all"):
        await plain.deploy("import nowhere_at_all")
    # Of what is installed beside torpor it sees nothing, as in a machine.
    with pytest.raises(GuestError, match="fastapi"):
        await plain.deploy("import fastapi")


async def test_much_output_is_whole(plain: Plain) -> None:
    version = await plain.deploy(
        """
import torpor
@torpor.agent
def main(lines):
    for number in range(lines):
        print(f"{number:09}", "x" * 90)
"""
    )
    run = await plain.run(version, lines=20_000)
    await plain.ended(run)
    assert await plain.output(run) == "".join(f"{n:09} {'x' * 90}\n" for n in range(20_000))


async def test_a_long_log_is_replayed_without_a_round_trip(plain: Plain) -> None:
    version = await plain.deploy(
        """
import torpor
@torpor.step
def add(n):
    return n + 1
@torpor.agent
def main(steps):
    n = 0
    for _ in range(steps):
        n = add(n)
    torpor.approve("go on?")
    return n
"""
    )
    run = await plain.run(version, steps=2500)
    await plain.open_wait(run)
    before = (await plain.row(run)).last_seq
    await plain.kill(run)
    await plain.answer(run, approved=True)
    assert await plain.result(run) == 2500
    # Recovered, up, answered (3), ended: nothing of a step.
    kinds = [entry.kind for entry in await plain.entries(run) if entry.seq > before]
    assert not [kind for kind in kinds if kind == "op.begin" or "step" in kind]


async def test_the_example_of_the_readme(plain: Plain, hasty: None) -> None:
    version = await plain.deploy((EXAMPLES / "sleeper.py").read_text())
    run = await plain.run(version, place="Le Train Bleu", remind_in="50ms")
    await plain.suspended(run)
    await plain.answer(run, approved=True)
    assert await plain.result(run) == "Do not forget: Le Train Bleu, 2 people, booked"
    denied = await plain.run(version, place="Le Train Bleu")
    await plain.suspended(denied)
    await plain.answer(denied, approved=False)
    assert await plain.result(denied) == "no table at Le Train Bleu: denied"


async def test_the_servers_death_ends_it(plain: Plain) -> None:
    """Its end of the channel is closed, as the kernel does for a server that is killed."""
    run = await plain.run(await plain.deploy(ENDS), how="tidy")
    await plain.until(run, lambda row: row.out_offset > 0)
    live = plain.scheduler.drivers[run].live
    assert live is not None
    process = live.guest.agent.process  # type: ignore[attr-defined]
    live.guest.agent.control.shutdown(2)  # type: ignore[attr-defined]
    assert await asyncio.wait_for(process.wait(), 20) == -signal.SIGKILL


MARK = b"m" * 32


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        yield data[start:end]


@given(
    st.lists(st.one_of(st.integers(0, 2**60), st.binary(max_size=40)), max_size=8),
    st.lists(st.integers(0, 1000), max_size=12),
)
def test_marks_are_found_wherever_the_stream_is_cut(
    parts: list[int | bytes], cuts: list[int]
) -> None:
    written = b"".join(
        b"\0%s:%d\n" % (MARK, part) if isinstance(part, int) else part for part in parts
    )
    stream = MarkedOutput(1, MARK)
    found = [item for piece in pieces(written, cuts) for item in stream.take(piece)]
    found += stream.end()
    read: list[int | bytes] = []
    for item in found:
        if isinstance(item, Skipped):
            read.append(item.offset)
        elif isinstance(item, Output) and read and isinstance(read[-1], bytes):
            read[-1] += item.data
        elif isinstance(item, Output):
            read.append(item.data)
    wanted: list[int | bytes] = []
    for part in parts:
        if isinstance(part, bytes) and wanted and isinstance(wanted[-1], bytes):
            wanted[-1] += part
        elif part != b"":
            wanted.append(part)
    assert read == wanted


BULKY = """
import torpor

@torpor.step
def bulk(kind):
    print("making", kind)
    return bytes(range(256)) * 20_000 if kind == "bytes" else ["x" * 3_000_000]

@torpor.agent
def bulky():
    first, second = bulk("bytes"), bulk("json")
    torpor.approve("go on?")
    return [len(first), first == bytes(range(256)) * 20_000, len(second[0])]
"""


LARGE = """
import hashlib, os, urllib.request
import torpor

@torpor.agent
def large(sizes):
    got = []
    for size in sizes:
        url = os.environ["OPENAI_BASE_URL"] + "/embeddings"
        with urllib.request.urlopen(urllib.request.Request(url, b"\\0\\xff" * size)) as answer:
            got.append(hashlib.sha256(answer.read()).hexdigest())
    torpor.approve("go on?")
    return got
"""


async def test_exchanges_too_large_for_the_log_come_back_in_another_process(
    plain: Plain, hasty: None
) -> None:
    """Requests and answers; of text and of bytes; replayed, and in a fork."""
    bodies = [b"\xff" * 3_000_000, b"text " * 900_000, b"small"]

    async def answer(request: Request) -> Reply:
        return Reply(200, {}, bodies[len(plain.requests) - 1])

    plain.upstream.answers = answer
    run = await plain.run(await plain.deploy(LARGE), sizes=[500_000, 600_000, 3])
    await plain.suspended(run)
    ends = [
        each for each in await plain.entries(run, "op.end") if str(each.op).startswith("model:")
    ]
    kept = [stored_body(each.data["value"]) for each in ends]
    assert [body and body.bytes for body in kept] == [len(bodies[0]), len(bodies[1]), None]
    assert plain.requests == [b"\0\xff" * size for size in (500_000, 600_000, 3)]
    wanted = [hashlib.sha256(body).hexdigest() for body in bodies]
    await plain.answer(run, approved=True)
    assert await plain.result(run) == wanted
    assert len(plain.requests) == 3


async def test_results_too_large_for_the_log_come_back_in_another_process(
    plain: Plain, hasty: None
) -> None:
    run = await plain.run(await plain.deploy(BULKY))
    await plain.suspended(run)
    ends = await plain.entries(run, "op.end")
    assert [each.data["blob"]["form"] for each in ends] == ["bytes", "json"]
    await plain.answer(run, approved=True)
    assert await plain.result(run) == [256 * 20_000, True, 3_000_000]
    assert await plain.output(run) == "making bytes\nmaking json\n"


async def test_no_warm_hook_delays_a_process(plain: Plain) -> None:
    text = """
import torpor

@torpor.warm
def hook():
    raise ValueError("run")

@torpor.agent
def main(): ...
"""
    source = AgentSource("agent.py", {"agent.py": text.encode()})
    loaded = await plain.carriers.load(source, source.version(PROCESS), logged)
    assert loaded.default == "main"


BUSY = """
import torpor
import lengthy

@torpor.agent
def main():
    return lengthy.came
"""


async def test_what_is_imported_is_told_while_it_takes_long(plain: Plain, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    files = {"agent.py": BUSY, "lengthy.py": f"came = open({str(gate)!r}).read()\n"}
    source = AgentSource("agent.py", {name: text.encode() for name, text in files.items()})
    told: list[str] = []
    slow = asyncio.Event()

    def tell(stage: str, message: str, fraction: float | None) -> None:
        told.append(message)
        if "lengthy" in message:
            slow.set()

    loading = asyncio.create_task(plain.carriers.load(source, source.version(PROCESS), tell))
    await asyncio.wait_for(slow.wait(), PROCESS_STUCK_S)
    gate.write_text("at last")
    assert [each["name"] for each in (await loading).agents] == ["main"]
    assert told[0] == "importing agent.py"
    assert re.fullmatch(r"importing agent\.py: lengthy\.py:1, \d+ s", told[1])


async def test_an_import_that_takes_longer_than_its_file_allows(plain: Plain) -> None:
    text = """
import threading, torpor
threading.Event().wait()
"""
    source = AgentSource(
        "agent.py", {"agent.py": text.encode()}, rules=parse_rules({"max_import": "2s"}, "rules")
    )
    with pytest.raises(GuestError) as refused:
        await plain.carriers.load(source, source.version(PROCESS), logged)
    said = refused.value
    assert said.message.startswith("importing agent.py took longer than 2 s; it was at agent.py")
    assert 'max_import = "1m"' in said.hint
    await plain.carriers.close()
    assert not list(plain.home.processes.iterdir())


OWN_TIMERS = """
import asyncio, threading, time, torpor

@torpor.agent
async def timed_out():
    try:
        async with asyncio.timeout(0.3):
            await torpor.approve("?")
    except TimeoutError:
        return "timed out"

@torpor.agent
def slept():
    def sleep():
        time.sleep(0.3)
        torpor.log("slept")
        gone.wait()
    gone = threading.Event()
    threading.Thread(target=sleep).start()
    approved = torpor.approve("?").approved
    gone.set()
    return approved
"""


async def test_a_timer_of_its_own_is_waited_for_awake(plain: Plain, hasty: None) -> None:
    """A replay would begin it anew."""
    run = await plain.run(await plain.deploy(OWN_TIMERS), "timed_out")
    assert await plain.result(run) == "timed out"
    assert not await plain.entries(run, "run.suspended")


async def test_a_thread_that_sleeps_is_waited_for_awake(plain: Plain, hasty: None) -> None:
    run = await plain.run(await plain.deploy(OWN_TIMERS), "slept")
    await plain.until(run, lambda row: row.state is RunState.SUSPENDED)
    (logged,) = await plain.entries(run, "note.log")
    (suspended,) = await plain.entries(run, "run.suspended")
    assert logged.seq < suspended.seq
    await plain.answer(run, approved=True)
    assert await plain.result(run) is True


ENVIRONMENT = """
import os, subprocess, time
import torpor

NAMES = ("AGENTS", "RUNS", "MORE", "PATH")
AT_IMPORT = [os.environ.get(name) for name in NAMES[:3]]

@torpor.step
def look():
    shown = subprocess.run(["printenv", "RUNS"], capture_output=True, text=True).stdout
    return [AT_IMPORT, [os.environ.get(name) for name in NAMES[:3]], shown, time.strftime("%Z")]

@torpor.agent
def parent():
    seen = look()
    torpor.waitpoint("go on?")
    child = torpor.spawn(kid, env={"MORE": "child"}).result()
    return [seen, look(), child]

@torpor.agent
def kid():
    return look()
"""


async def test_variables_of_an_agent_and_of_a_run(plain: Plain, hasty: None) -> None:
    version = await plain.deploy(ENVIRONMENT, env={"AGENTS": "a", "RUNS": "a", "TZ": "UTC"})
    start = Start(env={"RUNS": "r", "MORE": "m", "TZ": "XYZ-3"})
    run = await plain.run(version, "parent", start)
    await plain.suspended(run)
    await plain.answer(run)
    first, later, child = await plain.result(run)
    assert first == later == [["a", "a", None], ["a", "r", "m"], "r\n", "XYZ"]
    # A child has what it is given, and not its parent's.
    assert child == [["a", "a", None], ["a", "a", "child"], "a\n", "UTC"]
    (begun,) = [each for each in await plain.entries(run, "op.begin") if each.op == "child:kid#1"]
    assert begun.data["start"] == {"env": ["MORE"]}
    # A fork has them, too.
    origin = await plain.row(run)
    fork = forks.fork_of(origin, Seq(0))
    made = await plain.store.write(
        lambda c: forks.fork_run(c, origin, fork, lambda run, key, other: key, time.time())
    )
    assert made.env == dict(start.env)
