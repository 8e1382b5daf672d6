"""What the views say of a run whose log is known."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path

import pytest
from sqlalchemy import Connection
from tests.unit.query.conftest import PRICES, VERSION, Ask

from torpor.contextlog import schema
from torpor.contextlog.agents import NewAgent, put_agent
from torpor.contextlog.runs import Suspension, claim, create_run, suspend
from torpor.core.ids import RunId, Seq
from torpor.logstore.sqlite import SqliteStore
from torpor.query.ask import Asking, Question
from torpor.query.views import VIEWS

PAGE = Path(__file__).parents[3] / "docs" / "sql.md"


def test_the_page_describes_the_views_and_all_their_columns() -> None:
    described = dict(re.findall(r"^### `(\w+)`\n\n(.*?)(?=^#|\Z)", PAGE.read_text(), re.M | re.S))
    assert list(described) == [view.name for view in VIEWS]
    for view in VIEWS:
        assert described[view.name].startswith(view.about)
        rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", described[view.name], re.M)
        assert rows == [(column.name, column.about) for column in view.columns]


@pytest.mark.parametrize(
    "sql", re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.S), ids=lambda sql: sql[:40]
)
def test_the_examples_of_the_page_are_answered(sql: str, ask: Ask, run: RunId) -> None:
    answer = ask(sql.replace("run_1m8ad1w0h16dpnj0", run))
    assert answer.columns and not answer.more
    assert answer.rows, "an example that finds nothing shows nothing"


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_a_view_has_the_columns_it_says(view: object, ask: Ask) -> None:
    names = [column.name for column in view.columns]  # type: ignore[attr-defined]
    assert ask(f"SELECT * FROM {view.name}").columns == names  # type: ignore[attr-defined]


def test_the_page_of_prices_is_read() -> None:
    assert PRICES.cost("gpt-2025", 1_000_000, None, 0) == 2.0


def test_steps(ask: Ask, run: RunId) -> None:
    sql = (
        "SELECT op, name, duration_s, ok, error_type, error, value, place FROM steps WHERE run = ?"
    )
    assert ask(f"{sql} ORDER BY seq", run).rows == [
        ["step:search#1", "search", 1.0, 1, None, None, '{"found":3}', "a.py:7"],
        ["step:search#2", "search", 1.0, 0, "ValueError", "no luck", None, "a.py:7"],
        ["step:C##12", "C#", 1.0, 1, None, None, '"odd name"', "a.py:7"],
        ["step:open#1", "open", None, None, None, None, None, "a.py:7"],
    ]


def test_a_fork_has_what_it_shares_and_its_own_end_of_it(
    ask: Ask, run: RunId, forked: RunId
) -> None:
    sql = "SELECT op, ok, value FROM steps WHERE run = ? ORDER BY seq"
    origin, fork = ask(sql, run).rows, ask(sql, forked).rows
    assert fork[:-1] == origin[:-1]
    assert fork[-1] == ["step:open#1", 1, '"by the fork"']
    both = ask("SELECT run, count(*) FROM model_calls GROUP BY run ORDER BY run").rows
    assert both == [[run, 3], [forked, 4]]
    entries = ask("SELECT count(*), max(seq) FROM log WHERE run = ?", forked).rows[0]
    assert (
        entries[0] == entries[1] == ask("SELECT entries FROM runs WHERE id = ?", forked).rows[0][0]
    )


def test_model_calls(ask: Ask, run: RunId) -> None:
    sql = (
        "SELECT model, status, input_tokens, cached_tokens, output_tokens, finish, cost_usd, "
        "duration_s FROM model_calls WHERE run = ? ORDER BY seq"
    )
    assert ask(sql, run).rows == [
        ["gpt-2025-01-01", 200, 1000, None, 100, "tool_calls", 0.003, 1.0],
        ["gpt-2025-01-01", 200, 1000, 500, 100, "stop", 0.0025, 1.0],
        ["gpt", 429, None, None, None, None, None, 1.0],
    ]


def test_a_message_is_there_once_however_often_it_was_sent(
    ask: Ask, run: RunId, forked: RunId
) -> None:
    columns = "n, direction, role, content, tool_call_id"
    sql = f"SELECT {columns} FROM messages WHERE run = ? ORDER BY seq, n"
    said = ask(sql, run).rows
    assert said == [
        [None, "context", "user", "noted", None],
        [1, "sent", "system", "Be brief. " * 200, None],
        [2, "sent", "user", "Question 1", None],
        [None, "received", "assistant", None, None],
        [3, "sent", "tool", "nothing there", "call_1"],
        [None, "received", "assistant", "Nothing.", None],
        [1, "sent", "user", "short", None],
        [None, "received", "assistant", None, None],
    ]
    more = ask(sql, forked).rows
    assert more[:-2] == said
    assert more[-2:] == [
        [3, "sent", "user", "more", None],
        [None, "received", "assistant", None, None],
    ]


def test_tool_calls(ask: Ask, run: RunId) -> None:
    sql = "SELECT n, id, name, op, at, arguments, result FROM tool_calls WHERE run = ?"
    [[n, id, name, op, at, arguments, result]] = ask(sql, run).rows
    assert (n, id, name, json.loads(arguments), result) == (
        1,
        "call_1",
        "look",
        {"at": 1},
        "nothing there",
    )
    assert op.startswith("model:") and at > 100


def test_waits_output_egress_and_runs(ask: Ask, run: RunId, forked: RunId) -> None:
    waits = ask("SELECT kind, state, approved, by, waited_s FROM waits WHERE run = ?", run).rows
    assert waits == [["wait", "completed", 1, "rosa", 60.0]]
    said = ask("SELECT stream, text, data FROM output WHERE run = ? ORDER BY seq", run).rows
    assert said == [
        ["stdout", "hello\n", None],
        ["log", "looked", '{"k":1}'],
        ["emit", "[1,2]", None],
    ]
    out = ask("SELECT method, path, status FROM egress WHERE run = ? ORDER BY seq", run).rows
    assert out == [["POST", "/v1/chat/completions", status] for status in (200, 200, 429)]
    runs = ask("SELECT id, state, origin FROM runs ORDER BY id").rows
    assert runs == [[run, "running", None], [forked, "completed", run]]


def test_how_long_a_run_slept_counts_the_sleep_that_goes_on(tmp_path: Path) -> None:
    before = time.time()

    def sleep(c: Connection) -> None:
        put_agent(
            c,
            NewAgent(engine="qemu", version=VERSION, name="a", entry="a.py", source=b"", spec={}),
            1.0,
        )
        run = create_run(c, version=VERSION, agent="a", input={}, now=before - 90).id
        epoch = claim(c, run, before - 80)
        suspend(c, run, epoch, before - 60, Suspension(seen=Seq(2)))

    store = SqliteStore.open(tmp_path / "torpor.db")
    asyncio.run(store.write(sleep))
    asking = Asking(store.path).ask(Question("SELECT ran_s, slept_s FROM runs"), PRICES)
    [[ran_s, slept_s]] = asyncio.run(asking).rows
    store.close()
    assert ran_s == 20
    assert 59.9 <= slept_s <= 60.1 + time.time() - before


def test_questions_about_one_run_do_not_read_the_others(ask: Ask) -> None:
    for view in VIEWS:
        column = "id" if view.name == "runs" else "run"
        plan = ask(f"EXPLAIN QUERY PLAN SELECT * FROM {view.name} WHERE {column} = 'x'").rows
        # A view that is several in one is gone through as a whole, of what the parts have found.
        scanned = {d.split()[1] for *_, d in plan if d.startswith("SCAN")} - {view.name}
        assert not scanned, (view.name, plan)


def test_limits_are_said(ask: Ask, run: RunId) -> None:
    answer = ask("SELECT seq FROM log WHERE run = ? ORDER BY seq", run, rows_max=3)
    assert answer.rows == [[1], [2], [3]] and answer.more
    assert ask("SELECT x'00ff', 9e999, 1").rows == [["0x00ff", "inf", 1]]


def test_what_the_views_read_is_what_the_schema_has() -> None:
    named = {name for view in VIEWS for name in re.findall(r"main\.(\w+)", view.sql)}
    assert named <= set(schema.metadata.tables)
