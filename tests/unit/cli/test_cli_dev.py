"""`torpor dev` in a real (pseudo) terminal, with a real server: files are saved as editors save."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.test_cli_terminal import CHOICES, CTRL_C, Terminal

from torpor.cli.exits import Exit
from torpor.client import Client, ensure_server, stop_server
from torpor.core.home import Home
from torpor.project.reading import read_agent

pytest.importorskip("watchfiles", reason="uv sync: this environment is older than the lock file")

AGENT = """
import torpor

@torpor.step
def look(topic):
    print("looking for", topic)
    return topic.upper()

@torpor.step
def write(found):
    print("writing")
    return f"on {found}"

@torpor.agent
def main(topic: str):
    text = write(look(topic))
    return text
"""
ASKING = AGENT.replace("return text", 'return torpor.approve("Send?", text) and text')


@pytest.fixture(scope="module")
def server() -> Iterator[Home]:
    # Short: the path of a Unix socket must be.
    with tempfile.TemporaryDirectory(prefix="torpor-") as folder:
        home = Home(Path(folder))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TORPOR_ENGINE", "process")
            ensure_server(home)
        yield home
        stop_server(home)


class Project:
    """A directory that is edited while `torpor dev` runs."""

    def __init__(self, directory: Path) -> None:
        self.agent = directory / "agent.py"

    def save(self, text: str) -> None:
        self.agent.write_text(text)

    def save_by_rename(self, text: str) -> None:
        beside = self.agent.with_suffix(".tmp")
        beside.write_text(text)
        beside.rename(self.agent)


@contextmanager
def developing(
    program: list[str], server: Home, text: str, directory: Path, *more: str
) -> Iterator[tuple[Terminal, Project]]:
    project = Project(directory)
    project.save(text)
    terminal = Terminal([*program, "dev", str(project.agent), *more], server)
    try:
        yield terminal, project
    finally:
        terminal.close()


def test_each_save_is_run(program: list[str], server: Home, tmp_path: Path) -> None:
    with developing(program, server, AGENT, tmp_path, "-i", "topic=owls") as (terminal, project):
        terminal.expect("isolated from nothing", "/ui/login?token=", "&run=run_")
        terminal.expect("looking for owls", "writing", "on OWLS", "completed")
        edited = AGENT.replace("on {found}", "about {found}")
        project.save(edited)
        terminal.expect("agent.py changed", "goes on with 1 recorded operation")
        terminal.expect("step:write#1 runs again", "about OWLS", "completed")
        project.save_by_rename(edited + "\n# a comment\n")
        terminal.expect("goes on with 2 recorded operations", "about OWLS", "completed")
        project.save(edited.replace("write(look(topic))", "write(look(topic + '!'))"))
        terminal.expect("goes on with 2", "from here it does something else")
        terminal.expect("looking for owls!", "writing", "about OWLS!", "completed")
        terminal.type(CTRL_C)
        assert terminal.exit_code() == Exit.INTERRUPTED
        assert terminal.is_as_before()


def test_a_slip_leaves_the_run_as_it_is(program: list[str], server: Home, tmp_path: Path) -> None:
    with developing(program, server, ASKING, tmp_path, "-i", "topic=owls") as (terminal, project):
        terminal.expect("Send?", CHOICES)
        project.save(ASKING + "\ndef (\n")
        terminal.expect("error: agent.py, line 19", "the run goes on as it was", "Send?", CHOICES)
        project.save(ASKING + "\nimport nothing_of_that_name\n")
        terminal.expect("does not load: ModuleNotFoundError", f'File "{project.agent}", line 19')
        terminal.expect("the run goes on as it was", "Send?", CHOICES)
        # The old question is withdrawn, the new one is asked.
        project.save(ASKING.replace("Send?", "Send it?"))
        terminal.expect("Send?: cancelled", "goes on with 2", "Send it?", CHOICES)
        terminal.type("y")
        terminal.expect("Send it?: approved", "on OWLS", "completed")
        terminal.type(CTRL_C)
        assert terminal.exit_code() == Exit.INTERRUPTED


def test_a_file_that_is_wrong_from_the_start(
    program: list[str], server: Home, tmp_path: Path
) -> None:
    with developing(program, server, "def (\n", tmp_path, "-i", "topic=owls") as (
        terminal,
        project,
    ):
        terminal.expect("error: agent.py, line 1", "the next save is tried")
        project.save(AGENT)
        terminal.expect("looking for owls", "on OWLS", "completed")


def test_what_is_left_goes_on(program: list[str], server: Home, tmp_path: Path) -> None:
    with developing(program, server, ASKING, tmp_path, "-i", "topic=owls") as (terminal, _):
        terminal.expect("Send?", CHOICES)
        terminal.type(CTRL_C)
        terminal.expect("the run goes on: torpor logs -f run_")
        assert terminal.exit_code() == Exit.INTERRUPTED
    client = Client(server)
    (newest,) = client.runs(limit=1)
    assert (newest["state"] in ("running", "suspended"), newest["queue"]) == (True, "dev")


def test_runs_of_dev_are_listed_and_deleted_together(
    program: list[str], server: Home, tmp_path: Path
) -> None:
    with developing(program, server, AGENT, tmp_path, "-i", "topic=owls") as (terminal, project):
        terminal.expect("completed")
        project.save(AGENT + "\n# a comment\n")
        terminal.expect("goes on with 2", "completed")

    def torpor(*args: str) -> Any:
        env = {**os.environ, "TORPOR_HOME": str(server.root)}
        done = subprocess.run([*program, *args, "--json"], env=env, capture_output=True, check=True)
        return json.loads(done.stdout)

    client = Client(server)
    for run in client.all_runs(("queued", "running", "suspended")):
        client.cancel(run["id"])
    deployed = client.deploy(read_agent(project.agent), lambda *_: None, "process")
    other = client.start(deployed["version"], "main", {"topic": "bats"}, None)["id"]
    listed = {run["id"] for run in torpor("ps", "--queue", "dev")}
    assert len(listed) >= 2 and other not in listed
    assert len(torpor("delete", "--queue", "dev")) == len(listed)
    assert torpor("ps", "--queue", "dev") == []
    assert client.run(other)["id"] == other


def test_what_newer_code_has_taken_over_is_not_listed(
    program: list[str], server: Home, tmp_path: Path
) -> None:
    def listed(*more: str) -> set[str]:
        env = {**os.environ, "TORPOR_HOME": str(server.root)}
        command = [*program, "ps", *more, "--json"]
        done = subprocess.run(command, env=env, capture_output=True, check=True)
        return {run["id"] for run in json.loads(done.stdout) if run["agent"] == "over"}

    text = ASKING.replace("def main", "def over")
    with developing(program, server, text, tmp_path, "-i", "topic=owls") as (terminal, project):
        terminal.expect("Send?", CHOICES)
        (first,) = listed()
        project.save(text + "\n# a comment\n")
        terminal.expect("goes on with 2", "Send?", CHOICES)
        (second,) = listed()
        assert second != first and listed("--queue", "dev") == listed("--all") == {first, second}
        terminal.type("y")
        terminal.expect("completed")


def test_a_changed_pyproject_is_named_and_not_what_is_made_of_it(
    program: list[str], server: Home, tmp_path: Path
) -> None:
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text("[project]\nname = 'owls'\nversion = '1'\n")
    with developing(program, server, AGENT, tmp_path, "-i", "topic=owls") as (terminal, _):
        terminal.expect("completed")
        pyproject.write_text("[project]\nname = 'owls'\nversion = '2'\n")
        terminal.expect("↻ pyproject.toml changed", "completed")


def test_what_is_left_out_is_told_with_what_is_new(
    program: list[str], server: Home, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'quiet'\n")
    (tmp_path / "agent.py").write_text(AGENT)
    (tmp_path / ".env").write_text("KEY=1\n")

    def deployed() -> str:
        env = {**os.environ, "TORPOR_HOME": str(server.root)}
        command = [*program, "deploy", str(tmp_path), "--engine", "process"]
        return subprocess.run(command, env=env, capture_output=True, check=True).stderr.decode()

    assert "left out: .env" in deployed()
    assert "left out" not in deployed()


def test_of_several_agents_one_is_to_be_named(
    program: list[str], server: Home, tmp_path: Path
) -> None:
    two = AGENT + "\n@torpor.agent\ndef other():\n    return 1\n"
    with developing(program, server, two, tmp_path) as (terminal, project):
        terminal.expect(f"error: {project.agent} has several agents: main, other")
        terminal.expect(f"Name one, such as {project.agent}:main")


def test_an_input_that_does_not_fit(program: list[str], server: Home, tmp_path: Path) -> None:
    with developing(program, server, AGENT, tmp_path) as (terminal, _):
        terminal.expect("error:", "topic")
        assert terminal.exit_code() == Exit.REFUSED


def test_a_file_that_is_not_there(program: list[str], server: Home, tmp_path: Path) -> None:
    terminal = Terminal([*program, "dev", str(tmp_path / "none.py")], server)
    try:
        terminal.expect("error: no agent file at")
        assert terminal.exit_code() == Exit.REFUSED
    finally:
        terminal.close()


def test_begun_anew(program: list[str], server: Home, tmp_path: Path) -> None:
    fresh = ("-i", "topic=owls", "--fresh")
    with developing(program, server, AGENT, tmp_path, *fresh) as (terminal, project):
        terminal.expect("looking for owls", "completed")
        project.save(AGENT + "\n# a comment\n")
        terminal.expect("begins anew", "looking for owls", "writing", "completed")


def test_a_project_with_files_that_come_to_be(
    program: list[str], server: Home, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'owls'\nversion = '1'\n")
    (tmp_path / "agent.py").write_text(AGENT)
    terminal = Terminal([*program, "dev", str(tmp_path), "-i", "topic=owls"], server)
    try:
        terminal.expect("on OWLS", "completed")
        (tmp_path / "more" / "deep").mkdir(parents=True)
        (tmp_path / "more" / "deep" / "words.txt").write_text("night")
        terminal.expect("more/deep/words.txt changed", "completed")
        read = AGENT.replace(
            'f"on {found}"',
            '(Path(__file__).parent / "more/deep/words.txt").read_text() + found',
        )
        (tmp_path / "agent.py").write_text("from pathlib import Path\n" + read)
        terminal.expect("agent.py changed", "nightOWLS", "completed")
        (tmp_path / "more" / "deep" / "words.txt").write_text("day")
        terminal.expect("words.txt changed", "step:write#1 runs again", "dayOWLS", "completed")
    finally:
        terminal.close()


def test_many_saves(program: list[str], server: Home, tmp_path: Path) -> None:
    """Nothing is left of the runs before: neither processes nor open files."""
    with developing(program, server, ASKING, tmp_path, "-i", "topic=owls") as (terminal, project):
        terminal.expect("Send?", CHOICES)
        before = 0
        for number in range(20):
            project.save(ASKING.replace("Send?", f"Send {number}?"))
            terminal.expect("changed", f"Send {number}?", CHOICES)
            if number == 9:
                before = terminal.open_files()
        assert terminal.open_files() <= before
        client = Client(server)
        unfinished = [run["id"] for run in client.all_runs(("queued", "running", "suspended"))]
        assert len(unfinished) == 1
        terminal.type("y")
        terminal.expect("on OWLS", "completed")
    # One that waits for the next run of each of the versions used last, and no other.
    agents = [path for path in Path("/proc").glob("[0-9]*/cmdline") if _is_agent_of(path, server)]
    assert len(agents) <= 4


def _is_agent_of(path: Path, server: Home) -> bool:
    try:
        words = path.read_bytes()
    except OSError:
        return False
    return b"torpor.sdk.alone" in words and os.fsencode(server.root) in words
