"""Log and blobs fail at every call that a run makes of them: before it is done, or once it is done
so that only the caller sees a failure. The run ends as it would have without that.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection
from tests.faults.oracle import times_at_most

from torpor.blobs.local import LocalBlobs
from torpor.core.errors import Exhausted, HostError
from torpor.core.states import RunState
from torpor.logstore.sqlite import SqliteStore
from torpor.testing.fakes.machines import WatchedStore
from torpor.testing.fakes.world import Nth, World

pytestmark = pytest.mark.anyio

T = TypeVar("T")
CALLS_MAX = 200
LOCKED = HostError("the database is locked")
FULL = Exhausted("the disk is full")
BROKEN = HostError("the disk does not answer")

# What a test itself reads and writes is no call of the run's.
_looking: ContextVar[bool] = ContextVar("looking", default=False)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the run reads of the log passes the point "read", what it writes "write" and, done,
    "written"."""
    write = WatchedStore.write

    async def run_reads(store: WatchedStore, fn: Callable[[Connection], T]) -> T:
        if store.world is not None and not _looking.get():
            await store.world.at("read")
        return await SqliteStore.read(store, fn)

    async def run_writes(store: WatchedStore, fn: Callable[[Connection], T]) -> T:
        return await (store.write_unseen(fn) if _looking.get() else write(store, fn))

    monkeypatch.setattr(WatchedStore, "read", run_reads)
    monkeypatch.setattr(WatchedStore, "write", run_writes)


async def live(world: World) -> None:
    """A run of one of everything, checked."""
    _looking.set(True)
    world.upstream.requests.clear()
    nap = time.time() + 0.02
    first: list[list[Any]] = [
        *(["print", "one "], ["step", "a"], ["checkpoint", "c"], ["model", "m"], ["wait", "q"]),
        *(["print", "two"], ["step", "b"], ["sleep", nap], ["step", "d"]),
    ]
    run = await world.run(first, [["step", "e"]])
    await world.open_waits(run)
    await world.answer("wait:q#1")
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED, row.error
    steps = {f"step:{name}#1" for name in "abde"}
    others = {"checkpoint:c#1", "model:m#1", "wait:q#1", f"sleep:{nap}#1"}
    assert set(row.result) == steps | others
    assert row.result["wait:q#1"]["data"] == "yes"
    assert await world.output(run) == "one two"
    assert set(world.effects) == steps, "0 lost"
    most = times_at_most(await world.entries(run))
    for op, times in world.effects.items():
        assert times <= most[op], f"{op} again, not in doubt"
    assert world.requests == ["m"]


@pytest.mark.parametrize(
    ("point", "error"),
    [
        ("read", LOCKED),
        ("write", LOCKED),
        ("write", FULL),
        ("written", LOCKED),  # it is in the log, and its writer does not know
    ],
)
async def test_the_log_fails_at_every_call(
    world: World, calls: None, point: str, error: Exception
) -> None:
    async def fail() -> None:
        raise error

    for n in range(1, CALLS_MAX):
        nth = Nth(world, point, n, fail)
        try:
            await live(world)
        except BaseException as trouble:
            trouble.add_note(f"It failed at {point} {n}.")
            raise
        if not nth.reached:
            break
    assert 10 < n < CALLS_MAX - 1


class Failing:
    """The `at`th call of a function does `fail` instead, or once it is done."""

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        owner: Any,
        name: str,
        at: int,
        error: Exception,
        *,
        done: bool,
    ) -> None:
        self.made = 0
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.made += 1
            fails = self.made == at
            if fails and not done:
                raise error
            value = real(*args, **kwargs)
            if fails:
                raise error
            return value

        patch.setattr(owner, name, call)


FULL_DISK = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
BAD_DISK = OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize(
    ("owner", "name", "error", "done"),
    [
        (LocalBlobs, "put_all", FULL, False),
        (LocalBlobs, "put_all", BROKEN, False),
        (LocalBlobs, "put_all", BROKEN, True),
        (LocalBlobs, "get", BROKEN, False),
        (os, "writev", FULL_DISK, False),
        (os, "fsync", BAD_DISK, False),
        (os, "rename", FULL_DISK, False),
        (os, "rename", BAD_DISK, True),
    ],
)
async def test_the_blobs_fail_at_every_call(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    error: Exception,
    done: bool,
) -> None:
    for n in range(1, CALLS_MAX):
        with monkeypatch.context() as patch:
            failing = Failing(patch, owner, name, n, error, done=done)
            try:
                await live(world)
            except BaseException as trouble:
                trouble.add_note(f"It failed at {name} {n}.")
                raise
        if failing.made < n:
            break
    assert 1 < n < CALLS_MAX - 1


async def test_short_writes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real, short = os.writev, 0

    def writev(fd: int, buffers: list[memoryview]) -> int:
        nonlocal short
        short += len(buffers[0]) > 7
        return real(fd, [buffers[0][:7]])

    monkeypatch.setattr(os, "writev", writev)
    await live(world)
    assert short
