"""What the server does by the time, and how long it waits, is handed to it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tests.house.sources import SOURCES, TORPOR, tree

MODULES = [path for path in SOURCES if path.relative_to(TORPOR).parts[0] in ("worker", "control")]
# Whoever needs these asks a `torpor.core.clock.Clock`.
READS = {"now", "utcnow", "today"}  # of datetime and date, unless they are the clock's
WAITS = {"sleep", "timeout", "timeout_at", "wait_for"}  # of asyncio


def wrong(node: ast.AST) -> str | None:
    match node:
        case ast.Import(names=names) if any(each.name == "time" for each in names):
            return "imports time"
        case ast.ImportFrom(module="time"):
            return "imports from time"
        case ast.ImportFrom(module="asyncio", names=names) if names:
            return "imports from asyncio, which hides what waits"
        case ast.Attribute(value=ast.Name(id="asyncio"), attr=attr) if attr in WAITS:
            return f"asyncio.{attr}"
        case ast.Attribute(value=ast.Name(id="datetime" | "date"), attr=attr) if attr in READS:
            return f"datetime.{attr}"
        case ast.Call(func=ast.Attribute(value=ast.Name(id="asyncio"), attr="wait"), keywords=kw):
            return "asyncio.wait with a timeout" if any(k.arg == "timeout" for k in kw) else None
        case ast.Call(func=ast.Attribute(value=value, attr="time")) if "loop" in ast.unparse(value):
            return "an event loop's time"
    return None


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(TORPOR)))
def test_no_clock_is_read_and_nothing_waits_but_by_the_clock_that_was_given(path: Path) -> None:
    found = [(node, said) for node in ast.walk(tree(path)) if (said := wrong(node)) is not None]
    assert not [f"line {getattr(node, 'lineno', 0)}: {said}" for node, said in found]
