"""The command line where no server can be, as on macOS and Windows: what it loads is there, and
it speaks to a server elsewhere."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.cli.conftest import SERVER, Torpor

import torpor.cli
from torpor.cli.commands import COMMANDS
from torpor.client import Client, running, stop_server
from torpor.core.home import Home

LIMIT_S = 20

# What Unix has and Windows has not, taken away once Python's own modules are loaded, which ask.
WINDOWS = """
import asyncio, multiprocessing, os, select, shutil, signal, socket, subprocess, sys, tempfile, uuid
import concurrent.futures, ctypes, http.client, logging.handlers, platform, selectors, ssl
import zipfile, zoneinfo
for name in ("fcntl", "termios", "tty", "pty", "resource", "pwd", "grp", "syslog"):
    sys.modules[name] = None
for module, names in {
    os: "fork forkpty uname getuid geteuid getgid setsid killpg sched_getaffinity mkfifo chown "
        "O_CLOEXEC O_NONBLOCK O_NOFOLLOW O_DIRECTORY",
    signal: "SIGKILL SIGWINCH SIGPIPE SIGHUP SIGSTOP SIGCONT",
    select: "poll epoll",
    socket: "AF_UNIX",
}.items():
    for name in names.split():
        delattr(module, name)
sys.platform = "darwin"  # by its own name others' packages would load what is only there
"""
MODULES = sorted(
    {each.where.partition(":")[0] for group in COMMANDS.values() for each in group}
    | {path.stem for path in Path(torpor.cli.__path__[0]).glob("*.py") if path.stem != "__init__"}
)
LOADED = f"""
import importlib
for name in {MODULES!r}:
    importlib.import_module(f"torpor.cli.{{name}}")
import torpor, torpor.client, torpor.testing
assert torpor.agent and torpor.step
"""
COMMAND = """
import sys
from torpor.cli.main import app
sys.argv[0] = "torpor"
app()
"""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[tuple[str, Home]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{free.getsockname()[1]}"
    with tempfile.TemporaryDirectory(prefix="torpor-") as folder:
        home = Home(Path(folder)).create()
        process = subprocess.Popen([*SERVER, str(home.root)], env={"TORPOR_LISTEN": at})
        until = time.monotonic() + LIMIT_S
        while not (home.run / "server.json").exists() and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.05)
        yield f"http://{at}", home
        stop_server(home)
        process.wait(LIMIT_S)
        assert not running(home)


def on_windows(
    program: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WINDOWS + program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "", "TORPOR_HOME": "/nowhere", **environment},
    )


def test_every_module_of_the_client_and_the_commands_loads_there() -> None:
    loaded = on_windows(LOADED)
    assert loaded.returncode == 0, loaded.stderr


def test_commands_there_speak_to_a_server_elsewhere(elsewhere: tuple[str, Home]) -> None:
    url, home = elsewhere
    key = Client(home).create_key("afar", ["observe"])["key"]
    told = {"TORPOR_URL": url, "TORPOR_API_KEY": key}
    shown = on_windows(COMMAND, "ps", "--json", **told)
    assert (shown.returncode, shown.stdout.strip()) == (0, "[]"), shown.stderr
    reached = on_windows(COMMAND, "doctor", **told)
    assert reached.returncode == 0 and f"answers at {url}" in reached.stdout
    assert key not in reached.stdout + reached.stderr


@pytest.mark.parametrize("command", ["up", "doctor", "ps", "run agent.py", "dashboard"])
def test_without_one_it_is_said_there_that_a_server_needs_linux(
    command: str, tmp_path: Path
) -> None:
    (tmp_path / "agent.py").write_text("import torpor\n@torpor.agent\ndef a() -> None: ...\n")
    named = command.replace("agent.py", str(tmp_path / "agent.py"))
    refused = on_windows(COMMAND, *named.split(), TORPOR_HOME=str(tmp_path / "home"))
    assert refused.returncode == 3, refused.stderr
    assert "Linux" in refused.stderr and "TORPOR_URL=" in refused.stderr


@pytest.mark.parametrize("arguments", [[], ["--check"]])
def test_setup_says_there_what_works_and_what_does_not(arguments: list[str]) -> None:
    refused = on_windows(COMMAND, "setup", *arguments)
    assert refused.returncode == 3
    assert "Linux only" in refused.stdout
    assert "TORPOR_URL" in refused.stderr and "torpor.testing" in refused.stderr


@pytest.mark.parametrize(
    "command", ["up", "setup", "down", "dashboard", "backup x", "restore x", "bench cli"]
)
def test_what_is_done_on_the_servers_host_says_so(
    torpor: Torpor, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("TORPOR_URL", "http://127.0.0.1:9")
    refused = torpor(*command.split())
    assert refused.exit_code == 2 and "on the server's own host" in refused.stderr


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("agents.example.com", "is not a URL"),
        ("http://host:port", "is not a URL"),
        ("https://me:secret@example.com", "contains a user or a password"),
        ("https://example.com/?key=x", "has a query or a fragment"),
    ],
)
def test_a_url_that_is_none_is_refused(
    torpor: Torpor, monkeypatch: pytest.MonkeyPatch, url: str, why: str
) -> None:
    monkeypatch.setenv("TORPOR_URL", url)
    refused = torpor("ps")
    assert refused.exit_code == 2 and why in refused.stderr and "secret" not in refused.stderr


def test_a_server_elsewhere_is_asked_with_a_key(
    torpor: Torpor, elsewhere: tuple[str, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, home = elsewhere
    key = Client(home).create_key("test", ["observe"])["key"]
    monkeypatch.setenv("TORPOR_URL", url)
    without = torpor("ps", "--json")
    assert without.exit_code == 2 and "Set TORPOR_API_KEY" in without.stderr
    monkeypatch.setenv("TORPOR_API_KEY", "torpor_wrong")
    wrong = torpor("ps")
    assert wrong.exit_code == 2 and f"The server at {url} does not take" in wrong.stderr
    assert "torpor_wrong" not in wrong.stderr
    monkeypatch.setenv("TORPOR_API_KEY", key)
    assert torpor("ps", "--json").stdout.strip() == "[]"
    refused = torpor("keys", "list")
    assert refused.exit_code == 2 and "this needs scope admin" in refused.stderr


def test_a_server_elsewhere_that_is_not_there(
    torpor: Torpor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORPOR_URL", "http://127.0.0.1:9")
    gone = torpor("ps")
    assert gone.exit_code == 3 and "no server answers at http://127.0.0.1:9" in gone.stderr
