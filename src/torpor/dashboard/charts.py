"""What a query found, drawn: a small chart for each column of numbers. Pure.

A row is a place along the chart; what it is called is in the columns that are no numbers. Whether a
result is one to draw (a few names with numbers, not a list of entries) is decided here, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torpor.web import words

WIDTH, HEIGHT = 600.0, 120.0
CHARTS_MAX = 4
ROWS_MIN, ROWS_MAX = 2, 200
_GAP = 0.15  # of a bar's place
_LABEL_CHARS = 40
_NAMES_MAX = 6


@dataclass(frozen=True)
class Bar:
    """`says` is its name and number, for who points at it or hears it."""

    x: float
    y: float
    width: float
    height: float
    says: str


@dataclass(frozen=True)
class Chart:
    """`zero` is where in it 0 is; `names` are its bars', or its ends' where it has many."""

    title: str
    bars: list[Bar]
    zero: float
    low: str
    high: str
    names: list[str]


def charts(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[Chart]:
    """Empty where there is nothing to compare."""
    if not ROWS_MIN <= len(rows) <= ROWS_MAX:
        return []
    numbers = numeric(rows)
    names = [at for at in range(len(columns)) if at not in numbers]
    if not names:  # all are numbers: the first is what the others are of
        names, numbers = [0], numbers[1:]
    called = [
        words.line(" ".join(words.compact(row[at]) for at in names), _LABEL_CHARS) for row in rows
    ]
    return [_chart(columns[at], called, [row[at] for row in rows]) for at in numbers[:CHARTS_MAX]]


def numeric(rows: Sequence[Sequence[Any]]) -> list[int]:
    """Which columns have numbers and nothing else."""
    return [at for at in range(len(rows[0]) if rows else 0) if _is_numeric(rows, at)]


def _is_numeric(rows: Sequence[Sequence[Any]], at: int) -> bool:
    values = [row[at] for row in rows if row[at] is not None]
    return bool(values) and all(type(value) in (int, float) for value in values)


def _chart(title: str, called: list[str], values: list[int | float | None]) -> Chart:
    known = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min([0, *known]), max([0, *known])
    span = (high - low) or 1
    place = WIDTH / len(values)
    zero = high / span * HEIGHT if high > low else HEIGHT
    bars = []
    for at, value in enumerate(values):
        if value is None or not math.isfinite(value):
            continue
        length = abs(value) / span * HEIGHT
        y = zero - length if value > 0 else zero
        x, width = place * (at + _GAP / 2), place * (1 - _GAP)
        says = f"{called[at]}: {number(value)}"
        bars.append(Bar(round(x, 2), round(y, 2), round(width, 2), round(length, 2), says))
    shown = (number(low), number(high))
    names = called if len(called) <= _NAMES_MAX else [called[0], called[-1]]
    return Chart(words.line(title, 60), bars, round(zero, 2), *shown, names)


def number(value: int | float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
