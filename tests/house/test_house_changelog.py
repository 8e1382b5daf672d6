"""What the next release changes: a file each in changelog.d, which the release can gather."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]
FOLDER = ROOT / SETTINGS["directory"]
CATEGORIES = [each["directory"] for each in SETTINGS["type"]]
NOT_FRAGMENTS = {FOLDER / "README.md", ROOT / SETTINGS["template"]}
FRAGMENTS = sorted({*FOLDER.iterdir()} - NOT_FRAGMENTS)
CHARS_MAX = 600


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.name)
def test_a_fragment_is_named_by_its_change_and_category(path: Path) -> None:
    assert re.fullmatch(rf"[a-z0-9-]+\.({'|'.join(CATEGORIES)})\.md", path.name), (
        "NAME.CATEGORY.md, as changelog.d/README.md says"
    )


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.name)
def test_a_fragment_is_a_sentence_or_two_and_no_list(path: Path) -> None:
    text = path.read_text().strip()
    assert text.endswith(".") and len(text) <= CHARS_MAX
    assert not text.startswith(("-", "*", "#")), "the release makes the list and its headings"


def test_the_categories_are_explained() -> None:
    explained = re.findall(r"^\| `([a-z]+)` \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert explained == CATEGORIES


def test_there_is_a_place_for_what_is_gathered() -> None:
    unreleased = f"## Unreleased\n\n[^#]*{re.escape(SETTINGS['start_string'])}"
    assert re.search(unreleased, (ROOT / SETTINGS["filename"]).read_text())
