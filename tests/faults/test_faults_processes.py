"""Random agents as real processes, killed at random: with what frameworks give to steps, calls of
the model's in flight, files, and every JSON value.

An agent is lines that run side by side, as threads or tasks, and what each does in order. A fault
comes after so many entries of the log since the one before, or in the next call of the model's,
which gets its answer when it has been survived. A run that waits has no process: each answer wakes
one, which replays all. What must come out does not depend on any of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.faults.oracle import first, payments_at_most, times_at_most
from tests.jsonvalues import ODD, VALUES, deep, exact

from torpor.contextlog import waits
from torpor.core.ids import AgentVersion, RunId
from torpor.core.states import FINAL, RunState
from torpor.egress.upstream import Request
from torpor.testing.fakes.broker import Reply
from torpor.testing.fakes.plain import CALM, HASTY, Plain

ALWAYS = 25
EXAMPLES = int(os.environ.get("TORPOR_TEST_EXAMPLES", ALWAYS))
STUCK_S = 60.0

PROJECT = ("agent.py",)
AGENT = """
import asyncio, json, os, re, threading, urllib.request, uuid
from pathlib import Path
import torpor
from torpor.sdk import holding

holding.QUIET_SHORT_S = 0.0  # no two steps here are told apart by their objects alone

class Context:
    "A framework's: it holds ids, addresses and locks, and shows them."
    def __init__(self):
        self.id, self.lock, self.seen = uuid.uuid4().hex, threading.Lock(), [object()]
    def __repr__(self):
        return f"<Context {self.id} {self.seen}>"

class Message:
    def __init__(self, content):
        self.content, self.id = content, uuid.uuid4().hex

GIVEN = {
    "nothing": lambda what: what,
    "context": lambda what: Context(),
    "messages": lambda what: {"messages": [Message(what), Message("")], "in": Context()},
    "partial": lambda what: [what, {"config": (Context(), what)}],
}

def note(what):
    fd = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, f"{what}\\n".encode())
    os.close(fd)

def append(name, what):
    with open(name, "a") as file:
        file.write(f"{what} ")
    return Path(name).read_text()

def ask(what):
    request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/responses", what.encode())
    while True:
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            if error.code != 503:  # in doubt: trying again is the client's to decide
                raise

UNFIT = {
    "nan": float("nan"), "surrogate": "\\ud800", "digits": 10**4301, "object": [object()],
}
UNFIT["deep"] = []
for _ in range(64):
    UNFIT["deep"] = [UNFIT["deep"]]

def operation(line, what, verb, more):
    "What to call, in a thread or as a step of a task."
    match verb:
        case "value":
            def body(given, value):
                note(what)
                return value
            return torpor.step(body, name=what), GIVEN[more[0]](what), json.loads(more[1])
        case "file":
            def body(given):
                note(what)
                return append(f"line-{line}", what)
            return torpor.step(body, name=what), GIVEN[more](what)
        case "code":
            return append, f"line-{line}", what
        case "emit":
            return torpor.emit, json.loads(more)
        case "model":
            return ask, what
        case "unfit":
            def refused():
                try:
                    torpor.step(lambda: UNFIT[more], name=what)()
                except Exception as error:
                    told = f"{type(error).__name__}: {error}"
                    return re.split(";|, which", told)[0]
            return (refused,)

def threaded(line, verbs):
    told = []
    for number, (verb, more) in enumerate(verbs):
        what = f"{line}.{number}"
        if verb == "wait":
            told.append(torpor.waitpoint(what).result().data)
        else:
            fn, *given = operation(line, what, verb, more)
            told.append(fn(*given))
    return told

async def tasked(line, verbs):
    told = []
    for number, (verb, more) in enumerate(verbs):
        what = f"{line}.{number}"
        if verb == "wait":
            told.append((await torpor.waitpoint(what)).data)
        else:
            fn, *given = operation(line, what, verb, more)
            told.append(await asyncio.to_thread(fn, *given))
    return told

@torpor.agent
async def play(lines, where):
    global ledger
    ledger = where
    told = [sorted({*os.listdir(".")} - {"agent.py"})]
    append("agent", "begun")
    told += await asyncio.gather(*(
        tasked(number, verbs) if number % 2 else asyncio.to_thread(threaded, number, verbs)
        for number, verbs in enumerate(lines)
    ))
    append("agent", "over")
    names = sorted({*os.listdir(".")} - {"agent.py"})
    files = {name: Path(name).read_text() for name in names}
    return [json.dumps(each) for each in [files, *told]]  # deeper than a result may be
"""
# By what does not fit: what the agent is told of it.
UNFIT = {
    "nan": "NaN and infinity are no JSON",
    "surrogate": "it holds half a surrogate pair",
    "digits": "it holds an integer of more than 4,300 digits",
    "object": "a value of type builtins.object is not JSON",
    "deep": "it is nested more than 64 deep",
}
GIVEN = st.sampled_from(["nothing", "context", "messages", "partial"])
TEXTS = (st.sampled_from([*ODD, deep()]) | VALUES).map(exact)
NOTHING = st.none()
OPERATIONS = st.one_of(
    st.tuples(st.just("value"), st.tuples(GIVEN, TEXTS)),
    st.tuples(st.just("file"), GIVEN),
    st.tuples(st.sampled_from(["code", "model"]), NOTHING),
    st.tuples(st.just("wait"), TEXTS),
    st.tuples(st.just("emit"), TEXTS),
    st.tuples(st.just("unfit"), st.sampled_from([*UNFIT])),
)
LINES = st.lists(st.lists(OPERATIONS, min_size=2, max_size=5), min_size=2, max_size=4)
VICTIMS = ("agent", "server", "broker", "all")
PLANS = st.lists(
    st.tuples(st.sampled_from(VICTIMS), st.none() | st.integers(1, 6)), min_size=1, max_size=4
)


@dataclass
class Ordeal:
    """What one run goes through. The plan: who dies, after how many entries; None: in a call."""

    plain: Plain
    run: RunId
    answers: dict[str, str]
    plan: list[tuple[str, int | None]]
    deaths: int = 0  # of the broker
    since: int = 0
    called: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)  # what happens in this call
    done: list[str] = field(default_factory=list)

    async def answer(self, request: Request) -> Reply:
        """The model's, which costs something each time."""
        if self.plan and self.plan[0][1] is None:
            self.called.set()
            await self.over.wait()
        return Reply(200, {"content-type": "text/plain"}, b"answer to " + request.body)

    async def see_through(self) -> None:
        with self.plain.store.subscribe(self.run) as subscription:
            while (row := await self.plain.row(self.run)).state not in FINAL:
                after = self.plan[0][1] if self.plan else None
                if self.called.is_set():
                    await self.befall("in a call")
                    self.called.clear()
                    self.over.set()
                    self.over = asyncio.Event()
                elif after is not None and row.last_seq >= self.since + after:
                    self.since = row.last_seq
                    await self.befall(f"at {row.last_seq}")
                elif row.state is not RunState.SUSPENDED or row.ready or not await self.reply():
                    await first(subscription.wait(), self.called.wait())

    async def befall(self, when: str) -> None:
        victim = self.plan.pop(0)[0]
        self.done.append(f"{victim} {when}")
        if victim in ("agent", "all"):
            current = self.plain.scheduler.drivers.get(self.run)
            if current is not None and current.live is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(current.live.pid, signal.SIGKILL)
        if victim in ("server", "all"):
            await self.plain.stop()
        if victim in ("broker", "all"):
            self.deaths += 1
            await self.plain.broker.die()
        if victim in ("server", "all"):
            await self.plain.start()

    async def reply(self) -> bool:
        """To one of the questions, if there is any."""
        found = await self.plain.store.read(lambda c: waits.list_waits(c, self.run))
        if found:
            wait = found[self.since % len(found)]
            data = json.loads(self.answers[wait.op])
            await self.plain.store.write(
                lambda c: waits.complete_wait(c, wait.id, value={"data": data}, now=0.0)
            )
        return bool(found)


class Foretold:
    """What comes of it, whatever happens."""

    def __init__(self, lines: list[list[tuple[str, Any]]]) -> None:
        self.files = {"agent": "begun over "}
        self.emitted: Counter[str] = Counter()
        self.answers: dict[str, str] = {}
        self.happens: set[str] = set()  # operations that cost something
        self.told = [
            [self.of(f"{line}", f"{line}.{n}", *each) for n, each in enumerate(verbs)]
            for line, verbs in enumerate(lines)
        ]

    def of(self, line: str, what: str, verb: str, more: Any) -> Any:
        match verb:
            case "value":
                self.happens.add(f"step:{what}#1")
                return json.loads(more[1])
            case "file" | "code":
                if verb == "file":
                    self.happens.add(f"step:{what}#1")
                name = f"line-{line}"
                self.files[name] = f"{self.files.get(name, '')}{what} "
                return self.files[name]
            case "wait":
                self.answers[f"wait:{what}#1"] = more
                return json.loads(more)
            case "emit":
                self.emitted[more] += 1
                return None
            case "model":
                return f"answer to {what}"
            case "unfit":
                return f"TypeError: step {what} cannot be recorded: {UNFIT[more]}"
        raise AssertionError(verb)


async def live(
    plain: Plain, version: AgentVersion, lines: list[list[tuple[str, Any]]], plan: list[Any]
) -> None:
    foretold = Foretold(lines)
    with tempfile.NamedTemporaryFile() as ledger:
        plain.upstream.requests.clear()
        run = await plain.run(version, lines=lines, where=ledger.name)
        ordeal = Ordeal(plain, run, foretold.answers, list(plan))
        plain.upstream.answers = ordeal.answer
        try:
            async with asyncio.timeout(STUCK_S):
                await ordeal.see_through()
            files, listed, *told = map(json.loads, await plain.result(run))
            assert listed == [], "a replay finds nothing of an earlier life"
            assert exact(told) == exact(foretold.told)
            assert files == foretold.files
            left = plain.home.work / run / "work"
            its_own = [path for path in left.iterdir() if path.name not in PROJECT]
            assert {path.name: path.read_text() for path in its_own} == files
            emitted = [each.data for each in await plain.entries(run, "note.emit")]
            assert Counter(exact(each.get("value", each)) for each in emitted) == foretold.emitted
            log = await plain.entries(run)
            spent = Counter(f"step:{what}#1" for what in Path(ledger.name).read_text().split())
            assert spent.keys() == foretold.happens
            most = times_at_most(log)
            assert all(times <= most[op] for op, times in spent.items()), spent
            paid = Counter(plain.requests)
            calls = payments_at_most(log)
            assert paid.total() <= len(calls) <= len(paid) * (1 + ordeal.deaths)
            if not ordeal.deaths:
                assert paid.total() == len(calls) == len(paid)
        except BaseException as error:
            error.add_note(f"{lines}\n{plan}\nWhat was done to it: {ordeal.done}")
            raise


class Stage:
    """One server's world for all examples; another after one that failed."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._plain: Plain | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def play(self, lines: list[list[tuple[str, Any]]], plan: list[Any]) -> None:
        try:
            self._runner.run(self._live(lines, plan))
        except BaseException:
            self.close()
            self._runner = asyncio.Runner()
            raise

    def close(self) -> None:
        if self._plain is not None:
            self._runner.run(self._plain.close())
            self._plain = None
        if self._directory is not None:
            self._directory.cleanup()
        self._runner.close()

    async def _live(self, lines: list[list[tuple[str, Any]]], plan: list[Any]) -> None:
        if self._plain is None:
            self._directory = tempfile.TemporaryDirectory()
            self._plain = Plain(
                Path(self._directory.name),
                replace(CALM, freeze_retry_s=0.0, losses_max=1000),
                HASTY,
            )
            await self._plain.start()
            self._version = await self._plain.deploy(AGENT)
        await live(self._plain, self._version, lines, plan)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == ALWAYS,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(LINES, PLANS)
def test_what_comes_of_a_run_does_not_depend_on_what_it_went_through(
    stage: Stage, lines: list[list[tuple[str, Any]]], plan: list[Any]
) -> None:
    stage.play(lines, plan)


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()
