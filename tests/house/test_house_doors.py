"""The door of each package: its docstring lists the modules that are behind it, a line each, in the
order in which one reads them:

name   what it owns
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src"
DOORS = sorted(SOURCES.rglob("__init__.py"))
LINE = re.compile(r"^(\w+) {2,}(?=\S)", re.MULTILINE)


def inside(package: Path) -> set[str]:
    """The modules and packages of a package."""
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    return modules | {path.parent.name for path in package.glob("*/__init__.py")}


@pytest.mark.parametrize("door", DOORS, ids=lambda path: str(path.parent.relative_to(SOURCES)))
def test_a_door_lists_what_is_behind_it_once_and_nothing_else(door: Path) -> None:
    lines = list(LINE.finditer(ast.get_docstring(ast.parse(door.read_text())) or ""))
    names = [line.group(1) for line in lines]
    assert sorted(names) == sorted(inside(door.parent)), "a line 'name   what it owns' for each"
    assert len({len(line.group()) for line in lines}) <= 1, "what they own stands in one column"
