"""What a write means to others: which runs it changed, and what a server had better look at now.

The functions here note it on the connection of the write; the store that runs the write collects
it (`collecting`) and, once it is committed, delivers it (`torpor.logstore.news`). Nothing depends
on the delivery: all of it stands in the database too, where a server that starts finds it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from torpor.core.ids import OpId, RunId

_KEY = "torpor.written"


@dataclass(frozen=True)
class Claimable:
    """A run may be claimed, or is to be ended without that."""


@dataclass(frozen=True)
class Due:
    """Something falls due at a time that was not known before."""


@dataclass(frozen=True)
class Answered:
    """A wait of `run` has ended with `value`."""

    run: RunId
    op: OpId
    value: dict[str, Any]


@dataclass(frozen=True)
class CancelRequested:
    run: RunId


@dataclass(frozen=True)
class Overran:
    """A run that has a machine takes too long, unless it has only waited: its driver knows."""

    run: RunId


@dataclass(frozen=True)
class Replaced:
    """A run has ended, whatever its machine is at: another has its place (`contextlog.reloads`)."""

    run: RunId


News = Claimable | Due | Answered | CancelRequested | Overran | Replaced


@dataclass
class Written:
    """What one write did."""

    runs: set[RunId] = field(default_factory=set)  # that it changed
    appended: int = 0  # entries
    news: list[News] = field(default_factory=list)


def collecting(c: Connection) -> Written:
    """From now on, what is noted on this connection goes there."""
    written = c.info[_KEY] = Written()
    return written


def changed(c: Connection, run: RunId) -> None:
    """This write changes `run`: whoever follows it reads again."""
    _written(c).runs.add(run)


def count_appended(c: Connection, entries: int) -> None:
    _written(c).appended += entries


def report(c: Connection, news: News) -> None:
    _written(c).news.append(news)


def _written(c: Connection) -> Written:
    found = c.info.get(_KEY)
    return collecting(c) if found is None else found
