"""`scripts/release`: a commit is released as what its tag says, or not at all."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from scripts import releasing
from scripts.releasing import Refused, disagreements, prepare

import torpor

CHANGELOG = "# Changelog\n\n## 1.2.0, 2026-11-28\n\n### Added\n"


def found(
    version: str = "1.2.0",
    tags: tuple[str, ...] = ("v1.2.0",),
    changelog: str = CHANGELOG,
    fragments: tuple[str, ...] = (),
    dirty: bool = False,
) -> list[str]:
    return disagreements(version, tags=tags, changelog=changelog, fragments=fragments, dirty=dirty)


def test_version_tag_and_changelog_agree() -> None:
    assert found() == []
    assert found(tags=("v1.2.0", "v1.2.0-signed")) == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (found(version="1.3.0"), "v1.2.0, its version 1.3.0"),
        (found(changelog="# Changelog\n\n## Unreleased\n"), "no '## 1.2.0, DATE'"),
        (found(changelog=CHANGELOG.replace("1.2.0", "1x2x0")), "no '## 1.2.0, DATE'"),
        (found(fragments=("a.added.md",)), "still has a.added.md"),
        (found(dirty=True), "not as they were committed"),
    ],
)
def test_what_differs_is_said(wrong: list[str], says: str) -> None:
    assert says in " ".join(wrong)


def test_a_commit_without_a_tag_claims_nothing() -> None:
    assert found(version="1.3.0", tags=(), fragments=("a.added.md",), dirty=True) == []


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a release changes, in a repository of its own, of which v0.9.0 is tagged."""
    for name in ("pyproject.toml", "CHANGELOG.md", "changelog.d/template.md.jinja"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((releasing.ROOT / name).read_bytes())
    (tmp_path / "changelog.d" / "tea.added.md").write_text("It makes `tea`.\n")
    (tmp_path / "changelog.d" / "cold.fixed.md").write_text("It is hot.\n")
    version = tmp_path / "version.py"
    version.write_text(f'"""torpor"""\n\n__version__ = "{torpor.__version__}"\n')
    monkeypatch.setattr(releasing, "ROOT", tmp_path)
    monkeypatch.setattr(torpor, "__file__", str(version))
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "m"],
        ["tag", "v0.9.0"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_prepared_the_version_is_written_and_the_fragments_are_gathered(clone: Path) -> None:
    before = (clone / "CHANGELOG.md").read_text()
    prepare("1.2.0")
    assert '__version__ = "1.2.0"' in (clone / "version.py").read_text()
    changelog = (clone / "CHANGELOG.md").read_text()
    head, _, rest = changelog.partition("\n### Added\n\n- It makes `tea`.\n")
    assert rest.startswith("\n### Fixed\n\n- It is hot.\n")
    assert head.partition("## 1.2.0, ")[0].rstrip().endswith("-->")
    assert changelog.endswith(before.partition("-->")[2].strip() + "\n")
    assert releasing.fragments() == []
    assert found(changelog=changelog) == []


@pytest.mark.parametrize(("version", "says"), [("0.9.0", "after 0.9.0"), ("next", "no version")])
def test_a_version_that_cannot_be_next_is_refused(clone: Path, version: str, says: str) -> None:
    with pytest.raises(Refused, match=says):
        prepare(version)
    assert torpor.__version__ in (clone / "version.py").read_text()
