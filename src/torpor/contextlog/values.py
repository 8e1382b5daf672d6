"""Which values too large for the log a run has (`torpor.snapshot.values` has their bytes).

An op.end entry names one by its digest, in `blob` instead of `value`; that of an exchange, in the
value, where the body would be (`torpor.core.bodies.stored_body`). A row stands for all such
entries of its run; a fork finds those of what it shares with the runs that these are of. They go
with their run.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import Connection, insert, select

from torpor.contextlog import schema
from torpor.core.errors import NotFound
from torpor.core.ids import RunId

_values, _lineage = schema.large_values, schema.lineage


class ValueRow(NamedTuple):
    run: RunId  # whose key opens it, if it is sealed
    digest: str
    bytes: int
    sealed: bool
    name: str  # of its file


def put_value(c: Connection, row: ValueRow) -> None:
    """Nothing happens if the run has it."""
    known = select(_values.c.run).where(_values.c.run == row.run, _values.c.digest == row.digest)
    if c.scalar(known) is None:
        c.execute(insert(_values), [row._asdict()])


def find_value(c: Connection, run: RunId, digest: str) -> ValueRow:
    """Raises NotFound."""
    sources = select(_lineage.c.source).where(_lineage.c.run == run)
    found = select(_values).where(_values.c.run.in_(sources), _values.c.digest == digest).limit(1)
    row = c.execute(found).first()
    if row is None:
        raise NotFound(f"the log of {run} has no value {digest}")
    return ValueRow(*row)


def find_values(c: Connection, run: RunId, digests: Collection[str]) -> list[ValueRow]:
    """Each once. Raises NotFound."""
    return [find_value(c, run, digest) for digest in sorted(set(digests))]


def value_names(c: Connection) -> frozenset[str]:
    """Of the files of all values that any log names."""
    return frozenset(c.scalars(select(_values.c.name)))
