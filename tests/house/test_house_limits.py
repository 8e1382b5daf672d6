"""docs/limits.md says what the constants say, and lacks none that people meet."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
ROW = re.compile(r"^\| .+ \| (.+) \| `([\w.]+)` \|$", re.MULTILINE)
ROWS = [(said, where) for said, where in ROW.findall(PAGE)]
YEAR_S = 366 * 86400
# What a number in the table is of.
UNITS = {
    "": 1,
    "bytes": 1,
    "characters": 1,
    "digits": 1,
    "deep": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "s": 1,
    "hour": 3600,
    "day": 86400,
    "years of 366 days": YEAR_S,
}
# All of these modules are limits of what people give.
WHOLE = ("core.runfiles", "core.artifacts", "core.jsonvalues", "core.starting")
# Of those: parts of other limits, and what nobody meets.
INNER = {
    "core.runfiles.PATHS_CHARS_MAX",
    "core.runfiles.NAME_BYTES_MAX",
    "core.artifacts.NAME_MAX",
    "core.artifacts.MEDIA_TYPE_MAX",
    "core.jsonvalues.ENTRY_DEPTH_MAX",
    "core.jsonvalues.MESSAGE_DEPTH_MAX",
}


def value(where: str) -> float:
    module, _, name = where.rpartition(".")
    found: float = getattr(importlib.import_module(f"torpor.{module}"), name)
    return found


@pytest.mark.parametrize(("said", "where"), ROWS)
def test_a_limit_is_its_constant(said: str, where: str) -> None:
    number, _, unit = said.partition(" ")
    assert float(number.replace(",", "")) * UNITS[unit] == value(where)


def test_none_is_there_twice_or_left_out() -> None:
    named = [where for _, where in ROWS]
    assert len(named) == len(set(named)) == PAGE.count(" | `")
    for module in WHOLE:
        constants = vars(importlib.import_module(f"torpor.{module}"))
        known = {f"{module}.{name}" for name in constants if name.endswith("_MAX")}
        assert known <= {*named, *INNER}
