"""docs/limits.md says what the constants say, and lacks none that people meet; and each limit
stands once: modules that need the same import it, from `torpor.core.limits` or its owner."""

from __future__ import annotations

import ast
import importlib
import re
from collections import defaultdict
from collections.abc import Iterator

import pytest
from tests.house.sources import ROOT, SOURCES, TORPOR, tree

PAGE = (ROOT / "docs" / "limits.md").read_text()
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
    "core.artifacts.MEDIA_TYPE_MAX",
    "core.jsonvalues.ENTRY_DEPTH_MAX",
    "core.jsonvalues.MESSAGE_DEPTH_MAX",
}


def value(where: str) -> float:
    """Of a module, or a default of a class of it."""
    path, _, name = where.rpartition(".")
    module, _, owner = path.rpartition(".")
    if owner[:1].isupper():
        holder = getattr(importlib.import_module(f"torpor.{module}"), owner)
    else:
        holder = importlib.import_module(f"torpor.{path}")
    found: float = getattr(holder, name)
    return found


@pytest.mark.parametrize(("said", "where"), ROWS)
def test_a_limit_is_its_constant(said: str, where: str) -> None:
    number, _, unit = said.partition(" ")
    assert float(number.replace(",", "")) * UNITS[unit] == value(where)


def test_none_is_there_twice_or_left_out() -> None:
    named = [where for _, where in ROWS]
    assert len(named) == len(set(named)) == PAGE.count(" | `")
    assigned = list(constants())
    for module in WHOLE:
        file = f"{module.replace('.', '/')}.py"
        own = [name for of, name, _ in assigned if of == file and name.endswith("_MAX")]
        known = {f"{module}.{name}" for name in own}
        assert known <= {*named, *INNER}


def constants() -> Iterator[tuple[str, str, str]]:
    """Module, name without its underscore, and value as it is written, of whatever is assigned in
    a module to a name in capitals."""
    for path in SOURCES:
        module = str(path.relative_to(TORPOR))
        for node in tree(path).body:
            if not isinstance(node, ast.Assign):
                continue
            for target in node.targets:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts, strict=True))
                for name, value in pairs:
                    if isinstance(name, ast.Name) and name.id.isupper():
                        yield module, name.id.lstrip("_"), ast.unparse(value)


def number(text: str) -> float | str:
    """What an expression of numbers comes to; another one as it is written."""
    if re.fullmatch(r"[0-9_.e+*<()\s-]+", text):
        return float(eval(text))
    return text


def test_each_limit_stands_once() -> None:
    """A time by its name, whatever its value, for two values of one name were one limit once; any
    other by name and value. Measurements may take what times they like."""
    where: defaultdict[tuple[str, float | str], set[str]] = defaultdict(set)
    for module, name, value in constants():
        if name.endswith(("_S", "_S_MAX", "_S_MIN")) and not module.startswith("bench/"):
            where[name, "any"].add(module)
        elif name.endswith(("_MAX", "_MIN")):
            where[name, number(value)].add(module)
    assert not {limit: modules for limit, modules in where.items() if len(modules) > 1}
