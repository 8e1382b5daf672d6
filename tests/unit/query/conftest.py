"""A database with a run of each kind of thing in its log, and questions to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from torpor.contextlog.agents import NewAgent, put_agent
from torpor.contextlog.entries import NewEntry, append
from torpor.contextlog.forks import Fork, fork_of, fork_run
from torpor.contextlog.keys import put_key
from torpor.contextlog.output import Piece, append_output
from torpor.contextlog.runs import claim, create_run, get_run, transition
from torpor.contextlog.waits import NewWait, complete_wait, create_wait
from torpor.core.ids import AgentVersion, Epoch, OpId, RunId
from torpor.core.prices import Prices
from torpor.core.states import RunState
from torpor.logstore.sqlite import SqliteStore
from torpor.query.ask import Answer, Asking, Question

VERSION = AgentVersion("a" * 32)
SECRET = "the-wrapped-key"
PRICES = Prices({"gpt": {"input": 2.0, "cached": 1.0, "output": 10.0}})

Ask = Callable[..., Answer]


class Log:
    """Writes a run's log, a second apart."""

    def __init__(self, c: Connection, run: RunId, epoch: Epoch, now: float = 100.0) -> None:
        self.c, self.run, self.epoch, self.now = c, run, epoch, now

    def entry(self, kind: str, op: str | None, data: dict[str, Any]) -> int:
        self.now += 1
        entry = NewEntry(kind, None if op is None else OpId(op), data)
        return append(self.c, self.run, self.epoch, [entry], self.now)[0]

    def begin(self, kind: str, name: str, n: int = 1, **data: Any) -> int:
        named = {"kind": kind, "name": name, "digest": "d" * 32, "at": "a.py:7"}
        return self.entry("op.begin", f"{kind}:{name}#{n}", named | {"data": data})

    def end(self, op: str, value: Any = None, error: dict[str, Any] | None = None) -> int:
        ended = {"ok": True, "value": value} if error is None else {"ok": False, "error": error}
        return self.entry("op.end", op, ended)

    def step(self, name: str, n: int = 1, value: Any = None, error: Any = None) -> None:
        self.begin("step", name, n, args=[n], kwargs={})
        self.end(f"step:{name}#{n}", value, error)

    def call(self, n: int, messages: list[Any], answer: Any, status: int = 200) -> None:
        body = json.dumps({"model": "gpt", "messages": messages, "seed": n})
        path = "/v1/chat/completions"
        self.begin("model", f"{path}@0{n}", method="POST", path=path, headers={}, body=body)
        text = answer if isinstance(answer, str) else json.dumps(answer)
        self.end(f"model:{path}@0{n}#1", {"status": status, "headers": {}, "body": text})


def completion(message: dict[str, Any], finish: str = "stop", **usage: Any) -> dict[str, Any]:
    told = {"role": "assistant", **message}
    return {
        "model": "gpt-2025-01-01",
        "choices": [{"index": 0, "message": told, "finish_reason": finish}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100} | usage,
    }


def conversation(length: int) -> list[dict[str, str]]:
    """Long enough to be kept apart from its entries."""
    said = [{"role": "system", "content": "Be brief. " * 200}]
    return said + [{"role": "user", "content": f"Question {n}"} for n in range(1, length)]


TOOL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
APPEND = {"kind": "context", "name": "append", "digest": "d"}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "nothing there"}


def fill(c: Connection) -> RunId:
    put_agent(
        c,
        NewAgent(
            engine="qemu", version=VERSION, name="a", entry="a.py", source=b"SOURCE", spec={"x": 1}
        ),
        1.0,
    )
    run = create_run(c, version=VERSION, agent="asker", input={"n": 1}, now=99.0).id
    put_key(c, run, SECRET.encode())
    log = Log(c, run, claim(c, run, 100.0))
    log.step("search", value={"found": 3})
    log.step("search", 2, error={"type": "ValueError", "message": "no luck", "traceback": "…"})
    log.step("C#", 12, value="odd name")
    append_output(c, run, log.epoch, Piece("stdout", 0, "hello\n"), log.now)
    log.entry("note.log", None, {"message": "looked", "level": "info", "data": {"k": 1}})
    log.entry("note.emit", None, {"value": [1, 2]})
    said = {"message": {"role": "user", "content": "noted"}, "tokens": 6, "pinned": False}
    log.entry("op.begin", "context:append#1", {**APPEND, "data": said})
    asks = completion({"content": None, "tool_calls": [TOOL]}, "tool_calls")
    cached: Any = {"prompt_tokens_details": {"cached_tokens": 500}}
    first = conversation(2)
    log.call(1, first, asks)
    log.call(2, [*first, RESULT], completion({"content": "Nothing."}, **cached))
    log.call(3, [{"role": "user", "content": "short"}], {"error": {"message": "no"}}, status=429)
    wait = create_wait(
        c,
        run,
        log.epoch,
        NewWait(
            op=OpId("wait:go#1"),
            kind="wait",
            name="go",
            digest="d" * 32,
            prompt="Go?",
            data={"n": 1},
            schema=None,
            approve=True,
            due_at=None,
        ),
        200.0,
    )
    answer = {"data": None, "approved": True, "note": None}
    complete_wait(c, wait.id, value=answer, now=260.0, by="rosa")
    log.begin("step", "open", args=[], kwargs={})
    return run


def fork(c: Connection, run: RunId, **wanted: Any) -> RunId:
    row = get_run(c, run)
    return fork_run(c, row, fork_of(row, row.last_seq, **wanted), lambda *_: b"", 300.0).id


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, RunId, RunId]]:
    path = tmp_path_factory.mktemp("query") / "torpor.db"
    store = SqliteStore.open(path)

    async def make() -> tuple[RunId, RunId]:
        run = await store.write(fill)
        made = await store.write(lambda c: fork(c, run))
        await store.write(lambda c: finish(c, made))
        return run, made

    run, made = asyncio.run(make())
    yield path, run, made
    store.close()


def finish(c: Connection, run: RunId) -> None:
    """The fork ends what it shares unfinished, and goes on."""
    log = Log(c, run, claim(c, run, 400.0), 400.0)
    log.end("step:open#1", "by the fork")
    log.call(4, [*conversation(2), {"role": "user", "content": "more"}], completion({}))
    transition(c, run, log.epoch, RunState.COMPLETED, 500.0, result={"ok": True})


@pytest.fixture
def run(home: tuple[Path, RunId, RunId]) -> RunId:
    return home[1]


@pytest.fixture
def forked(home: tuple[Path, RunId, RunId]) -> RunId:
    return home[2]


@pytest.fixture
def ask(home: tuple[Path, RunId, RunId]) -> Ask:
    def ask(sql: str, *parameters: Any, **options: Any) -> Answer:
        asking = Asking(home[0])
        return asyncio.run(asking.ask(Question(sql, parameters, **options), PRICES))

    return ask


__all__ = ["PRICES", "SECRET", "Ask", "Fork"]
