"""Files out of a working directory, by a real tar of it."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from torpor.cli import fetching
from torpor.core.errors import Conflict, GuestError, Invalid, NotFound


class Beside:
    """What `Client.exec` gives, of a command that runs here in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.instead: bytes | None = None  # what it writes, whatever it is asked

    @contextmanager
    def exec(self, ref: str, asked: dict[str, Any]) -> Iterator[Beside]:
        self.done = subprocess.run(asked["command"], cwd=self.directory, capture_output=True)
        yield self

    def events(self) -> Iterator[Any]:
        yield {"exec": "exec_1", "run": "run_1"}
        data = self.done.stdout if self.instead is None else self.instead
        for at in range(0, len(data), 1000):
            yield 1, data[at : at + 1000]
        yield 2, self.done.stderr
        yield {"code": 0 if self.instead is not None else self.done.returncode, "problem": None}


@pytest.fixture
def beside(tmp_path: Path) -> Beside:
    work = tmp_path / "work"
    (work / "out" / "deep").mkdir(parents=True)
    (work / "a.txt").write_text("a")
    (work / "-rf").write_text("dash")
    (work / "out" / "b.bin").write_bytes(bytes(300_000))
    (work / "out" / "deep" / "c").write_text("c")
    (work / "out" / "link").symlink_to("deep")
    return Beside(work)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def fetch(beside: Beside, path: str, destination: Path | str, force: bool = False) -> list[Path]:
    client: Any = beside
    return fetching.fetch(client, "run_1", path, str(destination), force=force)


def names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_a_file(beside: Beside, here: Path) -> None:
    assert fetch(beside, "a.txt", here) == [here / "a.txt"]
    fetch(beside, "out/b.bin", here / "other.bin")
    fetch(beside, "-rf", here)
    assert (here / "other.bin").read_bytes() == bytes(300_000)
    assert names(here) == ["-rf", "a.txt", "other.bin"]
    with pytest.raises(Conflict, match="exists already"):
        fetch(beside, "a.txt", here)
    assert fetch(beside, "a.txt", here, force=True)


def test_a_file_to_stdout(beside: Beside, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert fetch(beside, "a.txt", "-") == []
    assert capfdbinary.readouterr().out == b"a"


def test_a_directory_is_one_here(beside: Beside, here: Path) -> None:
    fetch(beside, "out", here)
    assert names(here) == ["out", "out/b.bin", "out/deep", "out/deep/c", "out/link"]
    assert (here / "out" / "link").is_symlink()
    fetch(beside, "out/deep", here / "named")
    assert names(here / "named") == ["c"]
    (here / "out" / "b.bin").write_text("mine")
    with pytest.raises(Conflict, match=r"b\.bin and 2 more exists already"):
        fetch(beside, "out", here)
    assert (here / "out" / "b.bin").read_text() == "mine"
    fetch(beside, "out", here, force=True)
    assert (here / "out" / "b.bin").read_bytes() == bytes(300_000)


def test_all_there_is(beside: Beside, here: Path) -> None:
    fetch(beside, "", here)
    assert {"a.txt", "out/deep/c"} <= set(names(here))
    with pytest.raises(Invalid, match="is a directory"):
        fetch(beside, "", "-")


def test_what_is_not_there(beside: Beside, here: Path) -> None:
    with pytest.raises(NotFound):
        fetch(beside, "none", here)
    with pytest.raises(Invalid, match="no directory"):
        fetch(beside, "out", here / "no" / "such")
    assert names(here) == []


def test_nothing_a_machine_sends_gets_anywhere_else(beside: Beside, here: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, kind, link in (
            ("out", tarfile.DIRTYPE, ""),
            ("out/fine", tarfile.REGTYPE, ""),
            ("../escaped", tarfile.REGTYPE, ""),
            ("out/../../escaped", tarfile.REGTYPE, ""),
            ("out/away", tarfile.SYMTYPE, "/etc"),
            ("out/away/passwd", tarfile.REGTYPE, ""),
            ("out/device", tarfile.CHRTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            archive.addfile(member)
    beside.instead = packed.getvalue()
    fetch(beside, "out", here)
    assert names(here) == ["out", "out/away", "out/away/passwd", "out/fine"]
    assert not (here / "out" / "away").is_symlink()
    assert names(here.parent / "work") and not (here.parent / "escaped").exists()


@pytest.mark.parametrize("path", ["out", "a.txt", "out/b.bin"])
def test_what_is_cut_off_or_no_archive_leaves_nothing(
    beside: Beside, here: Path, path: str
) -> None:
    command = ["tar", "-cf", "-", path]
    whole = subprocess.run(command, cwd=beside.directory, capture_output=True).stdout
    for instead in (whole[:-10_240][: 100_000 if path != "a.txt" else 512], b"no archive" * 100):
        beside.instead = instead
        with pytest.raises(GuestError):
            fetch(beside, path, here)
        assert names(here) == []
