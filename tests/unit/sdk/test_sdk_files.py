"""Whether files were written, by whoever and however."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from torpor.sdk import files
from torpor.sdk.files import Changes


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    (tmp_path / "work/old.txt").write_text("old")
    return tmp_path


def _overwrite(home: Path) -> None:
    with (home / "work/old.txt").open("r+") as file:
        file.write("new")


def _child(home: Path) -> None:
    code = "open('made.txt', 'w').write('x')"
    subprocess.run([sys.executable, "-c", code], cwd=home / "work", check=True)


def _in_new_directory(home: Path) -> None:
    (home / "work/a/b").mkdir(parents=True)


@pytest.mark.parametrize(
    "write",
    [
        lambda home: (home / "work/new.txt").write_text("x"),
        _overwrite,
        lambda home: (home / "work/old.txt").unlink(),
        lambda home: (home / "work/old.txt").rename(home / "work/moved.txt"),
        lambda home: (home / "work/old.txt").chmod(0o600),
        lambda home: os.truncate(home / "work/old.txt", 1),
        _in_new_directory,
        _child,
    ],
)
def test_every_way_to_write_counts(home: Path, write: Callable[[Path], object]) -> None:
    changes = Changes([str(home)])
    before = changes.mark()
    assert changes.mark() == before
    write(home)
    assert changes.mark() != before


def test_what_is_new_is_watched_too(home: Path) -> None:
    changes = Changes([str(home)])
    _in_new_directory(home)
    before = changes.mark()
    (home / "work/a/b/deep.txt").write_text("x")
    assert changes.mark() != before


def test_reading_counts_for_nothing(home: Path) -> None:
    changes = Changes([str(home)])
    before = changes.mark()
    (home / "work/old.txt").read_text()
    list((home / "work").iterdir())
    assert changes.mark() == before


def test_marks_of_two_steps_do_not_disturb_each_other(home: Path) -> None:
    changes = Changes([str(home)])
    first = changes.mark()
    (home / "work/new.txt").write_text("x")
    second = changes.mark()
    assert changes.mark() == second != first


def test_beyond_what_is_watched_the_free_blocks_tell(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "DIRECTORIES_MAX", 1)
    changes = Changes([str(home)])
    free = [(10, 5)]
    monkeypatch.setattr(Changes, "_free", lambda self: free[-1])
    before = changes.mark()
    assert before.free == (10, 5)
    free.append((9, 5))
    assert changes.mark() != before
