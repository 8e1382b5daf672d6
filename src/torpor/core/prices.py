"""What models cost: a table that people can edit.

`prices.toml` beside this file is the default; `$TORPOR_HOME/prices.toml`, in the same form, is laid
over it, model by model:

    [models."gpt-4.1"]
    input = 2.00       # US dollars for a million tokens
    cached = 0.50      # of the input, those read from a cache; as `input` if it is not given
    output = 8.00

A name stands for itself and for names that go on after it with a date or a version
(`gpt-4.1-2025-04-14`): the longest that fits is taken. What no name fits has no known cost.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torpor.core.errors import Invalid
from torpor.core.replies import HTTP_ERROR

UNKNOWN = 0.50  # dollars, of a call whose price nobody knows, unless the host's file says otherwise
DEFAULT = Path(__file__).with_name("prices.toml")
_KINDS = ("input", "cached", "output")
_PER_TOKENS = 1_000_000
# What may follow a name in the name of the same model.
_GOES_ON = "-@:"

Price = Mapping[str, float]


class Prices:
    """A frozen table, by model: dollars for a million tokens. `unknown` is what a call counts
    towards budgets whose price is not known."""

    def __init__(self, table: Mapping[str, Price], unknown: float = UNKNOWN) -> None:
        self.table, self.unknown = table, unknown
        self._of = cache(self._find)

    @classmethod
    def load(cls, own: Path, unknown: float = UNKNOWN) -> Prices:
        """The default with `own` laid over it, if that is there. Raises Invalid."""
        table = _read(DEFAULT)
        return cls(table | _read(own) if own.exists() else table, unknown)

    @classmethod
    def load_whole(cls, own: Path, unknown: float = UNKNOWN) -> Prices:
        """As `load`, but a table of one's own that is malformed counts as none: what is shown
        beside costs does not depend on it. `torpor query` says what is wrong with it."""
        try:
            return cls.load(own, unknown)
        except Invalid:
            return cls(_read(DEFAULT), unknown)

    def cost(
        self, model: str | None, input: int | None, cached: int | None, output: int | None
    ) -> float | None:
        """Dollars; None where the model's price or what it took is not known."""
        price = None if model is None else self._of(model)
        if price is None or (input is None and output is None):
            return None
        read = min(cached or 0, input or 0)
        fresh = (input or 0) - read
        dollars = (
            fresh * price["input"]
            + read * price.get("cached", price["input"])
            + (output or 0) * price["output"]
        )
        return dollars / _PER_TOKENS

    def charge(
        self,
        model: str | None,
        status: int | None,
        input: int | None,
        cached: int | None,
        output: int | None,
    ) -> float:
        """What an answered call counts towards budgets."""
        if input is None and output is None and (status or 0) >= HTTP_ERROR:
            return 0.0
        cost = self.cost(model, input, cached, output)
        return self.unknown if cost is None else cost

    def _find(self, model: str) -> Price | None:
        # Gateways put who serves it first: `openai/gpt-4.1`.
        for name in (model, model.rpartition("/")[2]):
            if name in self.table:
                return self.table[name]
            longest = max((k for k in self.table if _continues(name, k)), key=len, default=None)
            if longest is not None:
                return self.table[longest]
        return None


def _continues(name: str, known: str) -> bool:
    rest = name.removeprefix(known)
    # A date or a version, not another model: gpt-4.1-2025-04-14, but not gpt-4.1-mini.
    return rest != name and rest[:1] in _GOES_ON and rest[1:2].isdigit()


def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        document = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Invalid(f"{path}: {error}", hint="docs/sql.md shows its form.") from error
    models = document.get("models", {})
    if set(document) - {"models"} or not isinstance(models, dict):
        raise Invalid(f'{path}: only tables [models."NAME"] are allowed')
    return {name: _price(path, name, row) for name, row in models.items()}


def _price(path: Path, name: str, row: Any) -> dict[str, float]:
    if not isinstance(row, dict) or set(row) - set(_KINDS) or not {"input", "output"} <= set(row):
        raise Invalid(f"{path}: {name!r} needs input and output, and may have cached, in dollars")
    for kind, value in row.items():
        if type(value) not in (int, float) or not (math.isfinite(value) and value >= 0):
            raise Invalid(f"{path}: {name!r}: {kind} is not a price: {value!r}")
    return {kind: float(value) for kind, value in row.items()}
