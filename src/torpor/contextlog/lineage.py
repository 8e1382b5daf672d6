"""Whose entries make up a run's log.

    run_a   1 ─── 2 ─── 3 ─── 4 ─── 5 …
                        └──► run_b   4' ── 5' …          run_b's log: 1 2 3 of run_a, 4' 5' its own
                                     └──► run_c   5" …   run_c's: 1 2 3 of run_a, 4' of run_b, 5"

A fork shares the beginning of its origin's log without copying it: entries never change (rule 1),
so both can have them. Positions go on where the shared part ends. One row a part, all of them
with the fork itself, so that reading costs one look-up however many forks lie between.

A fork may replace single entries of what it shares: then it has entries of its own at these
positions. What it replaced, it does not see.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, insert, select

from torpor.contextlog import schema
from torpor.core.ids import RunId
from torpor.core.limits import SQL_INT_MAX

# Where the part that a run itself goes on writing ends.
OPEN_END = SQL_INT_MAX

_lineage = schema.lineage


class Part(NamedTuple):
    """The entries of `source` with after < seq <= upto."""

    after: int
    upto: int
    source: RunId


def start(c: Connection, *runs: RunId) -> None:
    """Each of these, which were just made, has a log of its own."""
    rows = [{"run": run, "after_seq": 0, "upto_seq": OPEN_END, "source": run} for run in runs]
    c.execute(insert(_lineage), rows)


def parts(c: Connection, run: RunId) -> list[Part]:
    """In the log's order."""
    at = _lineage.c
    query = select(at.after_seq, at.upto_seq, at.source).where(at.run == run).order_by(at.after_seq)
    return [Part(*row) for row in c.execute(query)]


def fork_parts(
    origin: Iterable[Part], run: RunId, at: int, replaced: Collection[int]
) -> list[Part]:
    """The parts of the log of `run`, which forks off at `at` from a run of these parts and has
    entries of its own at the places `replaced`. Pure."""
    shared = [Part(p.after, min(p.upto, at), p.source) for p in origin if p.after < at]
    for seq in sorted(replaced):
        shared = [piece for part in shared for piece in _without(part, seq, run)]
    return [*shared, Part(at, OPEN_END, run)]


def _without(part: Part, seq: int, run: RunId) -> list[Part]:
    if not part.after < seq <= part.upto:
        return [part]
    pieces = [
        Part(part.after, seq - 1, part.source),
        Part(seq - 1, seq, run),
        Part(seq, part.upto, part.source),
    ]
    return [piece for piece in pieces if piece.after < piece.upto]


def same_upto(one: Iterable[Part], other: Iterable[Part], seq: int) -> bool:
    """Whether two logs of these parts are the same up to `seq`. Pure."""
    return _joined(one, seq) == _joined(other, seq)


def _joined(parts: Iterable[Part], seq: int) -> list[Part]:
    """The parts up to `seq`, neighbours of the same source as one."""
    joined: list[Part] = []
    for part in parts:
        if part.after >= seq:
            continue
        if joined and joined[-1].source == part.source:
            joined[-1] = joined[-1]._replace(upto=min(part.upto, seq))
        else:
            joined.append(part._replace(upto=min(part.upto, seq)))
    return joined


def write(c: Connection, run: RunId, parts: Sequence[Part]) -> None:
    """`run`, which was just made, has a log of these parts."""
    c.execute(
        insert(_lineage),
        [{"run": run, "after_seq": p.after, "upto_seq": p.upto, "source": p.source} for p in parts],
    )
