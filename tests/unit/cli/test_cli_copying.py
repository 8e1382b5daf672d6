"""cp, and what else writes files: whole or not at all, over nothing unasked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import Result

from torpor.cli import saving
from torpor.cli.copying import Source, parse
from torpor.cli.files import not_kept
from torpor.client import Client
from torpor.core.errors import Conflict, Invalid

Torpor = Callable[..., Result]


@pytest.fixture
def run(torpor: Torpor, agent: str) -> str:
    done = torpor("run", agent, "--detach", "--input", '{"script": [["return", 1]]}')
    return str(done.stdout.strip())


def test_an_artifact_goes_to_a_file_a_directory_or_stdout(
    torpor: Torpor, run: str, tmp_path: Path
) -> None:
    assert torpor("cp", f"{run}:report.csv", str(tmp_path)).exit_code == 0
    assert (tmp_path / "report.csv").read_bytes() == b"a,b\n1,2\n"
    assert (tmp_path / "report.csv").stat().st_mode & 0o600 == 0o600
    torpor("cp", f"{run}:./report.csv", str(tmp_path / "old.csv"), "--version", "1")
    assert (tmp_path / "old.csv").read_bytes() == b"a,b\n"
    done = torpor("cp", f"{run}:out/x.html", "-")
    assert (done.exit_code, done.stdout_bytes) == (0, b"<p>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.csv", "report.csv"]


def test_a_directory_comes_as_a_directory(torpor: Torpor, run: str, tmp_path: Path) -> None:
    assert torpor("cp", f"{run}:out", str(tmp_path)).exit_code == 0
    assert (tmp_path / "out" / "x.html").read_bytes() == b"<p>"
    assert (tmp_path / "out" / "left.bin").read_bytes() == bytes(3)
    assert torpor("cp", f"{run}:.", str(tmp_path / "all")).exit_code == 0
    found = {str(path.relative_to(tmp_path / "all")) for path in (tmp_path / "all").rglob("*.*")}
    assert found == {"report.csv", "out/x.html", "out/left.bin"}
    assert torpor("cp", f"{run}:out", "-").exit_code == 2


def test_nothing_is_overwritten_unasked(torpor: Torpor, run: str, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    for command in (
        ("cp", f"{run}:report.csv", str(target)),
        ("export", run, str(target)),
        ("result", run, "step:a/b#1", "-o", str(target)),
    ):
        target.write_text("mine")
        refused = torpor(*command)
        assert refused.exit_code == 2 and "exists already" in refused.stderr, command
        assert target.read_text() == "mine"
        assert torpor(*command, "--force").exit_code == 0
        assert target.read_bytes()[:4] != b"mine"


def test_into_a_run_is_refused_with_the_way(torpor: Torpor, run: str, tmp_path: Path) -> None:
    done = torpor("cp", str(tmp_path), f"{run}:x")
    assert done.exit_code == 2
    assert "cannot be copied into a run" in done.stderr and "torpor run --file" in done.stderr


def test_what_is_not_there_names_what_is(torpor: Torpor, run: str) -> None:
    done = torpor("cp", f"{run}:nope", "-")
    assert done.exit_code == 2
    assert "no artifact 'nope'" in done.stderr and "report.csv" in done.stderr


def test_show_lists_the_newest_of_each(torpor: Torpor, run: str) -> None:
    lines = [line.split() for line in torpor("show", run).stdout.splitlines()]
    shown = [line for line in lines if line and line[0] in ("report.csv", "out/left.bin")]
    assert [line[0] for line in shown] == ["report.csv", "out/left.bin"]
    assert shown[0][-2:] == ["version", "2"] and shown[1][-3:] == ["at", "the", "end"]


def test_show_as_json_has_them(torpor: Torpor, run: str) -> None:
    shown = json.loads(torpor("show", run, "--json").stdout)
    assert [each["name"] for each in shown["artifacts"]][:1] == ["report.csv"]


def test_the_client_gives_them(client: Client, run: str) -> None:
    assert client.artifacts(run)[0]["name"] == "report.csv"
    assert b"".join(client.artifact(run, "out/x.html")) == b"<p>"


def test_what_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise OSError(28, "No space left on device")

    def refused() -> Iterator[bytes]:
        raise Conflict("no")
        yield b""

    target = tmp_path / "a"
    target.write_bytes(b"before")
    with pytest.raises(Exception, match="cannot write"):
        saving.save(target, broken())
    with pytest.raises(Conflict):
        saving.save(target, refused())
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert target.read_bytes() == b"before"


def test_a_place_that_is_none_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="is a directory"):
        saving.check_free(tmp_path, force=True)
    with pytest.raises(Invalid, match="no directory"):
        saving.check_free(tmp_path / "none" / "a", force=True)


def test_where_a_run_ends_and_a_path_begins() -> None:
    assert parse("run_1:a/b c", ".") == Source("run_1", "a/b c")
    assert parse("1m8:a:b", ".") == Source("1m8", "a:b")
    assert parse("run_1:", ".") == parse("run_1:./", ".") == Source("run_1", "")
    for odd in ("report.csv", "./run_1:x", "run_1:../x"):
        with pytest.raises(Invalid):
            parse(odd, ".")


def test_why_nothing_was_kept_is_said() -> None:
    def told(state: str, *kinds: str, error: str | None = None) -> str:
        run = {"state": state, "error": error and {"type": error}}
        return not_kept(run, [{"kind": kind} for kind in kinds])

    asleep = ("run.created", "run.started", "run.suspended", "run.cancelled")
    assert "cancelled while it slept" in told("cancelled", *asleep)
    assert told("cancelled", "run.started", "run.suspended", "run.resumed", "run.cancelled") == ""
    assert told("cancelled", "run.created", "run.cancelled") == ""
    assert "did not come to its end" in told("failed", "run.started", error="AgentExited")
    assert "machine was lost" in told("failed", "run.started", error="MachineLost")
    assert told("failed", "run.started", error="ValueError") == ""
    assert told("completed", "run.started", "run.suspended", "run.resumed") == ""
