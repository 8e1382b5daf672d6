"""One server on a service in memory for all tests of the command line, and agents to run on it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from torpor.cli.main import app
from torpor.client import Client, ensure_server, stop_server
from torpor.core.home import Home

ROOT = Path(__file__).parents[3]
SERVER = [sys.executable, "-m", "torpor.testing.fakes.service"]

Torpor = Callable[..., Result]


@pytest.fixture(scope="session")
def home() -> Iterator[Home]:
    # Short: the path of a Unix socket must be.
    with tempfile.TemporaryDirectory(prefix="torpor-") as folder:
        home = Home(Path(folder))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "torpor.client.launch.server_command",
                lambda home: [*SERVER, str(home.root)],
            )
            ensure_server(home)
        yield home
        stop_server(home)


@pytest.fixture
def client(home: Home, monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setenv("TORPOR_HOME", str(home.root))
    return Client(home)


@pytest.fixture
def torpor(client: Client) -> Torpor:
    """Run a command in this process, with no terminal."""
    return lambda *args, **options: CliRunner().invoke(app, list(args), **options)


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("agent") / "agent.py"
    path.write_text("raise SystemExit('never run here')\n")
    return str(path)


@pytest.fixture(scope="session")
def program() -> list[str]:
    return [sys.executable, "-m", "torpor.cli.main"]
