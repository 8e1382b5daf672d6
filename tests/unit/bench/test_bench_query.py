"""The measurement of questions, on a log too short to tell anything."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from torpor.bench import query


def test_the_log_is_as_long_as_it_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "torpor.db"
    query.fill(path, 10_000)
    with sqlite3.connect(path) as c:
        assert c.execute("SELECT count(*) FROM entries").fetchone() == (10_000,)
        assert c.execute("SELECT count(*) FROM usage WHERE input_tokens >= 0").fetchone() == (500,)
        last = c.execute("SELECT kind FROM entries ORDER BY run DESC, seq DESC").fetchone()
    assert last == ("run.completed",)


def test_each_question_and_each_append_is_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(query, "_TIMES", 1)
    monkeypatch.setattr(query, "_CALLS", 5)
    assert query.main(10_000, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["questions_ms"]) == set(query.QUESTIONS)
    assert all(each["p50"] > 0 for each in told["questions_ms"].values())
    assert told["append_us"]["p50"] > 0 and told["append_without_us"]["p50"] > 0
