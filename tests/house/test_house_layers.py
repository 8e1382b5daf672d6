"""The packages and what they may import: the table, the contracts, the contract's kind."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from grimp import ImportGraph
from tests.house.layers import MayImport
from tests.house.sources import ROOT, packages

ROW = re.compile(r"^\| `([a-z.]+)` \|[^|]+\|([^|]*)\|$", re.MULTILINE)


def table() -> dict[str, set[str]]:
    """Package → what it may import, as ARCHITECTURE.md has it."""
    text = (ROOT / "ARCHITECTURE.md").read_text().partition("## Packages")[2].partition("\n## ")[0]
    return {name: set(re.findall(r"`([a-z.]+)`", allowed)) for name, allowed in ROW.findall(text)}


def contracts() -> dict[str, set[str]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return {
        each["package"].removeprefix("torpor."): {
            name.removeprefix("torpor.") for name in each.get("allowed", ())
        }
        for each in settings["contracts"]
    }


def test_the_table_and_the_contracts_say_the_same() -> None:
    assert contracts() == table()


def test_every_package_has_a_row() -> None:
    assert {name for name in table() if "." not in name} == packages()


def checked(
    imports: dict[str, str], allowed: list[str], apart: list[str] | None = None
) -> list[str]:
    """What the contract for `torpor.a` complains about, in a program with these imports."""
    graph = ImportGraph()
    for module in ("torpor", "torpor.a", "torpor.a.inner", "torpor.ab", "torpor.b", "torpor.b.c"):
        graph.add_module(module)
    for importer, imported in imports.items():
        graph.add_import(
            importer=importer, imported=imported, line_number=7, line_contents="import"
        )
    options: dict[str, Any] = {"package": "torpor.a", "allowed": allowed, "apart": apart or []}
    contract = MayImport(
        "a", session_options={"root_packages": ["torpor"]}, contract_options=options
    )
    check = contract.check(graph, verbose=False)
    lines: list[str] = check.metadata["lines"]
    assert check.kept is not bool(lines)
    return lines


@pytest.mark.parametrize(
    ("imported", "allowed", "kept"),
    [
        ("torpor.b", [], False),
        ("torpor.ab", [], False),
        ("torpor.b.c", ["torpor.b"], True),
        ("torpor.b.c", ["torpor.b.c"], True),
        ("torpor.b", ["torpor.b.c"], False),
        ("torpor.a", [], True),
        ("torpor", [], True),
    ],
)
def test_only_what_is_named_may_be_imported(imported: str, allowed: list[str], kept: bool) -> None:
    complaint = [f"torpor.a.inner imports {imported} (line 7)"]
    assert checked({"torpor.a.inner": imported}, allowed) == ([] if kept else complaint)


def test_what_others_import_is_their_own_contracts_business() -> None:
    assert checked({"torpor.ab": "torpor.b"}, []) == []


def test_a_part_with_a_contract_of_its_own_is_left_to_that() -> None:
    imports = {"torpor.a.inner": "torpor.b"}
    assert checked(imports, []) != []
    assert checked(imports, [], apart=["torpor.a.inner"]) == []
    assert checked({"torpor.a": "torpor.a.inner"}, [], apart=["torpor.a.inner"]) != []
