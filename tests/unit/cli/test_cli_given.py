"""Files given with a run: the command line and the client, a real server, real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.conftest import Torpor
from typer.testing import CliRunner

from torpor.cli.given import Files
from torpor.cli.main import app
from torpor.client import Client, ensure_server, stop_server
from torpor.client import files as client_files
from torpor.client.files import Given
from torpor.core.errors import Invalid, NotFound
from torpor.core.home import Home
from torpor.project.reading import read_agent

AGENT = """
from pathlib import Path
import torpor

@torpor.agent
def look(doc: Path | None = None, raw: bytes = b"", text: str = "", any=None) -> dict:
    files = {str(p): p.stat().st_size for p in sorted(Path().rglob("*")) if p.is_file()}
    return {"files": files, "doc": str(doc), "raw": len(raw), "text": text, "any": any}
"""
BINARY = bytes(range(256)) * 5000  # 1.28 MB: more than an input takes


@pytest.fixture(scope="module")
def real() -> Iterator[Home]:
    # Short: the path of a Unix socket must be.
    with (
        tempfile.TemporaryDirectory(prefix="torpor-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TORPOR_ENGINE", "process")
        home = Home(Path(folder))
        ensure_server(home)
        (home.root / "agent.py").write_text(AGENT)
        Client(home).deploy(read_agent(home.root / "agent.py"), lambda *_: None)
        yield home
        stop_server(home)


@pytest.fixture
def here(tmp_path: Path, real: Home, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that commands are run in."""
    monkeypatch.setenv("TORPOR_HOME", str(real.root))
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.bin").write_bytes(BINARY)
    (tmp_path / "note.txt").write_text("a note")
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "a").write_text("a")
    (tmp_path / "d" / "e" / "b").write_text("bb")
    return tmp_path


@pytest.fixture
def command(here: Path) -> Torpor:
    return lambda *args, **options: CliRunner().invoke(app, list(args), **options)


def result(command: Torpor, *options: str) -> dict[str, Any]:
    done = command("run", f"{Home.find().root}/agent.py", *options)
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_files_and_directories_at_their_places(command: Torpor, here: Path) -> None:
    outside = here / "out" / "x.csv"
    outside.parent.mkdir()
    outside.write_text("xyz")
    places = ("d", "data.bin", "note.txt:in/n.txt", "note.txt:in/", str(outside), "./d/a:twice")
    found = result(command, *(word for place in places for word in ("--file", place)))
    assert {k: v for k, v in found["files"].items() if not k.endswith((".py", ".pyc"))} == {
        "d/a": 1,
        "d/e/b": 2,
        "data.bin": len(BINARY),
        "in/n.txt": 6,
        "in/note.txt": 6,
        "twice": 1,
        "x.csv": 3,
    }
    run = Client(Home.find()).runs()[0]["id"]
    shown = command("show", run)
    assert "file" in shown.stdout and "data.bin, 1.3 MB" in shown.stdout
    assert len(json.loads(command("show", run, "--json").stdout)["files"]) == 7


def test_a_parameter_takes_a_file_as_it_is_annotated(command: Torpor, here: Path) -> None:
    given = ("-i", "doc=@data.bin", "-i", "raw=@data.bin", "-i", "text=@note.txt")
    found = result(command, *given, "-i", "any=@note.txt")
    assert (found["doc"], found["raw"]) == ("inputs/data.bin", len(BINARY))
    assert (found["text"], found["any"]) == ("a note", "a note")
    assert found["files"]["inputs/raw/data.bin"] == len(BINARY)
    whole = result(command, "-i", "doc=@d")
    assert whole["doc"] == "inputs/d" and whole["files"]["inputs/d/e/b"] == 2
    # What is deployed is described by the server.
    done = command("run", "look", "-i", "raw=@note.txt")
    assert json.loads(done.stdout)["raw"] == 6, done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--file", "nowhere"], "there is no file nowhere"),
        (["--file", "empty"], "empty has no files in it"),
        (["--file", "note.txt:../x"], "leads out of it"),
        (["--file", "note.txt:/x"], "is absolute"),
        (["--file", "note.txt:"], "names no place"),
        (["--file", ":x"], "names no file"),
        (["--file", "note.txt", "--file", "d/a:note.txt"], "would both be at note.txt"),
        (["--file", "note.txt:d", "--file", "d"], "'d' would be both a file and the directory of"),
        (["--file", "fifo"], "is no regular file"),
        (["--file", "links"], "is a link to a directory"),
        (["--file", "huge"], "at most 1,073,741,824"),
        (["-i", "text=@data.bin"], "an input takes at most 1,048,576; annotate the parameter Path"),
        (["-i", "any=@binary"], "has no annotation, and so takes text; annotate it Path or bytes"),
        (["-i", "text=@binary"], "byte 128 is not UTF-8), and the parameter takes text"),
        (["-i", "text=@d"], "is a directory; annotate the parameter Path"),
        (["-i", "raw=@huge"], "at most 1,073,741,824"),
        (["-i", "raw=@big"], "a bytes parameter takes at most 67,108,864; annotate it Path"),
        (["-i", "doc=@nowhere"], "there is no file nowhere"),
    ],
)
def test_what_cannot_be_given_is_said_before_there_is_a_run(
    command: Torpor, here: Path, options: list[str], said: str
) -> None:
    (here / "empty").mkdir()
    (here / "links").mkdir()
    (here / "links" / "l").symlink_to(here / "d")
    (here / "binary").write_bytes(BINARY[:1000])
    os.mkfifo(here / "fifo")
    for name, size in (("huge", (1 << 30) + 1), ("big", (64 << 20) + 1)):
        with (here / name).open("wb") as file:
            file.truncate(size)
    before = len(Client(Home.find()).runs())
    done = command("run", f"{Home.find().root}/agent.py", *options)
    assert done.exit_code == 2 and said in done.stderr, done.stderr
    assert len(Client(Home.find()).runs()) == before


def test_a_schedule_and_a_fork_are_given_no_files(command: Torpor) -> None:
    result(command)
    run = Client(Home.find()).runs()[0]["id"]
    for args in (("fork", run), ("schedules", "add", "s", "@daily", "look")):
        done = command(*args, "-i", "doc=@note.txt")
        assert "only torpor run can give files to a run" in done.stderr, done.stderr


def test_programs_give_files_and_bytes(here: Path, real: Home) -> None:
    client = Client(real)
    with pytest.raises(NotFound, match="there is no file"):
        client.start(None, "look", {}, None, files={"x": here / "nowhere"})
    with pytest.raises(Invalid, match="is a directory"):
        client.upload(here / "d")
    with pytest.raises(Invalid, match="the path leads out of it"):
        client.start(None, "look", {}, None, files={"../x": b"x"})
    given: dict[str, Given] = {"x/data.bin": here / "data.bin", "note": b"bytes"}
    given["n"] = str(here / "note.txt")
    run = client.start(None, "look", {"raw": {"$file": "note"}}, "a key", files=given)["id"]
    assert client.start(None, "look", {"raw": {"$file": "note"}}, "a key", files=given)["id"] == run
    *_, last = client.follow(run)
    assert last.state == "completed"  # type: ignore[union-attr]
    found = client.run(run)
    assert [each["path"] for each in found["files"]] == ["n", "note", "x/data.bin"]
    assert (found["result"]["raw"], found["result"]["files"]["x/data.bin"]) == (5, len(BINARY))


def test_a_file_that_changes_meanwhile_is_refused(
    here: Path, real: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changing(change: Callable[[Path], object]) -> None:
        path = here / "changing"
        path.write_bytes(os.urandom(3 << 20))
        whole = client_files.Content.of(path)
        change(path)
        monkeypatch.setattr(client_files.Content, "of", lambda given: whole)
        with pytest.raises(Invalid, match="changed while it was being uploaded"):
            Client(real).upload(path)
        monkeypatch.undo()

    changing(lambda path: path.write_bytes(path.read_bytes()[:-1]))
    changing(lambda path: path.write_bytes(path.read_bytes() + b"x"))
    changing(lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]))


def drafts(home: Home) -> list[Path]:
    return list((home.blobs / "tmp").iterdir())


def test_a_client_that_is_killed_leaves_nothing(here: Path, real: Home) -> None:
    """It has sent some of what it said that it would."""
    with socket.socket(socket.AF_UNIX) as half:
        half.connect(str(real.socket("server")))
        head = b"POST /v1/files HTTP/1.1\r\nhost: torpor\r\ncontent-length: 50000000\r\n\r\n"
        half.sendall(head + os.urandom(5 << 20))
        client = Client(real)
        while not drafts(real):
            client.health()
    while drafts(real):
        client.health()
    with sqlite3.connect(real.database) as database:
        assert not database.execute("SELECT 1 FROM files WHERE bytes > 4000000").fetchall()


def test_an_upload_that_is_interrupted_starts_nothing(here: Path, real: Home) -> None:
    (here / "large").write_bytes(os.urandom(3 << 20))
    code = (
        "import os, signal, sys; from torpor.client import files; from torpor.cli.main import app\n"
        "real = files.Content.pieces\n"
        "def pieces(self):\n"
        "    yield from list(real(self))[:2]\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.Content.pieces = pieces\n"
        "app(['run', 'look', '--file', 'large'])"
    )
    before = len(Client(real).runs())
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    while drafts(real):
        Client(real).health()
    assert len(Client(real).runs()) == before


def test_places_are_as_people_expect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b").write_text("a name with a colon")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    (tmp_path / "sub" / "c").write_text("c")
    assert [*Files.of_options(["../a:b", "./c", "c:x//y"]).by_place] == ["a:b", "c", "x/y"]
    assert [*Files.of_options(["."]).by_place] == ["c"]
    assert [*Files.of_options([".:in"]).by_place] == ["in/c"]
