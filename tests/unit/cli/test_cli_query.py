"""`torpor query`, against a service in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.cli.conftest import Torpor

from torpor.client import Client
from torpor.testing.fakes.service import VERSION


@pytest.fixture
def runs(client: Client) -> None:
    for _ in range(3):
        client.start(VERSION, None, {"script": [["return", 1]]}, None)


def test_as_a_table_as_json_and_as_csv(torpor: Torpor, runs: None) -> None:
    shown = torpor("query", "select * from runs")
    assert shown.exit_code == 0
    head, *rows = shown.stdout.splitlines()
    assert head.split() == ["id", "state", "nothing", "half"]
    assert len(rows) >= 3
    found = json.loads(torpor("query", "select * from runs", "--json").stdout)
    assert found == json.loads(torpor("query", "select * from runs", "--format", "json").stdout)
    assert found[0]["nothing"] is None and found[0]["half"] == 0.5
    lines = torpor("query", "select * from runs", "--format", "csv").stdout.splitlines()
    assert lines[0] == "id,state,nothing,half" and lines[1].endswith(",,0.5")


def test_more_rows_than_were_asked_for(torpor: Torpor, runs: None) -> None:
    shown = torpor("query", "select * from runs", "--limit", "2")
    assert len(shown.stdout.splitlines()) == 3
    assert "more rows than these 2" in shown.stderr


def test_the_question_may_be_in_a_file_or_on_stdin(
    torpor: Torpor, runs: None, tmp_path: Path
) -> None:
    path = tmp_path / "q.sql"
    path.write_text("select * from runs")
    assert torpor("query", f"@{path}").exit_code == 0
    assert torpor("query", "-", input="select 1").exit_code == 0
    gone = torpor("query", f"@{path}.not")
    assert gone.exit_code == 2 and "No such file" in gone.stderr


def test_what_is_wrong_is_said(torpor: Torpor, runs: None) -> None:
    wrong = torpor("query", "selct 1")
    assert wrong.exit_code == 2 and "syntax error" in wrong.stderr
    wrong = torpor("query", "select 1", "-p", "novalue")
    assert wrong.exit_code == 2 and "KEY=VALUE" in wrong.stderr
