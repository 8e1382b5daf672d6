"""What a command loads before it does anything: no more than it needs, since people wait for it."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import Result

from torpor.cli.commands import COMMANDS
from torpor.cli.lazy import Listed
from torpor.cli.main import app
from torpor.client import Client

Torpor = Callable[..., Result]

LISTED = [each for commands in COMMANDS.values() for each in commands]

# None takes less than 50 ms, and pydantic 170: typer reads with it what somebody typed.
HEAVY = {"pydantic", "httpx", "sqlalchemy", "fastapi", "numpy", "asyncio", "jinja2", "jsonschema"}
ALSO_RICH = HEAVY | {"rich", "http.client", "ssl", "torpor.client", "torpor.terminal.screen"}

# The program as its console script starts it; which modules are loaded at its end.
PROGRAM = """
import atexit, json, sys
from pathlib import Path
atexit.register(lambda: Path(sys.argv[1]).write_text(json.dumps(list(sys.modules))))
argv, sys.argv = sys.argv, ["torpor", *sys.argv[2:]]
atexit.register(lambda: setattr(sys, "argv", argv))
from torpor.cli.entry import main
main()
"""


def loaded(folder: Path, *args: str, **env: str) -> tuple[str, set[str]]:
    """What the command prints, and what it loads."""
    names = folder / "modules.json"
    command = [sys.executable, "-c", PROGRAM, str(names), *args]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=True)
    return done.stdout, set(json.loads(names.read_text()))


def test_the_version_loads_no_command(tmp_path: Path) -> None:
    out, modules = loaded(tmp_path, "--version")
    assert out.startswith("torpor ")
    assert not modules & ALSO_RICH


def test_help_loads_no_command(tmp_path: Path) -> None:
    out, modules = loaded(tmp_path, "--help", COLUMNS="200")
    for each in LISTED:
        assert f" {each.name} " in out
        assert each.help in out
    assert not modules & (ALSO_RICH - {"rich"})
    assert not modules & {f"torpor.cli.{each.where.partition(':')[0]}" for each in LISTED}


def test_ps_loads_what_it_shows_and_asks_with(
    tmp_path: Path, torpor: Torpor, client: Client, agent: str
) -> None:
    run = torpor("run", agent, "-d").stdout.strip()
    out, modules = loaded(tmp_path, "ps", TORPOR_HOME=str(client.home.root))
    assert run in out
    assert not modules & (HEAVY | {"rich.console"})
    assert not modules & {"torpor.cli.agents", "torpor.cli.attach", "torpor.core.agentfile"}


def test_completion_loads_only_what_is_completed(
    tmp_path: Path, torpor: Torpor, client: Client, agent: str
) -> None:
    run = torpor("run", agent, "-d").stdout.strip()
    typed = {
        "_TORPOR_COMPLETE": "complete_bash",
        "COMP_WORDS": "torpor show run_",
        "COMP_CWORD": "2",
    }
    out, modules = loaded(tmp_path, TORPOR_HOME=str(client.home.root), **typed)
    assert run in out
    assert not modules & (HEAVY | {"torpor.cli.agents"})


@pytest.mark.parametrize("listed", LISTED, ids=lambda each: each.name)
def test_help_says_of_a_command_what_it_says_itself(listed: Listed) -> None:
    command = listed.load()
    assert command.name == listed.name
    own = inspect.cleandoc(command.help).partition("\n\n")[0]
    assert listed.help == " ".join(own.split())


@pytest.mark.parametrize(
    ("args", "given"),
    [
        ([], {"n": 3, "names": None, "text": None, "path": None}),
        (["--n", "7", "--names", "a", "--names", "b"], {"n": 7, "names": ["a", "b"]}),
        (["--text", "", "--path", "x/y"], {"text": "", "path": Path("x/y")}),
    ],
)
def test_values_are_read_as_typer_reads_them(
    args: list[str], given: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    took: dict[str, object] = {}

    def command(
        n: int = 3,
        names: list[str] | None = None,
        text: str | None = None,
        path: Path | None = None,
    ) -> None:
        took.update(n=n, names=names, text=text, path=path)

    plain = typer.Typer()
    plain.command()(command)
    monkeypatch.setattr("torpor.cli.storage.gc", command)
    for program, called in ((plain, []), (app, ["gc"])):
        took.clear()
        typer.main.get_command(program)([*called, *args], standalone_mode=False)
        assert given.items() <= took.items()
