"""A store on disk and a run to work with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import Connection, select

from torpor.contextlog import schema
from torpor.contextlog.agents import NewAgent, put_agent
from torpor.contextlog.runs import RunRow, claim, create_run, get_runs
from torpor.core.ids import AgentVersion, Epoch, RunId
from torpor.logstore.sqlite import SqliteStore

T = TypeVar("T")


def claimable(c: Connection) -> list[RunRow]:
    """The runs that want a machine, oldest first."""
    at_rest = schema.runs.c.state.in_(["queued", "suspended"])
    wanting = select(schema.runs.c.id).where(schema.runs.c.ready, at_rest)
    return get_runs(c, list(c.scalars(wanting.order_by(schema.runs.c.id))))


class Commit:
    """Runs a function in a transaction of its own, for tests that are not asynchronous."""

    version = AgentVersion("a" * 32)

    def __init__(self, path: Path) -> None:
        self._store = SqliteStore.open(path)
        self._runner = asyncio.Runner()
        self(
            lambda c: put_agent(
                c,
                NewAgent(
                    engine="qemu",
                    version=self.version,
                    name="agent",
                    entry="agent.py",
                    source=b"tar",
                    spec={"memory_mib": 512},
                ),
                1.0,
            )
        )

    def __call__(self, fn: Callable[[Connection], T]) -> T:
        return self._runner.run(self._store.write(fn))

    def queued(self) -> RunId:
        make = {"version": self.version, "agent": None, "input": {"n": 1}, "now": 10.0}
        return self(lambda c: create_run(c, **make).id)  # type: ignore[arg-type]

    def claimed(self) -> tuple[RunId, Epoch]:
        run = self.queued()
        return run, self(lambda c: claim(c, run, 11.0))

    def close(self) -> None:
        self._runner.close()
        self._store.close()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def commit(tmp_path: Path) -> Iterator[Commit]:
    commit = Commit(tmp_path / "torpor.db")
    yield commit
    commit.close()
