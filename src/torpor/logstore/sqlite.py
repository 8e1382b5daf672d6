"""The store on SQLite: one file, its writer's connection and those of its readers.

All that is of SQLite and not of the logs is here: pragmas, result codes, giving pages back,
copying. How writes share transactions is in `torpor.logstore.commits`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from torpor.contextlog.news import News, Written
from torpor.contextlog.prepared import wrapped
from torpor.core.errors import Damaged, Exhausted, HostError, InternalError, TorporError
from torpor.core.ids import RunId
from torpor.logstore.commits import Writer
from torpor.logstore.migrate import prepare, upgrade
from torpor.logstore.news import Feed, Subscription

T = TypeVar("T")

READERS = 4
BUSY_TIMEOUT_MS = 5000
# Pages of the database that are given back in one transaction, which takes some milliseconds; and
# how long others have then.
GIVE_BACK_PAGES = 256
GIVE_BACK_PAUSE_S = 0.02

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


class SqliteStore:
    """A `torpor.logstore.protocol.Store`, which says what its methods promise. Open it with
    `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.appended = 0
        self._engine = make_engine(path, connections=1, begin="BEGIN IMMEDIATE")
        self._readers = make_engine(path, connections=READERS, begin="BEGIN", read_only=True)
        self._feed = Feed()
        self._writer = Writer(self._engine, _Sqlite(path), self._publish)
        self._read_threads = ThreadPoolExecutor(READERS, thread_name_prefix="log-reader")

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the database at `path`, created if absent, brought up to date if older.

        Raises HostError (cannot be opened; newer schema), Damaged (no database of ours).
        """
        store = cls(path)
        try:
            with store._engine.begin() as c:
                up_to_date = prepare(c)
            if not up_to_date:
                _upgrade(path)
        except DBAPIError as error:
            store._dispose()
            raise _trouble(error, path) or error from error
        except TorporError:
            store._dispose()
            raise
        store._writer.start()
        return store

    @property
    def disk_is_full(self) -> bool:
        return _is_full(self.path)

    async def write(self, fn: Callable[[Connection], T]) -> T:
        return await self._writer.write(fn)

    async def read(self, fn: Callable[[Connection], T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._read_threads, self.read_here, fn)

    def read_here(self, fn: Callable[[Connection], T]) -> T:
        try:
            with self._readers.begin() as c:
                return fn(c)
        except DBAPIError as error:
            raise _trouble(error, self.path) or error from error

    def subscribe(self, run: RunId) -> Subscription:
        return self._feed.subscribe(run)

    def listen(self, listener: Callable[[News], None]) -> None:
        self._feed.listen(listener)

    def used_bytes(self, c: Connection) -> int:
        pages, free, size = (
            c.exec_driver_sql(f"PRAGMA {name}").scalar() or 0
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    async def give_back(self) -> None:
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
        # All writes are brought into the database file, and the one that they were kept in, which
        # still holds what was deleted, is emptied.
        await asyncio.to_thread(self._scrub)

    def copy_to(self, path: Path) -> None:
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

    def close(self) -> None:
        if self._writer.close():
            self._dispose()

    def _publish(self, written: Sequence[Written]) -> None:
        """In the writer's thread."""
        self.appended += sum(each.appended for each in written)
        self._feed.publish(written)

    def _dispose(self) -> None:
        self._read_threads.shutdown()
        self._readers.dispose()
        self._engine.dispose()


class _Sqlite:
    """What the writer has to know of SQLite (`torpor.logstore.commits.Database`)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def in_transaction(self, c: Connection) -> bool:
        return bool(c.connection.driver_connection.in_transaction)  # type: ignore[union-attr]

    def trouble(self, error: BaseException | None) -> TorporError | None:
        return _trouble(error, self._path)


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


def _trouble(error: BaseException | None, path: Path) -> TorporError | None:
    """`error` in words for the operator, if it concerns the whole database."""
    if not isinstance(error, DBAPIError):
        return None
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    if code not in _TROUBLES:
        return None
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
