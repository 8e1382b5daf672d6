"""What a run has used of the network: requests, bytes, tokens.

Of what it did itself: a fork does not pay for what it shares with its origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    case,
    func,
    literal_column,
    or_,
    select,
)

from torpor.contextlog import schema
from torpor.core.ids import RunId
from torpor.core.prices import Prices
from torpor.core.replies import HTTP_ERROR

_entries, _usage = schema.entries.c, schema.usage.c
_RECORDED = ("model", "http")


@dataclass(frozen=True)
class _OfModel:
    """Its calls that were answered: `measured` ones say what they took."""

    model: str | None
    input: int | None
    cached: int | None
    output: int | None
    measured: int
    unmeasured: int


@dataclass(frozen=True)
class Spent:
    requests: int
    bytes_out: int
    bytes_in: int
    models: Sequence[_OfModel]

    @property
    def tokens(self) -> int:
        return sum((each.input or 0) + (each.output or 0) for each in self.models)

    def cost(self, prices: Prices) -> float:
        """Dollars: a call whose price, or whose tokens, are not known counts as `prices.unknown`,
        never as free."""
        dollars = 0.0
        for each in self.models:
            known = prices.cost(each.model, each.input, each.cached, each.output)
            if known is None:
                dollars += prices.unknown * (each.measured + each.unmeasured)
            else:
                dollars += known + prices.unknown * each.unmeasured
        return dollars


def spent(c: Connection, run: RunId) -> Spent:
    requests, sent, received = _traffic(c, run)
    return Spent(requests, sent, received, _models(c, run))


def _traffic(c: Connection, run: RunId) -> tuple[int, int, int]:
    plain, recorded = _entries.kind == "egress.end", _entries.kind == "op.end"
    begun = or_(_entries.kind == "egress.request", _entries.kind == "op.begin")

    def bytes_of(name: str) -> ColumnElement[int]:
        of_operation = _entries.data["egress"][name].as_integer()
        of = case((plain, _entries.data[name].as_integer()), (recorded, of_operation), else_=0)
        return func.coalesce(func.sum(of), 0)

    operations = or_(
        *(and_(_entries.op >= f"{kind}:", _entries.op < f"{kind};") for kind in _RECORDED)
    )
    exchanges = and_(
        _entries.kind >= literal_column("'egress.'"), _entries.kind < literal_column("'egress/'")
    )
    kinds = _entries.kind.in_([literal_column("'op.begin'"), literal_column("'op.end'")])
    query = select(
        func.coalesce(func.sum(case((begun, 1), else_=0)), 0),
        bytes_of("sent"),
        bytes_of("received"),
    ).where(_entries.run == run, or_(exchanges, and_(kinds, operations)))
    requests, out, back = c.execute(query).one()
    return requests, out, back


def _models(c: Connection, run: RunId) -> list[_OfModel]:
    silent = and_(_usage.input_tokens.is_(None), _usage.output_tokens.is_(None))
    answered = func.coalesce(_usage.status, 0) < HTTP_ERROR
    measured = func.sum(case((silent, 0), else_=1))
    unmeasured = func.sum(case((and_(silent, answered), 1), else_=0))
    tokens = (_usage.input_tokens, _usage.cached_tokens, _usage.output_tokens)
    query: Select[Any] = select(_usage.model, *map(func.sum, tokens), measured, unmeasured)
    query = query.where(_usage.run == run).group_by(_usage.model).order_by(_usage.model)
    return [_OfModel(*row) for row in c.execute(query)]
