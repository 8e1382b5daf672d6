"""CONTRIBUTING.md: one page, whose suites, paths and commits there are."""

from __future__ import annotations

import importlib.util
import re
import subprocess

import pytest
from tests.house.sources import ROOT, packages

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
LINES_MAX = 80
COMMITS = sorted(set(re.findall(r"`([0-9a-f]{7,})`", PAGE)))


def test_it_is_one_page() -> None:
    assert PAGE.count("\n") <= LINES_MAX


def test_every_suite_is_named() -> None:
    named = set(re.findall(r"^\| `tests/(\w+)` \|", PAGE, re.MULTILINE))
    tests = ROOT / "tests"
    assert named == {path.relative_to(tests).parts[0] for path in tests.rglob("test_*.py")}


def test_the_modules_it_names_are_there() -> None:
    dotted = re.findall(r"`((\w+)(?:\.\w+)+)`", PAGE)
    named = [name for name, package in dotted if package in packages()]
    assert named
    for name in named:
        module = f"torpor.{name}"
        while module.rpartition(".")[2][:1].isupper():  # a constant or a class in it
            module = module.rpartition(".")[0]
        assert importlib.util.find_spec(module), name


def test_the_files_it_names_are_there() -> None:
    for path in re.findall(r"\b(?:docs|tests|src|scripts)/[\w./]*\w", PAGE):
        assert (ROOT / path.replace("PACKAGE", "policy")).exists(), path


@pytest.mark.parametrize("commit", COMMITS)
def test_the_commits_it_names_are_there(commit: str) -> None:
    def git(*command: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *command], capture_output=True, text=True)
        return done.stdout.strip()

    if git("rev-parse", "--is-shallow-repository") != "false":
        pytest.skip("no repository with its history here")
    assert git("cat-file", "-t", commit) == "commit"
