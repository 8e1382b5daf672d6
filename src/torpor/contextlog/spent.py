"""What went out, and what that took: of a run, of an agent or an API key on a day.

The log says it: the end of each exchange has how many bytes it was, and, where a model took tokens
or money, what its broker counted (`USED`), by the prices that were known then. `spent` adds up a
run's own entries: a fork does not pay for what it shares with its origin. So does the table
`spent`, in the transaction that appends an entry: for the run, for its agent on that day (UTC) and
for the API key that started it, since a broker is to know that whenever a run has a machine. What
a run used on a day stays when it is deleted.

Exchanges are counted when they end; what is under way, the broker knows (`egress.budgets`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    or_,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

from torpor.contextlog import schema
from torpor.contextlog.messages import RECORDED
from torpor.contextlog.prepared import Prepared
from torpor.core.amounts import KINDS
from torpor.core.ids import RunId
from torpor.core.prices import Prices
from torpor.core.replies import HTTP_ERROR

# In `egress` of an op.end: {requests, tokens?, cost?}, of what was let out.
USED = "used"
RUN, AGENT, KEY = "run", "agent", "key"  # whose: names of a broker's policy

_entries, _usage, _spent, _runs = schema.entries.c, schema.usage.c, schema.spent, schema.runs.c


@dataclass(frozen=True)
class _OfModel:
    """Its calls that were answered, and of which no broker said what they took: `measured` ones
    do."""

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
    counted_tokens: int = 0
    counted_cost: float = 0.0
    models: Sequence[_OfModel] = ()

    @property
    def tokens(self) -> int:
        others = sum((each.input or 0) + (each.output or 0) for each in self.models)
        return self.counted_tokens + others

    def cost(self, prices: Prices) -> float:
        """Dollars: a call whose price, or whose tokens, are not known counts as `prices.unknown`,
        never as free."""
        dollars = self.counted_cost
        for each in self.models:
            known = prices.cost(each.model, each.input, each.cached, each.output)
            if known is None:
                dollars += prices.unknown * (each.measured + each.unmeasured)
            else:
                dollars += known + prices.unknown * each.unmeasured
        return dollars


def spent(c: Connection, run: RunId) -> Spent:
    return Spent(*_traffic(c, run), _models(c, run))


def _traffic(c: Connection, run: RunId) -> tuple[int, int, int, int, float]:
    plain, recorded = _entries.kind == "egress.end", _entries.kind == "op.end"
    begun = or_(_entries.kind == "egress.request", _entries.kind == "op.begin")
    way_out = _entries.data["egress"]
    # Of these its broker let out none.
    held_back = and_(
        recorded, way_out["rule"].as_string().is_not(None), _used("requests").is_(None)
    )

    def bytes_of(name: str) -> ColumnElement[int]:
        of_operation = way_out[name].as_integer()
        of = case((plain, _entries.data[name].as_integer()), (recorded, of_operation), else_=0)
        return func.coalesce(func.sum(of), 0)

    operations = or_(*(schema.begins_with(_entries.op, f"{kind}:") for kind in RECORDED))
    kinds = _entries.kind.in_([literal_column("'op.begin'"), literal_column("'op.end'")])
    cost = case((plain, _entries.data["cost"].as_float()), else_=_used("cost"))
    query = select(
        func.coalesce(func.sum(case((begun, 1), (held_back, -1), else_=0)), 0),
        bytes_of("sent"),
        bytes_of("received"),
        func.coalesce(func.sum(_used("tokens")), 0),
        func.coalesce(func.sum(cost), 0.0),
    ).where(_entries.run == run, or_(schema.exchanges, and_(kinds, operations)))
    requests, out, back, tokens, dollars = c.execute(query).one()
    return requests, out, back, int(tokens), dollars


def _used(name: str) -> ColumnElement[float]:
    found: ColumnElement[float] = _entries.data["egress"][USED][name].as_float()
    return found


def _models(c: Connection, run: RunId) -> list[_OfModel]:
    silent = and_(_usage.input_tokens.is_(None), _usage.output_tokens.is_(None))
    answered = func.coalesce(_usage.status, 0) < HTTP_ERROR
    measured = func.sum(case((silent, 0), else_=1))
    unmeasured = func.sum(case((and_(silent, answered), 1), else_=0))
    tokens = (_usage.input_tokens, _usage.cached_tokens, _usage.output_tokens)
    query: Select[Any] = select(_usage.model, *map(func.sum, tokens), measured, unmeasured)
    of_entry = and_(_entries.run == _usage.run, _entries.seq == _usage.seq)
    query = query.join(schema.entries, of_entry).where(_usage.run == run, _used("cost").is_(None))
    query = query.group_by(_usage.model).order_by(_usage.model)
    return [_OfModel(*row) for row in c.execute(query)]


def amounts_of(kind: str, data: Mapping[str, Any]) -> dict[str, float]:
    """What an entry says was used; of most, nothing."""
    if kind == "egress.end":
        out, took = data, {"requests": 1, "cost": data.get("cost", 0.0)}
    elif kind == "op.end" and "egress" in data:
        out = data["egress"]
        took = out.get(USED, {})
    else:
        return {}
    known = {"bytes_out": out.get("sent", 0), "bytes_in": out.get("received", 0), **took}
    return {name: known[name] for name in KINDS if known.get(name)}


def note(c: Connection, run: RunId, several: Sequence[Mapping[str, float]], now: float) -> None:
    """Add what entries of the run's that are just appended say was used."""
    whole = _added_up(several)
    _note(c, [whole | each for each in _accounts(c, run, now)])


def note_imported(c: Connection, run: RunId, several: Sequence[Mapping[str, float]]) -> None:
    """What a run from elsewhere has used; its days were of another host."""
    _note(c, [{"per": RUN, "whose": run, "day": ""} | _added_up(several)])


def _added_up(several: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {kind: sum(each.get(kind, 0.0) for each in several) for kind in KINDS}


def known(c: Connection, run: RunId, now: float) -> dict[str, dict[str, float]]:
    """{run, agent, key} of what was used, the last two today; what there is of them."""
    found = {each["per"]: _READ.rows(c, **each) for each in _accounts(c, run, now)}
    return {per: dict(zip(KINDS, rows[0], strict=True)) for per, rows in found.items() if rows}


def _accounts(c: Connection, run: RunId, now: float) -> list[dict[str, str]]:
    ((agent, key),) = _NAMES.rows(c, in_run=run)
    today = datetime.fromtimestamp(now, UTC).date().isoformat()
    return [
        {"per": RUN, "whose": run, "day": ""},
        {"per": AGENT, "whose": agent, "day": today},
        {"per": KEY, "whose": key or "", "day": today},
    ]


_NAMES = Prepared(
    select(schema.agents.c.name, _runs.api_key)
    .join(schema.runs, schema.agents.c.version == _runs.version)
    .where(_runs.id == bindparam("in_run"))
)
_table = _spent.c
_WHICH = [_table.per, _table.whose, _table.day]
_READ = Prepared(
    select(*(_table[kind] for kind in KINDS)).where(
        *(column == bindparam(column.name) for column in _WHICH)
    )
)


def _note(c: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    insert = postgresql.insert if c.dialect.name == "postgresql" else sqlite.insert
    new = insert(_spent)
    added = {kind: _table[kind] + new.excluded[kind] for kind in KINDS}
    c.execute(new.on_conflict_do_update(index_elements=_WHICH, set_=added), list(rows))
