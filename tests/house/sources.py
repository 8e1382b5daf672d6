"""torpor's sources, as the tests of this folder look at them: each is parsed once for all."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TORPOR = ROOT / "src" / "torpor"
SOURCES = sorted(TORPOR.rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    """To be looked at, not to be changed."""
    return ast.parse(path.read_text())


def inside(package: Path) -> set[str]:
    """The modules and packages of a package."""
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    return modules | {path.parent.name for path in package.glob("*/__init__.py")}


def packages() -> set[str]:
    return inside(TORPOR)
