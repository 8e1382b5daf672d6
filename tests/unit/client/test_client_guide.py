"""What docs/client.md says a program does, done, on a server of plain processes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tests.house.sources import ROOT
from tests.house.test_house_docs import CODE

from torpor.client import Client, RunFailed, Unreachable, ensure_server, stop_server
from torpor.core.errors import NotFound
from torpor.core.home import Home
from torpor.project.reading import read_agent

AGENTS = """
from pathlib import Path
import torpor


@torpor.agent
def report(month: int) -> str:
    if month > 12:
        raise ValueError(f"no month {month}")
    return f"month {month}"


@torpor.agent
def translate() -> None:
    torpor.log("read")
    if torpor.approve("Send it?").approved:
        Path("brief.txt").write_text(Path("letter.txt").read_text().upper())
        torpor.artifact("brief.txt")
        torpor.log("sent")


@torpor.agent
def orders(number: int) -> int:
    return number if torpor.approve(f"Ship {number}?").approved else 0
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="torpor-") as folder, pytest.MonkeyPatch.context() as m:
        home = Home(Path(folder) / "home")
        m.setenv("TORPOR_HOME", str(home.root))
        m.setenv("TORPOR_ENGINE", "process")
        m.delenv("TORPOR_URL", raising=False)
        file = Path(folder) / "agents.py"
        file.write_text(AGENTS)
        ensure_server(home).deploy(read_agent(file), lambda *_: None)
        yield home
        stop_server(home)


@pytest.fixture
def guide(home: Home) -> list[dict[str, Any]]:
    """The names that each of its examples makes."""
    made = []
    for code in CODE.findall((ROOT / "docs" / "client.md").read_text()):
        names: dict[str, Any] = {"__name__": "guide"}
        exec(compile(code, "docs/client.md", "exec"), names)
        made.append(names)
    return made


def test_a_result_is_waited_for(guide: list[dict[str, Any]]) -> None:
    report = guide[0]["report"]
    assert report(11) == "month 11"
    assert report(11) == "month 11"  # the same run
    with pytest.raises(RunFailed, match="ValueError: no month 13") as raised:
        report(13)
    assert raised.value.outcome.state == "failed"


def test_answers_logs_and_files(guide: list[dict[str, Any]], home: Home, tmp_path: Path) -> None:
    letter = tmp_path / "letter"
    letter.write_text("hello")
    with Client(home) as client:
        assert guide[1]["translate"](client, letter, tmp_path) == ["read", "sent"]
    assert (tmp_path / "brief.txt").read_text() == "HELLO"


def test_an_app_starts_runs_and_answers_them(guide: list[dict[str, Any]], home: Home) -> None:
    app = TestClient(guide[2]["app"])
    run = app.post("/orders", json={"number": 7}).json()["run"]
    assert app.post("/orders", json={"number": 7}).json()["run"] == run
    with Client(home) as client:
        with pytest.raises(TimeoutError):
            client.join(run, timeout_s=0)
        next(each for each in client.follow(run, kinds=["op.begin"]))
        assert app.get(f"/orders/{run}").json()["asks"] == ["Ship 7?"]
        assert app.post(f"/orders/{run}/yes").status_code == 204
        assert client.join(run).result == 7
    assert app.post(f"/orders/{run}/yes").status_code == 409
    assert app.get("/orders/run_none").status_code == 404


def test_what_is_not_there_is_raised_and_not_waited_for(home: Home, tmp_path: Path) -> None:
    with pytest.raises(NotFound), Client(home) as client:
        client.join("run_none")
    with pytest.raises(Unreachable), Client(Home(tmp_path)) as nobody:
        nobody.join("run_none")
    with pytest.raises(Unreachable), Client(url="http://127.0.0.1:9", key="torpor_x") as nobody:
        nobody.join("run_none")
