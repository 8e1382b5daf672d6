"""The server as a process of its own, on a service in memory."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from torpor.client import (
    Appended,
    Back,
    Client,
    Ended,
    Followed,
    Lost,
    Unreachable,
    ensure_server,
    launch,
    running,
)
from torpor.core.errors import HostError, Invalid, NotFound
from torpor.core.home import Home
from torpor.testing.fakes.service import VERSION

PROGRAM = [sys.executable, "-m", "torpor.testing.fakes.service"]
LIMIT_S = 20


def command(home: Home) -> list[str]:
    return [*PROGRAM, str(home.root)]


@pytest.fixture(autouse=True)
def memory_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "server_command", command)


@contextmanager
def server(home: Home) -> Iterator[Client]:
    client = ensure_server(home, deadline_s=LIMIT_S)
    try:
        yield client
    finally:
        launch.stop_server(home, deadline_s=LIMIT_S)


def test_one_server_on_a_private_socket(home: Home) -> None:
    home.create()
    path = home.socket("server")
    with socket.socket(socket.AF_UNIX) as left_by_a_dead_server:
        left_by_a_dead_server.bind(str(path))
    assert not running(home)
    with server(home) as client:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        facts = json.loads((home.run / "server.json").read_text())
        assert sorted(facts) == ["pid", "ports", "started_at", "version"] and facts["ports"] == []
        assert running(home)
        second = subprocess.run(
            command(home), capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert second.returncode == 1
        assert "running already" in second.stderr
        assert client.health()["engine"] == "memory"
        # Whatever a person types as an id stays one segment of the path.
        for ref in ("a/b", "../agents", "?all", "%2e", "ü"):
            with pytest.raises(NotFound):
                client.run(ref)
        for ref in ("", " \t"):
            with pytest.raises(Invalid, match="is not an id or a name"):
                client.run(ref)
        # Asking again finds it, and starts nothing.
        ensure_server(home, deadline_s=LIMIT_S)
        assert json.loads((home.run / "server.json").read_text()) == facts
    assert not running(home)
    assert not path.exists()
    assert not (home.run / "server.json").exists()
    with pytest.raises(Unreachable):
        client.health()


def start(home: Home) -> tuple[subprocess.Popen[bytes], Client]:
    home.create()
    process = subprocess.Popen(command(home))
    until = time.monotonic() + LIMIT_S
    while not running(home) and time.monotonic() < until:
        assert process.poll() is None
    return process, ensure_server(home, deadline_s=LIMIT_S)


def test_a_signal_stops_it_though_somebody_follows(home: Home) -> None:
    process, client = start(home)
    run = client.start(VERSION, None, {"script": [["approve", "Go?", None]]}, None)
    events = client.follow(run["id"])
    assert isinstance(next(events), Appended)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(LIMIT_S) == 0
    assert (home.root / "memory.json").exists()  # the service was stopped in order
    assert any(isinstance(event, Lost) for event in events)


def test_who_asks_for_the_end_hears_how_it_goes_and_a_second_signal_hurries_it(
    home: Home,
) -> None:
    (home.root / "hold").touch()
    process, client = start(home)
    run = client.start(VERSION, None, {"script": [["approve", "Go?", None]]}, None)
    events = client.follow(run["id"])
    assert isinstance(next(events), Appended)
    os.kill(process.pid, signal.SIGTERM)
    told: list[str] = []

    def hear(stage: str, message: str, fraction: float | None) -> None:
        # It was told to stop before this asked; until it is done it answers.
        told.append(message)
        assert client.run(run["id"])["id"] == run["id"]
        os.kill(process.pid, signal.SIGTERM)

    launch.stop_server(home, hear, deadline_s=LIMIT_S)
    assert told == [f"{run['id']}: frozen where it was"]
    assert process.wait(LIMIT_S) == 0
    assert (home.root / "memory.json").exists()
    assert any(isinstance(event, Lost) for event in events)


def test_following_outlives_the_server(home: Home) -> None:
    with server(home) as client:
        script = [["print", "one"], ["approve", "Go?", None], ["print", "two"], ["return", 1]]
        run = client.start(VERSION, None, {"script": script}, None)
        events = client.follow(run["id"])
        seen: list[Followed] = [next(events)]
        while not (isinstance(seen[-1], Appended) and seen[-1].entry["kind"] == "run.suspended"):
            seen.append(next(events))
    assert isinstance(next(events), Lost)
    with server(home) as client:
        assert isinstance(next(events), Back)
        [wait] = client.waits(run["id"])
        client.complete(wait["id"], approved=True)
        seen += list(events)
        assert isinstance(seen[-1], Ended)
        entries = [event.entry for event in seen if isinstance(event, Appended)]
        assert entries == list(client.entries(run["id"]))
        assert [e["seq"] for e in entries] == list(range(1, len(entries) + 1))


def test_a_server_that_dies_shows_the_end_of_its_log(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies = [sys.executable, "-c", "import sys; sys.exit('error: no such engine')"]
    monkeypatch.setattr(launch, "server_command", lambda home: dies)
    with pytest.raises(HostError, match="did not start") as caught:
        ensure_server(home, deadline_s=LIMIT_S)
    assert "error: no such engine" in caught.value.hint
