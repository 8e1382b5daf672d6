"""`torpor keys`, and the command line on a server elsewhere, for which it needs one."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.cli.conftest import SERVER, Torpor

from torpor.client import Client, running, stop_server
from torpor.model.home import Home

LIMIT_S = 20


def test_a_key_is_made_listed_and_revoked(torpor: Torpor) -> None:
    made = torpor("keys", "create", "ci", "-s", "trigger", "-s", "observe", "--agent", "a")
    assert made.exit_code == 0 and made.stdout.startswith("torpor_")
    assert "observe, trigger of agent a" in made.stderr
    listed = torpor("keys", "list").stdout
    assert "ci" in listed and "valid" in listed and made.stdout.strip() not in listed
    brief = torpor("keys", "create", "brief", "-s", "admin", "--expires", "1h", "--json")
    key = json.loads(brief.stdout)
    assert key["expires_at"] - key["created_at"] == 3600
    long = torpor("keys", "create", "long", "-s", "observe", "--expires", "1d 12h", "--json")
    key = json.loads(long.stdout)
    assert key["expires_at"] - key["created_at"] == 36 * 3600
    assert torpor("keys", "revoke", key["id"]).exit_code == 0
    [row] = [
        each
        for each in json.loads(torpor("keys", "list", "--json").stdout)
        if each["id"] == key["id"]
    ]
    assert row["revoked_at"] is not None and "key" not in row


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("create", "x", "-s", "admin", "--agent", "a"), "restricted cannot have scope admin"),
        (("revoke", "nobody"), "there is no key 'nobody'"),
        (("token", "--run", "run_nothing"), "run_nothing"),
    ],
)
def test_what_is_wrong_is_said(torpor: Torpor, asked: tuple[str, ...], said: str) -> None:
    answer = torpor("keys", *asked)
    assert answer.exit_code == 2 and said in answer.stderr


@pytest.mark.parametrize("command", [("create", "x", "-s", "observe"), ("token", "--run", "run_1")])
def test_a_time_is_a_duration(torpor: Torpor, command: tuple[str, ...]) -> None:
    answer = torpor("keys", *command, "--expires", "soon")
    assert answer.exit_code == 2 and "'soon' is not a duration" in answer.stderr


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[tuple[str, Home]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{free.getsockname()[1]}"
    with tempfile.TemporaryDirectory(prefix="torpor-") as folder:
        home = Home(Path(folder)).create()
        process = subprocess.Popen(
            [sys.executable, str(SERVER), str(home.root)], env={"TORPOR_LISTEN": at}
        )
        until = time.monotonic() + LIMIT_S
        while not (home.run / "server.json").exists() and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.05)
        yield f"http://{at}", home
        stop_server(home)
        process.wait(LIMIT_S)
        assert not running(home)


def test_a_server_elsewhere_is_asked_with_a_key(
    torpor: Torpor, elsewhere: tuple[str, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, home = elsewhere
    key = Client(home).create_key("test", ["observe"])["key"]
    monkeypatch.setenv("TORPOR_URL", url)
    without = torpor("ps", "--json")
    assert without.exit_code == 2 and "a key is needed" in without.stderr
    monkeypatch.setenv("TORPOR_API_KEY", key)
    assert torpor("ps", "--json").stdout.strip() == "[]"
    refused = torpor("keys", "list")
    assert refused.exit_code == 2 and "this needs scope admin" in refused.stderr
    for local in ("up", "down"):
        answer = torpor(local)
        assert answer.exit_code == 2 and "on the server's own host" in answer.stderr


def test_a_server_elsewhere_that_is_not_there(
    torpor: Torpor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORPOR_URL", "http://127.0.0.1:9")
    gone = torpor("ps")
    assert gone.exit_code == 3 and "no server answers at http://127.0.0.1:9" in gone.stderr
    monkeypatch.setenv("TORPOR_URL", "ftp://x")
    assert "is no URL" in torpor("ps").stderr
