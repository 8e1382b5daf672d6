"""What an author's editor shows of torpor: the names, their documentation, their types."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import torpor
import torpor.client
import torpor.testing
from torpor import sdk

PROGRAM = Path(__file__).with_name("public_names.py")
PUBLIC = [("torpor", each) for each in sdk.__all__] + [
    ("torpor.testing", each) for each in torpor.testing.__all__
]


def members(value: Any) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class, or of what a value is an instance of."""
    kind = value if inspect.isclass(value) else type(value)
    if kind.__module__.startswith("torpor."):
        for name, member in vars(kind).items():
            if not name.startswith("_") and (callable(member) or isinstance(member, property)):
                yield name, member


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_every_public_name_says_what_it_does(module: str, name: str) -> None:
    value = getattr(sys.modules[module], name)
    assert isinstance(value, str) or name == "TIMEOUT" or inspect.getdoc(value)
    assert not [each for each, member in members(value) if not inspect.getdoc(member)]


def test_the_names_are_those_of_the_sdk() -> None:
    assert set(sdk.__all__) <= set(dir(torpor))
    imported: dict[str, Any] = {}
    exec("from torpor import *", imported)
    assert imported.keys() - {"__builtins__"} == set(sdk.__all__)
    with pytest.raises(AttributeError, match="'torpor' has no attribute 'nothing'"):
        _ = torpor.nothing  # type: ignore[attr-defined]


def test_a_host_that_asks_for_the_version_loads_no_sdk() -> None:
    program = "import sys, torpor; torpor.__version__; sys.exit('torpor.sdk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_the_typed_program_uses_every_public_name() -> None:
    tree = ast.parse(PROGRAM.read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "torpor.testing"
        for alias in node.names
    }
    assert set(sdk.__all__) <= used
    assert set(torpor.testing.__all__) == imported
