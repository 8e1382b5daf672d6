"""Amounts that budgets limit, as people write them: "2 USD", 1000, "1.5M", "20M". Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torpor.core.errors import Invalid

KINDS = ("cost", "tokens", "requests", "bytes_out", "bytes_in")
COST_MAX = 1_000_000.0
COUNT_MAX = 10**15
_COST = re.compile(
    r"\s*(?:\$\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)|([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*USD)\s*"
)
_COUNT = re.compile(r"\s*([0-9][0-9_]{0,17})(?:\.([0-9]{1,6}))?\s*([KMG]?)\s*", re.IGNORECASE)
_BYTES = re.compile(r"\s*([0-9]{1,15})\s*([KMGT]?)(?:i?B)?\s*", re.IGNORECASE)
_THOUSANDS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_BINARY = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def _cost(value: Any, what: str) -> float:
    match = _COST.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise Invalid(f'{what} is not an amount of money such as "2 USD" or "$0.50"')
    dollars = float(match[1] or match[2])
    if dollars > COST_MAX:
        raise Invalid(f"{what} is more than {COST_MAX:,.0f} USD")
    return dollars


def _count(value: Any, what: str) -> int:
    """In thousands, as tokens and requests are counted: "1.5M" are 1,500,000."""
    match = _COUNT.fullmatch(value) if isinstance(value, str) else None
    if match is not None:
        unit = _THOUSANDS[match[3].upper()]
        fraction = int(match[2].ljust(6, "0")) * unit // 10**6 if match[2] else 0
        value = int(match[1]) * unit + fraction
    return _whole(value, f'{what} is not a number such as 1000 or "1.5M"')


def _size(value: Any, what: str) -> int:
    """In bytes: "20M" are 20 MiB, as everywhere in torpor."""
    match = _BYTES.fullmatch(value) if isinstance(value, str) else None
    if match is not None:
        value = int(match[1]) * _BINARY[match[2].upper()]
    return _whole(value, f'{what} is not a size such as "20M" or "1G"')


def _whole(value: Any, problem: str) -> int:
    if type(value) is not int or not 0 <= value <= COUNT_MAX:
        raise Invalid(problem)
    return value


_READ: dict[str, Callable[[Any, str], Any]] = {
    "cost": _cost,
    "tokens": _count,
    "requests": _count,
    "bytes_out": _size,
    "bytes_in": _size,
}


def parse_amount(kind: str, value: Any, what: str) -> Any:
    """An amount of `kind`, a key of a budget. Raises Invalid, whose message begins with `what`."""
    return _READ[kind](value, what)


def shown(kind: str, amount: float) -> str:
    """For people: "0.50 USD", "1,000 requests", "20,971,520 bytes"."""
    if kind == "cost":
        return f"{amount:.6f}".rstrip("0").rstrip(".") + " USD"
    unit = {"bytes_out": "bytes sent", "bytes_in": "bytes received"}.get(kind, kind)
    return f"{amount:,.0f} {unit.removesuffix('s') if amount == 1 else unit}"
