"""What the documents say is so."""

from __future__ import annotations

import importlib
import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.house.sources import ROOT, SOURCES, packages
from tests.unit.guest.conftest import Driver

from torpor import sdk
from torpor.cli.commands import COMMANDS
from torpor.project.reading import read_agent

DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    ROOT / "examples" / "README.md",
    ROOT / "changelog.d" / "README.md",
]
INSIDE = [ROOT / "ARCHITECTURE.md", *(ROOT / "docs" / "internals").glob("*.md")]
WORDS_MAX = 3000
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
IN_TEXT = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(((?!https?://)[^)#]+)")
TO_HEADING = re.compile(r"\]\(((?!https?://)[^)#]*)#([^)]+)\)")
HEADING = re.compile(r"^#{2,} (.+)$", re.MULTILINE)
SDK_NAME = re.compile(r"\btorpor\.(\w+)")
COMMAND = re.compile(r"`torpor ([a-z]+)(?: ([a-z]+))?")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def guide() -> str:
    return (ROOT / "docs" / "agents.md").read_text()


def agents() -> list[str]:
    return CODE.findall(guide())


def test_the_example_of_the_readme_is_the_example() -> None:
    (shown,) = CODE.findall((ROOT / "README.md").read_text())
    assert shown == (ROOT / "examples" / "sleeper.py").read_text()


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text()):
        assert (path.parent / target).exists(), target


def anchors(path: Path) -> list[str]:
    """Of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    bare = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text))
    return [heading.strip().replace(" ", "-") for heading in bare]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_to_headings_lead_to_one(path: Path) -> None:
    for target, heading in TO_HEADING.findall(path.read_text()):
        page = path.parent / target if target else path
        assert page.suffix != ".md" or heading in anchors(page), f"{target}#{heading}"


@pytest.mark.parametrize("path", INSIDE, ids=name)
def test_pages_about_the_inside_list_their_headings_at_the_top(path: Path) -> None:
    top = path.read_text().partition("\n## ")[0]
    assert [heading for target, heading in TO_HEADING.findall(top) if not target] == anchors(path)


def test_the_architecture_can_be_read_at_one_sitting() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text().split()) <= WORDS_MAX


def test_the_guide_names_all_of_the_sdk_and_nothing_else() -> None:
    known = set(sdk.__all__)
    named = set(SDK_NAME.findall(guide()))
    assert named == known | {"testing"}  # which has a guide of its own


@pytest.mark.parametrize("source", agents())
def test_agents_of_the_guide_do_what_it_says(source: str, tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    try:
        driver.answer = answer
        # Of several the last one is meant.
        agent = re.findall(r"^@torpor.agent\n(?:async )?def (\w+)", source, re.MULTILINE)[-1]
        returned = driver.value(source, agent=agent)
    finally:
        driver.close()
    (told,) = re.findall(r"^# returns (.+)$", source, re.MULTILINE)
    assert returned == json.loads(told)


@pytest.mark.parametrize("source", CODE.findall((ROOT / "docs" / "testing.md").read_text()))
def test_tests_of_the_guide_pass(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("test_of_the_guide")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source, "docs/testing.md", "exec"), vars(module))
    tests = [each for name, each in vars(module).items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()


@pytest.mark.parametrize("recipe", CODE.findall((ROOT / "docs" / "frameworks.md").read_text())[1:])
def test_recipes_for_frameworks_can_be_deployed(recipe: str, tmp_path: Path) -> None:
    """What they do is in `tests/frameworks`."""
    (tmp_path / "server.py").touch()
    file = tmp_path / "agent.py"
    file.write_text(recipe)
    assert read_agent(file).dependencies


def answer(asked: dict[str, Any]) -> Any:
    """What a person, the clock or a model answers."""
    if asked["kind"] in ("wait", "event"):
        approved = True if asked["data"].get("approve") else None
        return {"status": "completed", "data": None, "approved": approved, "note": None, "by": "me"}
    if asked["kind"] == "permission":
        decided = {"data": {"decision": "once"}, "approved": True, "note": None, "by": "me"}
        return {"status": "completed", **decided}
    if asked["kind"] == "child":
        found = f"{asked['data']['input']['topic']}: found"
        return {"status": "completed", "data": found, "approved": None, "note": None, "by": "run"}
    if asked["kind"] == "model":
        said = {"choices": [{"message": {"content": "Fine."}}]}
        headers = {"content-type": "application/json"}
        return {"status": 200, "headers": headers, "body": json.dumps(said)}
    return None


def commands() -> Iterator[str]:
    """All there are: `run`, `bench sleep` …"""
    for listed in (each for panel in COMMANDS.values() for each in panel):
        inside = getattr(listed.load(), "commands", None)
        yield from (f"{listed.name} {each}" for each in inside) if inside else (listed.name,)


def test_the_page_of_commands_has_them_all_and_no_other() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    known = set(commands())
    groups = {command.partition(" ")[0] for command in known if " " in command}
    named = {
        f"{first} {second}" if first in groups else first for first, second in COMMAND.findall(page)
    }
    assert named == known


def symbols() -> list[str]:
    """`package.module.Symbol` in ARCHITECTURE.md and the pages that go deeper."""
    known = packages()
    text = "".join(path.read_text() for path in INSIDE)
    named = {each for each in IN_TEXT.findall(text) if re.fullmatch(r"[\w.]+", each)}
    return sorted(each for each in named if "." in each and each.partition(".")[0] in known)


@pytest.mark.parametrize("symbol", symbols())
def test_the_architecture_names_what_exists(symbol: str) -> None:
    parts = symbol.split(".")
    found: Any = importlib.import_module(f"torpor.{parts[0]}")
    for place, part in enumerate(parts[1:], start=1):
        if not hasattr(found, part):
            importlib.import_module(f"torpor.{'.'.join(parts[: place + 1])}")
        found = getattr(found, part)


def test_rules_are_cited_by_numbers_that_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rules = text.partition("## Rules that must hold")[2].partition("\n## ")[0]
    numbers = {int(number) for number in re.findall(r"^(\d+)\. \*", rules, re.MULTILINE)}
    assert numbers == set(range(1, 14))
    cited = re.compile(r"\b[Rr]ules? (\d+(?:(?:, | and | to )\d+)*)")
    for path in SOURCES:
        for citation in cited.findall(path.read_text()):
            assert {int(number) for number in re.findall(r"\d+", citation)} <= numbers, path
