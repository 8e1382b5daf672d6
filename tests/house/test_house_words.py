"""Names say what a thing is, or what is done, and each has one meaning (ARCHITECTURE.md, "Words").

What cannot be checked by a program is left to readers; what can be is here: participles that stood
for four things each (`told`, `asked`, `made`, `said`, `heard`) are not names.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.house.sources import ROOT, SOURCES, tree

NOT_NAMES = {"told", "asked", "made", "said", "heard"}
# Columns, and fields of replies: what is stored or public keeps its name. asyncio's, too.
DATA = {"made_at", "made_with", "heard_seq", "connection_made"}
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def names(module: ast.AST) -> Iterator[tuple[str, int]]:
    """Every identifier that is given a meaning here, and its line."""
    for node in ast.walk(module):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name, node.lineno
            case ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, node.lineno
            case ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.alias(asname=str(name)):
                yield name, node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_nouns_for_things_and_verbs_for_acts(path: Path) -> None:
    found = [
        f"{name} (line {line})"
        for name, line in names(tree(path))
        if name not in DATA and NOT_NAMES & {word.lower() for word in WORD.findall(name)}
    ]
    assert not found
