"""The door of each package: its docstring lists the modules that are behind it, a line each, in the
order in which one reads them:

name   what it owns
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from tests.house.sources import ROOT, SOURCES, inside, tree

DOORS = [path for path in SOURCES if path.name == "__init__.py"]
LINE = re.compile(r"^(\w+) {2,}(?=\S)", re.MULTILINE)


@pytest.mark.parametrize("door", DOORS, ids=lambda path: str(path.parent.relative_to(ROOT / "src")))
def test_a_door_lists_what_is_behind_it_once_and_nothing_else(door: Path) -> None:
    lines = list(LINE.finditer(ast.get_docstring(tree(door)) or ""))
    names = [line.group(1) for line in lines]
    assert sorted(names) == sorted(inside(door.parent)), "a line 'name   what it owns' for each"
    assert len({len(line.group()) for line in lines}) <= 1, "what they own stands in one column"
