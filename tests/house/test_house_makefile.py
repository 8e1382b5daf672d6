"""`make help` has every target, and documents name no other."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
(PHONY,) = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
TARGETS = set(PHONY.split())
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def test_help_is_what_make_shows_and_has_every_target() -> None:
    alone, asked = (
        subprocess.run(
            ["make", "--no-print-directory", *target],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for target in ([], ["help"])
    )
    assert alone == asked
    assert set(re.findall(r"^make ([a-z]+) +\S", asked, re.MULTILINE)) == TARGETS


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_targets_that_exist(path: Path) -> None:
    named = re.findall(r"(?:`|^    )make ([a-z]+)\b", path.read_text(), re.MULTILINE)
    assert set(named) <= TARGETS
