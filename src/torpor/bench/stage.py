"""Where measurements take place: the real service in this process, on a data directory of its own
that shares guest images and caches with the user's.

All times of sleeps are those that a run's own log holds, but for one: that a freeze lasts until
its record is committed can only be seen from outside, so the time from the record's entry until
its subscriber heard is added.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import signal
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.status import Status

from torpor.bench import cold
from torpor.bench.bars import Figure
from torpor.client import ensure_server, stop_server
from torpor.contextlog import entries, runs
from torpor.contextlog.entries import EntryRow
from torpor.control.service.service import Service
from torpor.core.errors import GuestError
from torpor.core.home import Home
from torpor.core.ids import RunId, Seq
from torpor.core.states import FINAL, RunState
from torpor.egress.launch import stop_broker
from torpor.engine import process, registry
from torpor.logstore.sqlite import SqliteStore
from torpor.service.runs import RunRequest
from torpor.service.waits import Answer, WaitFilter
from torpor.snapshot.store import LAYERS, MANIFESTS
from torpor.terminal.columns import Columns
from torpor.terminal.screen import err, say, show, show_json, table
from torpor.web import words

# What takes longer than this has gone wrong.
ASLEEP_LIMIT_S = 180.0

Tell = Callable[[str], None]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Stage:
    home: Home
    store: SqliteStore
    service: Service
    tell: Tell

    async def start(self, version: str, agent: str | None = None, **given: Any) -> RunId:
        """A run of this input."""
        run = await self.service.runs.start(RunRequest(given, version=version, agent=agent))
        return RunId(run["id"])

    async def answer(self, wait: str, data: Any = None, *, approved: bool | None = None) -> None:
        await self.service.waits.complete(wait, Answer(data, approved, by="torpor bench"))


def perform(work: Callable[[Stage], Coroutine[Any, Any, _T]]) -> _T:
    """What `work` gives, done on a stage that is cleared away afterwards. Progress is shown on
    stderr. Raises what `work` raises."""
    with _own_home(Home.find()) as home, _progress() as tell:
        return asyncio.run(_until_stopped(_on_stage(home, tell, work)))


async def _on_stage(home: Home, tell: Tell, work: Callable[[Stage], Coroutine[Any, Any, _T]]) -> _T:
    store = await asyncio.to_thread(SqliteStore.open, home.database)
    service = Service(home, store)
    gc.collect()
    gc.freeze()  # as a server does
    try:
        return await work(Stage(home, store, service, tell))
    finally:
        await service.stop()
        await stop_broker(home)
        await asyncio.to_thread(_wait_for_pager, home)


@contextmanager
def _own_home(user: Home) -> Iterator[Home]:
    """An empty data directory on the disk of the user's, with its images and caches."""
    user.create()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=user.root.resolve()) as directory:
        home = Home(Path(directory))
        for theirs, ours in ((user.images, home.images), (user.cache, home.cache)):
            ours.symlink_to(theirs.resolve(), target_is_directory=True)
        yield home.create()


@contextmanager
def served(home: Home) -> Iterator[None]:
    """A server of its own, for the commands that are measured. The engine is that which has nothing
    to probe."""
    os.environ |= {"TORPOR_HOME": str(home.root), registry.SETTING: process.NAME}
    ensure_server(home)
    try:
        yield
    finally:
        stop_server(home)


@contextmanager
def _progress() -> Iterator[Tell]:
    """One moving line in a terminal, else a line each."""
    if not err.is_terminal:
        yield say
        return
    with err.status("") as status:
        yield lambda text: _update(status, text)


def _update(status: Status, text: str) -> None:
    status.update(text.replace("[", r"\["))


async def _until_stopped(work: Coroutine[Any, Any, _T]) -> _T:
    """SIGTERM ends it as Ctrl-C does: machines, pager and files are cleared away. `timeout` sends
    it twice: the second must not cut that short."""
    task = asyncio.ensure_future(work)

    def on_signal() -> None:
        if not task.cancelling():
            task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, on_signal)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def ended(stage: Stage, version: str, agent: str | None = None, **given: Any) -> runs.RunRow:
    """A run of this version and input, when it has ended."""
    run = await stage.start(version, agent, **given)
    return await _ended(stage.store, run)


async def _ended(store: SqliteStore, run: RunId) -> runs.RunRow:
    with store.subscribe(run) as subscription:
        row = await store.read(lambda c: runs.get_run(c, run))
        while row.state not in FINAL:
            await subscription.wait()
            row = await store.read(lambda c: runs.get_run(c, run))
    return row


def _wait_for_pager(home: Home) -> None:
    """It ends a moment after it was asked to, and only then can its files be removed."""
    with (home.run / "pager.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


@dataclass(frozen=True)
class Slept:
    """What the log says of a run's way from an answer to the next sleep. Times in ms."""

    resume_ms: float
    pause_ms: float
    freeze_ms: float  # decision to durable
    bytes: int
    snapshot: str  # its id


class Sleeper:
    """A run that waits for one answer at a time, and is asleep in between."""

    def __init__(self, stage: Stage, run: RunId) -> None:
        self.run = run
        self._stage = stage
        self._seen = Seq(0)
        self._epoch = 0

    async def fall_asleep(self) -> Slept:
        """Wait until the run is suspended and its machine, a later one than the last, is gone."""
        service, store = self._stage.service, self._stage.store
        try:
            async with asyncio.timeout(ASLEEP_LIMIT_S):
                with store.subscribe(self.run) as subscription:
                    reported_at = time.time()
                    row = await store.read(lambda c: runs.get_run(c, self.run))
                    while not (row.state is RunState.SUSPENDED and row.epoch > self._epoch):
                        if row.state in FINAL:
                            raise GuestError(f"the agent ended as {row.state.value}: {row.error}")
                        await subscription.wait()
                        reported_at = time.time()
                        row = await store.read(lambda c: runs.get_run(c, self.run))
                # Nothing tells of that: the log is done with the machine by then.
                while (await service.runs.get(self.run))["machine"] is not None:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        except TimeoutError as error:
            raise GuestError(f"the agent was not asleep within {ASLEEP_LIMIT_S:g} s") from error
        self._epoch = row.epoch
        log = await store.read(lambda c: entries.read_entries(c, self.run, self._seen))
        self._seen = log[-1].seq
        woke, frozen = _last(log, "machine.up"), _last(log, "snapshot")
        return Slept(
            resume_ms=woke.data["resume_ms"],
            pause_ms=frozen.data["pause_ms"],
            freeze_ms=frozen.data["freeze_ms"] + max(0.0, reported_at - frozen.at) * 1000,
            bytes=frozen.data["bytes"],
            snapshot=frozen.data["snapshot"],
        )

    async def answer(self, data: Any = None, *, approved: bool | None = None) -> None:
        (wait,) = await self._stage.service.waits.list(WaitFilter(self.run))
        await self._stage.answer(wait["id"], data, approved=approved)

    async def end(self, data: Any = None, *, approved: bool | None = None) -> runs.RunRow:
        """Give the answer after which the agent ends."""
        await self.answer(data, approved=approved)
        return await _ended(self._stage.store, self.run)


async def make_cold(service: Service) -> None:
    """Drop all layers, manifests and the image from the page cache, and the caches of the pager
    and of this process."""
    machines = service.machines
    await machines.drop_caches()
    # Not the records of who holds what: they come and go.
    kinds = [machines.home.blobs / kind for kind in (LAYERS, MANIFESTS)]
    files = cold.files_below(*kinds, machines.image.directory)
    await asyncio.to_thread(cold.forget, files)


def report(found: Sequence[Figure], about_host: str, *, as_json: bool, **about: Any) -> None:
    """Print them: as JSON, with what else they are `about`; or as a table, and beneath it what host
    this is and what is `told`."""
    cores = os.cpu_count() or 1
    if as_json:
        about = {"processor": processor(), "cores": cores, **about}
        show_json({**about, "figures": {each.key: each.to_json() for each in found}})
    else:
        show(figure_table(found))
        show(f"{processor()}, {words.count(cores, 'core')}{about_host}")


def figure_table(figures: Sequence[Figure]) -> Columns:
    heads = ("FIGURE", "MEASURED", "PEER", "BAR", "WHAT BOUNDS IT, AND HOW FAR IT IS FROM THAT")
    return table(heads, [figure.cells() for figure in figures], fold=True)


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return os.uname().machine


def _last(log: list[EntryRow], kind: str) -> EntryRow:
    return next(entry for entry in reversed(log) if entry.kind == kind)
