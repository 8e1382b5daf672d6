"""Rules for the source files themselves."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
from tests.house.sources import ROOT, SOURCES, tree

import torpor
from torpor.image.initramfs import guest_sources
from torpor.wire.messages import MESSAGES, TO_AGENT

OURS = sorted(
    path
    for folder in ("src", "tests", "scripts", "examples", "docs")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".md", ".sh", ".toml")
)
LINES_MAX = 600
# The command line's functions are read by Typer, whose options are their parameters.
PARAMETERS_MAX = 9
# Written so that this file does not name what it forbids.
LEFT_OVERS = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b")
GUEST = guest_sources(Path(torpor.__file__).parent)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_module_opens_with_what_it_is_for_and_stays_small(path: Path) -> None:
    assert ast.get_docstring(tree(path)), "its first lines say what it owns"
    assert path.read_text().count("\n") <= LINES_MAX


@pytest.mark.parametrize("path", [p for p in SOURCES if "/cli/" not in str(p)], ids=name)
def test_a_function_of_many_parameters_takes_a_dataclass(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            named = [each.arg for each in taken if each.arg not in ("self", "cls")]
            assert len(named) <= PARAMETERS_MAX, f"{node.name}, line {node.lineno}"


@pytest.mark.parametrize("path", [p for p in SOURCES if "/cli/" not in str(p)], ids=name)
def test_messages_are_called_by_their_names(path: Path) -> None:
    """`torpor.wire.names` has them."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr not in ("say", "_say", "_tell", "hear", "encode", "encode_own"):
                continue
            written = {each.value for each in node.args if isinstance(each, ast.Constant)}
        elif isinstance(node, ast.Dict):
            written = {
                value.value
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant) and key.value == "t"
                if isinstance(value, ast.Constant)
            }
        else:
            continue
        assert not written & {*MESSAGES, *TO_AGENT}, f"line {node.lineno}"


@pytest.mark.parametrize("path", OURS, ids=name)
def test_nothing_is_left_for_later(path: Path) -> None:
    assert not LEFT_OVERS.findall(path.read_text())


@pytest.mark.parametrize("path", sorted(GUEST))
def test_what_runs_in_a_machine_needs_only_the_standard_library(path: str) -> None:
    """A machine has Debian's Python and these files, nothing else."""
    for module in imported(GUEST[path].decode()):
        top, _, inside = module.partition(".")
        if top == "torpor":
            assert is_in_guest(inside), f"{path} imports {module}, which no machine has"
        else:
            assert top in sys.stdlib_module_names, f"{path} imports {module}"


def imported(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None
            found.append(node.module)
    return found


def is_in_guest(module: str) -> bool:
    path = module.replace(".", "/")
    return not module or f"{path}.py" in GUEST or f"{path}/__init__.py" in GUEST


def test_test_files_have_names_of_their_own() -> None:
    """pytest finds tests in folders without __init__.py by their bare name."""
    names = [path.stem for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))
