"""What a store of runs and their logs does, whichever database it is made of.

All that is read or written is a function over a SQLAlchemy `Connection`, mostly of
`torpor.contextlog`; a store gives it a connection, a transaction and durability. Every
implementation passes `tests/unit/logstore/test_store.py`, which says more exactly what is promised
here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from torpor.contextlog.news import News
from torpor.core.ids import RunId
from torpor.logstore.news import Subscription

T = TypeVar("T")


class Store(Protocol):
    """One writer, many readers. May be used from any event loop and thread."""

    path: Path  # in the data directory of this host, where what lies beside the log is

    @property
    def appended(self) -> int:
        """Entries that were appended since the store was opened."""

    @property
    def disk_is_full(self) -> bool:
        """Nothing of any size can be written where the database is."""

    async def write(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` in the next transaction, which it shares with others; its value, once that is
        durable (rule 1).

        Raises what `fn` raised, whose changes are undone, alone; or what kept the transaction from
        being committed. A write that is cancelled before its turn does not happen; after that it
        does. `fn` must be quick and touch nothing but the connection: it holds up all other writes.
        """

    async def read(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` in a thread, on a connection that sees one moment and cannot write."""

    def read_here(self, fn: Callable[[Connection], T]) -> T:
        """The same in the calling thread, which it blocks."""

    def subscribe(self, run: RunId) -> Subscription:
        """Follow the writes to `run` from now on, in the running event loop."""

    def listen(self, listener: Callable[[News], None]) -> None:
        """Have all news from now on given to `listener`, in the order in which it was written and
        in the running event loop."""

    def used_bytes(self, c: Connection) -> int:
        """What the database takes, without what is free in it."""

    async def give_back(self) -> None:
        """Give what is free in the database back to the disk, a little at a time, so that writers
        go on; `scrub`."""

    async def scrub(self) -> None:
        """Leave nothing of what was deleted in the database's files. Where readers are in the way,
        that is left to the next time."""

    def copy_to(self, path: Path) -> None:
        """Write the database as it is at one moment to `path`, a file that needs no other. Blocks;
        readers and writers go on. Raises HostError, Damaged."""

    def close(self) -> None:
        """Finish the queued writes and close. Blocks; closing twice does nothing."""
