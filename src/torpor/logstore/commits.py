"""Group commit: all writes go through one thread and share its transactions.

The thread takes every function that is queued, runs each in a savepoint of one transaction, commits
once, and only then resolves their futures (rule 1): under load one fsync serves many writers, and a
lone writer waits for nobody. A function that raises is rolled back to its savepoint, alone.

A database may answer trouble (disk full, I/O error) by rolling back the whole transaction. Then
nothing of the batch is durable, so all of it fails; whether there still is a transaction is looked
at before each commit, because committing nothing succeeds silently.

Why threads and not an asynchronous driver: those run a thread per connection too, and a hop to it
per statement; here it is one hop per write.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine

from torpor.contextlog.news import Written, collecting
from torpor.core.errors import InternalError, TorporError
from torpor.logstore.news import call_in

T = TypeVar("T")

BATCH_WRITES_MAX = 256


class Database(Protocol):
    """What the writer has to know of the database that it writes to."""

    def in_transaction(self, c: Connection) -> bool:
        """Whether the transaction that was begun is still open."""

    def trouble(self, error: BaseException | None) -> TorporError | None:
        """`error` in words for the operator, if it concerns the whole database and not one
        statement."""


class Writer:
    """The thread, and the queue before it. `published` is called in the thread with what each
    transaction wrote, before any of its writes returns."""

    def __init__(
        self,
        engine: Engine,
        database: Database,
        published: Callable[[Sequence[Written]], None],
    ) -> None:
        self._engine = engine
        self._database = database
        self._published = published
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # guards _closed with the queue's end
        self._closed = False
        self._connection: Connection | None = None  # the thread's own
        self._thread = threading.Thread(target=self._serve, name="log-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def write(self, fn: Callable[[Connection], T]) -> T:
        """As `torpor.logstore.protocol.Store.write`."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._closed:
                raise InternalError("the log was written to after it was closed")
            self._queue.put(_Write(fn, future))
        return await future

    def close(self) -> bool:
        """Finish the queued writes and end. False if it was closed before. Blocks."""
        with self._lock:
            if self._closed:
                return False
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        return True

    def _serve(self) -> None:
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
            c = self._connection or self._engine.connect()
            self._connection = c
            with c.begin():
                for write in batch:
                    outcomes.append(self._attempt(c, write.fn, alone=len(batch) == 1))
                    if not self._database.in_transaction(c):
                        raise self._rolled_back(outcomes[-1].error)
        except _Alone as only:
            outcomes = [_Outcome(error=only.error)]
        except BaseException as error:
            self._leave_connection()
            # Nobody is left without an answer, whatever went wrong.
            trouble = self._database.trouble(error) or error
            outcomes = [_Outcome(error=trouble) for _ in batch]
        self._published([outcome.written for outcome in outcomes])
        loops: dict[asyncio.AbstractEventLoop, list[tuple[_Write, _Outcome]]] = {}
        for write, outcome in zip(batch, outcomes, strict=True):
            loops.setdefault(write.future.get_loop(), []).append((write, outcome))
        for loop, some in loops.items():  # all at once: waking a loop costs as much as a statement
            call_in(loop, _settle, some)

    def _attempt(self, c: Connection, fn: Callable[[Connection], Any], *, alone: bool) -> _Outcome:
        """Run `fn`, in a savepoint unless it is `alone` (which saves a fifth of a short write).
        Trouble of the whole database is raised, any other error kept."""
        written = collecting(c)
        try:
            with contextlib.nullcontext() if alone else self._savepoint(c):
                value = fn(c)
        except BaseException as error:
            if self._database.trouble(error):
                raise
            if isinstance(error, StopIteration):  # which no future can hold
                error = InternalError(f"a write raised {error!r}")
            if alone:
                raise _Alone(error) from error
            return _Outcome(error=error)
        return _Outcome(value, written=written)

    @contextlib.contextmanager
    def _savepoint(self, c: Connection) -> Iterator[None]:
        """The driver's own: SQLAlchemy's costs as much as a short write."""
        driver: Any = c.connection.driver_connection
        driver.execute("SAVEPOINT one_write")
        try:
            yield
        except BaseException:
            driver.execute("ROLLBACK TO one_write")
            raise
        finally:
            if self._database.in_transaction(c):
                driver.execute("RELEASE one_write")

    def _rolled_back(self, cause: BaseException | None) -> BaseException:
        """What to raise when the database ended the transaction under us: what made it do so, if
        known."""
        while cause is not None:
            if self._database.trouble(cause):
                return cause
            cause = cause.__context__
        return InternalError("a write ended the transaction that it shares with others")

    def _leave_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@dataclass(frozen=True)
class _Write:
    fn: Callable[[Connection], Any]
    future: asyncio.Future[Any]


@dataclass(frozen=True)
class _Outcome:
    value: Any = None
    error: BaseException | None = None
    written: Written = field(default_factory=Written)


class _Alone(Exception):
    """The only write of a transaction raised `error`: all of the transaction is rolled back."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _settle(several: list[tuple[_Write, _Outcome]]) -> None:
    """In the event loop of the writes."""
    for write, outcome in several:
        if write.future.done():  # nobody waits for it any more
            continue
        if outcome.error is None:
            write.future.set_result(outcome.value)
        else:
            write.future.set_exception(outcome.error)
