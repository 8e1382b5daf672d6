"""The database file: one writer, many readers, group commit.

All writes go through one thread. It takes every function that is queued, runs each in a
savepoint of one transaction, commits once, and only then resolves their futures (rule 1): under
load one fsync serves many writers, and a lone writer waits for nobody. A function that raises
is rolled back to its savepoint, alone. Functions must be quick and touch nothing but the
connection: they hold up everyone else.

SQLite may answer trouble (disk full, I/O error) by rolling back the whole transaction. Then
nothing of the batch is durable, so all of it fails; `in_transaction` is looked at before each
commit, because committing nothing succeeds silently.

Why threads and not an asynchronous driver: those run a thread per connection too, and a hop to
it per statement; here it is one hop per write.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from torpor.contextlog.news import News
from torpor.contextlog.prepared import wrapped
from torpor.core.errors import Damaged, Exhausted, HostError, InternalError, TorporError
from torpor.core.ids import RunId
from torpor.logstore.migrate import prepare, upgrade

T = TypeVar("T")

BATCH_WRITES_MAX = 256
READERS = 4
BUSY_TIMEOUT_MS = 5000
# Pages of the database that are given back in one transaction, which takes some milliseconds; and
# how long others have then.
GIVE_BACK_PAGES = 256
GIVE_BACK_PAUSE_S = 0.02

_TOUCHED, _APPENDED, _NEWS = "torpor.touched", "torpor.appended", "torpor.news"

# SQLite's primary result codes that concern the whole database, not one statement.
_TROUBLES: dict[int, tuple[type[TorporError], str]] = {
    sqlite3.SQLITE_FULL: (Exhausted, "Free some disk space; torpor goes on by itself."),
    sqlite3.SQLITE_IOERR: (HostError, "Look at the disk's health and the kernel's log."),
    sqlite3.SQLITE_BUSY: (HostError, "Another program holds the database locked; end it."),
    sqlite3.SQLITE_CANTOPEN: (HostError, "Check that the directory exists and is writable."),
    sqlite3.SQLITE_READONLY: (HostError, "Check the permissions of the file and its directory."),
    sqlite3.SQLITE_CORRUPT: (Damaged, "Restore the database from a copy."),
    sqlite3.SQLITE_NOTADB: (Damaged, "Restore the database from a copy."),
}


# What a full disk is as well, where it is noticed by no write: when a file of the database's is
# made, mapped or synced.
_FULL_TOO = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
_FULL_BYTES = 1 << 20


def _is_full(path: Path) -> bool:
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return False
    no_names_left = found.f_files > 0 and not found.f_favail
    return no_names_left or found.f_bavail * found.f_frsize < _FULL_BYTES


def touched(c: Connection, run: RunId) -> None:
    """Say that this write changed `run`: its subscribers are told once it is committed."""
    c.info.setdefault(_TOUCHED, set()).add(run)


def count_appended(c: Connection, entries: int) -> None:
    """Say that this write appended so many entries: counted once it is committed."""
    c.info[_APPENDED] = c.info.get(_APPENDED, 0) + entries


def tell(c: Connection, news: News) -> None:
    """Say something of this write (`contextlog.news`) to who listens to the store: each is told
    once it is committed."""
    c.info.setdefault(_NEWS, []).append(news)


class LogStore:
    """The open database. Make it with `open`; use it from any event loop or thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.appended = 0  # entries, since it was opened
        self._writer = make_engine(path, connections=1, begin="BEGIN IMMEDIATE")
        self._readers = make_engine(path, connections=READERS, begin="BEGIN", read_only=True)
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # guards _closed with the queue's end, and _subscriptions
        self._closed = False
        self._subscriptions: dict[RunId, set[Subscription]] = {}
        self._listeners: list[Callable[[News], None]] = []
        self._writing: Connection | None = None  # the writer thread's own
        self._read_threads = ThreadPoolExecutor(READERS, thread_name_prefix="log-reader")
        self._write_thread = threading.Thread(target=self._serve, name="log-writer", daemon=True)

    @classmethod
    def open(cls, path: Path) -> LogStore:
        """Open the database at `path`, created if absent, brought up to date if older.

        Raises HostError (cannot be opened; newer schema), Damaged (no database of ours).
        """
        store = cls(path)
        try:
            with store._writer.begin() as c:
                up_to_date = prepare(c)
            if not up_to_date:
                _upgrade(path)
        except DBAPIError as error:
            store._dispose()
            raise _trouble(error, path) or error from error
        except TorporError:
            store._dispose()
            raise
        store._write_thread.start()
        return store

    async def write(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` in the next transaction; its value, once that is durable.

        Raises what `fn` raised, or the trouble that kept the transaction from being committed.
        A write cancelled before its turn does not happen; after that it does.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._closed:
                raise InternalError("the log was written to after it was closed")
            self._queue.put(_Write(fn, future))
        return await future

    async def read(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` in a thread, on a connection that sees one moment and cannot write."""
        return await asyncio.get_running_loop().run_in_executor(self._read_threads, self._read, fn)

    @property
    def disk_is_full(self) -> bool:
        """Nothing of any size can be written where the database is."""
        return _is_full(self.path)

    def read_here(self, fn: Callable[[Connection], T]) -> T:
        """As `read`, in the thread that calls, which is not the event loop's."""
        return self._read(fn)

    def used_bytes(self, c: Connection) -> int:
        """What the database takes, without the pages of it that are free."""
        pages, free, size = (
            c.exec_driver_sql(f"PRAGMA {name}").scalar() or 0
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    async def give_back(self) -> None:
        """Give pages that are free back to the disk, few at a time, so that writers go on."""
        more = True
        while more:
            more = await asyncio.to_thread(self._give_back)
            await asyncio.sleep(GIVE_BACK_PAUSE_S)
        await self.scrub()

    def _give_back(self) -> bool:
        """Give some pages back; whether there are more."""
        try:
            with contextlib.closing(_beside(self.path)) as c:
                # Each step of the statement is a page, and only a script is stepped to its end.
                c.executescript(f"PRAGMA incremental_vacuum({GIVE_BACK_PAGES})")
                ((mode,), (free,)) = (
                    c.execute(f"PRAGMA {name}").fetchone()
                    for name in ("auto_vacuum", "freelist_count")
                )
        except sqlite3.Error as error:
            raise HostError(f"{self.path}: {error}") from error
        return bool(mode and free)

    async def scrub(self) -> None:
        """Bring all writes into the database file and empty the one they were kept in, which still
        holds what was deleted. Where readers are in the way, that is left to the next time."""
        await asyncio.to_thread(self._scrub)

    def copy_to(self, path: Path) -> None:
        """Write the database as it is at one moment to `path`, one file that needs no other.
        Blocks; writers and readers go on. Raises HostError, Damaged."""
        try:
            with (
                contextlib.closing(sqlite3.connect(self.path)) as source,
                contextlib.closing(sqlite3.connect(path)) as copy,
            ):
                source.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")
                (found,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.Error as error:
            raise HostError(f"cannot copy {self.path} to {path}: {error}") from error
        if found != "ok":
            raise Damaged(f"{self.path} is damaged: {found}", hint="Use an older backup.")

    def _scrub(self) -> None:
        with contextlib.closing(_beside(self.path)) as c:
            c.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def subscribe(self, run: RunId) -> Subscription:
        """Be told of every write to `run` from now on, in the running event loop."""
        subscription = Subscription(self, run)
        with self._lock:
            self._subscriptions.setdefault(run, set()).add(subscription)
        return subscription

    def listen(self, hear: Callable[[News], None]) -> None:
        """Have `hear` called with all that writes `tell` from now on, in the order of the log and
        in the running event loop."""
        self._listeners.append(partial(_call_in, asyncio.get_running_loop(), hear))

    def close(self) -> None:
        """Finish the queued writes and close. Blocks; closing twice does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._write_thread.join()
        self._dispose()

    def _dispose(self) -> None:
        self._read_threads.shutdown()
        self._readers.dispose()
        self._writer.dispose()

    def _read(self, fn: Callable[[Connection], T]) -> T:
        try:
            with self._readers.begin() as c:
                return fn(c)
        except DBAPIError as error:
            raise _trouble(error, self.path) or error from error

    def _serve(self) -> None:
        """The writer thread."""
        last = False
        while not last:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while batch[-1] is not None and len(batch) < BATCH_WRITES_MAX:
                    batch.append(self._queue.get_nowait())
            last = batch[-1] is None
            # One that was cancelled while it queued is dropped here.
            self._commit([w for w in batch if w and not w.future.cancelled()])
        self._leave_connection()

    def _commit(self, batch: list[_Write]) -> None:
        outcomes: list[_Outcome] = []
        try:
            c = self._writing or self._writer.connect()
            self._writing = c
            with c.begin():
                for write in batch:
                    outcomes.append(_attempt(c, write.fn, alone=len(batch) == 1))
                    if not _in_transaction(c):
                        raise _rolled_back(outcomes[-1].error)
        except _Alone as only:
            outcomes = [_Outcome(error=only.error)]
        except BaseException as error:
            self._leave_connection()
            # Nobody is left without an answer, whatever went wrong.
            trouble = _trouble(error, self.path) or error
            outcomes = [_Outcome(error=trouble) for _ in batch]
        self.appended += sum(outcome.appended for outcome in outcomes)
        self._notify({run for outcome in outcomes for run in outcome.touched})
        for news in (each for outcome in outcomes for each in outcome.news):
            for hear in self._listeners:
                hear(news)
        told: dict[asyncio.AbstractEventLoop, list[tuple[_Write, _Outcome]]] = {}
        for write, outcome in zip(batch, outcomes, strict=True):
            told.setdefault(write.future.get_loop(), []).append((write, outcome))
        for loop, some in told.items():  # all at once: waking a loop costs as much as a statement
            _call_in(loop, _settle, some)

    def _leave_connection(self) -> None:
        if self._writing is not None:
            self._writing.close()
            self._writing = None

    def _notify(self, changed: Iterable[RunId]) -> None:
        with self._lock:
            hearers = [s for run in changed for s in self._subscriptions.get(run, ())]
        for subscription in hearers:
            subscription._notify()

    def _unsubscribe(self, subscription: Subscription) -> None:
        with self._lock:
            hearers = self._subscriptions.get(subscription.run, set())
            hearers.discard(subscription)
            if not hearers:
                self._subscriptions.pop(subscription.run, None)


class Subscription:
    """Remembers that its run changed until somebody waits for it. A context manager.

    Subscribe, then read, then wait, then read again: a change between reading and waiting ends
    the wait at once.
    """

    def __init__(self, store: LogStore, run: RunId) -> None:
        self.run = run
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    async def wait(self) -> None:
        """Return when the run was written to since the last `wait` (or since subscribing)."""
        await self._changed.wait()
        self._changed.clear()

    def close(self) -> None:
        self._store._unsubscribe(self)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _notify(self) -> None:
        _call_in(self._loop, self._changed.set)


def _upgrade(path: Path) -> None:
    """All in one transaction: what fails has changed nothing."""
    engine = make_engine(path, connections=1, begin="BEGIN IMMEDIATE", foreign_keys=False)
    try:
        with engine.begin() as c:
            upgrade(c)
            lost = c.exec_driver_sql("PRAGMA foreign_key_check").first()
            if lost is not None:
                raise InternalError(f"after the upgrade, a row of {lost[0]} lacks one of {lost[2]}")
    finally:
        engine.dispose()


def _beside(path: Path) -> sqlite3.Connection:
    """A connection beside those of the store, that waits for them."""
    return sqlite3.connect(path, timeout=BUSY_TIMEOUT_MS / 1000)


def _call_in(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody is at work
        loop.call_soon_threadsafe(call, *args)


def _settle(several: list[tuple[_Write, _Outcome]]) -> None:
    """In the loop of the writes."""
    for write, outcome in several:
        if write.future.done():  # nobody waits for it any more
            continue
        if outcome.error is None:
            write.future.set_result(outcome.value)
        else:
            write.future.set_exception(outcome.error)


@dataclass(frozen=True)
class _Write:
    fn: Callable[[Connection], Any]
    future: asyncio.Future[Any]


@dataclass(frozen=True)
class _Outcome:
    value: Any = None
    error: BaseException | None = None
    touched: frozenset[RunId] = frozenset()
    appended: int = 0
    news: tuple[News, ...] = ()


class _Alone(Exception):
    """The only write of a transaction raised `error`: all of the transaction is rolled back."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _attempt(c: Connection, fn: Callable[[Connection], Any], *, alone: bool) -> _Outcome:
    """Run `fn`, in a savepoint unless it is `alone` (which saves a fifth of a short write). Trouble
    of the whole database is raised, any other error kept."""
    c.info[_TOUCHED], c.info[_APPENDED], c.info[_NEWS] = set(), 0, []
    try:
        with contextlib.nullcontext() if alone else _savepoint(c):
            value = fn(c)
    except BaseException as error:
        if _code(error) in _TROUBLES:
            raise
        if isinstance(error, StopIteration):  # which no future can hold
            error = InternalError(f"a write raised {error!r}")
        if alone:
            raise _Alone(error) from error
        return _Outcome(error=error)
    changed = frozenset(c.info[_TOUCHED])
    return _Outcome(value, None, changed, c.info[_APPENDED], tuple(c.info[_NEWS]))


@contextlib.contextmanager
def _savepoint(c: Connection) -> Iterator[None]:
    """The driver's own: SQLAlchemy's costs as much as a short write."""
    driver: Any = c.connection.driver_connection
    driver.execute("SAVEPOINT one_write")
    try:
        yield
    except BaseException:
        driver.execute("ROLLBACK TO one_write")
        raise
    finally:
        if _in_transaction(c):
            driver.execute("RELEASE one_write")


def _in_transaction(c: Connection) -> bool:
    return bool(c.connection.driver_connection.in_transaction)  # type: ignore[union-attr]


def _rolled_back(cause: BaseException | None) -> BaseException:
    """What to raise when SQLite ended the transaction under us: what made it do so, if known."""
    while cause is not None:
        if _code(cause) in _TROUBLES:
            return cause
        cause = cause.__context__
    return InternalError("a write ended the transaction that it shares with others")


def _code(error: BaseException) -> int | None:
    """SQLite's primary result code of a database error."""
    if not isinstance(error, DBAPIError):
        return None
    code = getattr(error.orig, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _trouble(error: BaseException, path: Path) -> TorporError | None:
    """`error` in words for the operator, if it concerns the whole database."""
    code = _code(error)
    if code not in _TROUBLES:
        return None
    assert isinstance(error, DBAPIError)
    if code in _FULL_TOO and _is_full(path):
        code = sqlite3.SQLITE_FULL
    kind, hint = _TROUBLES[code]
    trouble = kind(f"{path}: {error.orig}", hint=hint)
    trouble.__cause__ = error
    return trouble


def make_engine(
    path: Path,
    *,
    connections: int,
    begin: str,
    read_only: bool = False,
    wal: bool = True,
    foreign_keys: bool = True,
) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}", poolclass=QueuePool, pool_size=connections, max_overflow=0
    )
    pragmas = [
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
        # Of a new file: pages that become free can be given back (`give_back`).
        *([] if read_only else ["auto_vacuum = INCREMENTAL"]),
        *(["journal_mode = WAL"] if wal else []),
        "synchronous = FULL",  # WAL's default leaves commits to the page cache: rule 1
        f"foreign_keys = {'ON' if foreign_keys else 'OFF'}",
        "secure_delete = ON",  # a key that is deleted must be gone from the file
        *(["query_only = ON"] if read_only else []),
    ]

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _record: object) -> None:
        # The driver's own BEGINs come late and break savepoints; ours is below.
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def began(c: Connection) -> None:
        # The driver's own: SQLAlchemy's way takes ten times what SQLite takes.
        try:
            c.connection.driver_connection.execute(begin)  # type: ignore[union-attr]
        except sqlite3.Error as error:
            raise wrapped(c, begin, error) from error

    return engine
