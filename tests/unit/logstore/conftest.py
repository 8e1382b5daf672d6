"""The stores that there are, and a run to write to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from torpor.contextlog.agents import NewAgent, put_agent
from torpor.contextlog.entries import NewEntry, append, read_entries
from torpor.contextlog.runs import create_run
from torpor.core.ids import AgentVersion, RunId
from torpor.logstore.protocol import Store
from torpor.logstore.sqlite import SqliteStore

VERSION = AgentVersion("a" * 32)
# How each opens, or opens again, the store that is in a directory.
STORES: dict[str, Callable[[Path], Store]] = {
    "sqlite": lambda directory: SqliteStore.open(directory / "torpor.db"),
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=STORES)
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    opened: list[Store] = []

    def reopen() -> Store:
        opened.append(STORES[request.param](tmp_path))
        return opened[-1]

    yield reopen
    for store in opened:
        store.close()


@pytest.fixture
def store(reopen: Callable[[], Store]) -> Store:
    return reopen()


def make_run(c: Connection) -> RunId:
    agent = NewAgent(engine="qemu", version=VERSION, name="a", entry="a.py", source=b"", spec={})
    put_agent(c, agent, 1.0)
    return create_run(c, version=VERSION, agent=None, input={}, now=1.0).id


def log(run: RunId, what: str) -> Callable[[Connection], list[Any]]:
    return lambda c: list(append(c, run, None, [NewEntry("note.log", None, {"text": what})], 2.0))


def texts(run: RunId) -> Callable[[Connection], list[str]]:
    return lambda c: [e.data["text"] for e in read_entries(c, run, kinds=["note.log"])]
