"""The SQL console, and what it draws."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.dashboard.test_dashboard_access import Browser, browse

from torpor.core.home import Home
from torpor.dashboard.charts import CHARTS_MAX, HEIGHT, WIDTH, charts

CELLS = st.none() | st.integers(-(10**9), 10**9) | st.floats() | st.text(max_size=5)


def test_each_column_of_numbers_is_a_chart_of_what_the_others_name() -> None:
    rows = [["a", 1, 0.5], ["b", 3, None], ["c", -1, 1.5]]
    first, second = charts(["name", "n", "share"], rows)
    assert (first.title, first.names) == ("n", ["a", "b", "c"])
    assert (first.low, first.high, first.zero) == ("-1", "3", 90.0)
    assert [(bar.y, bar.height) for bar in first.bars] == [(60.0, 30.0), (0.0, 90.0), (90.0, 30.0)]
    assert [bar.says for bar in second.bars] == ["a: 0.5", "c: 1.5"]


def test_names_are_put_together_and_nothing_stands_on_the_ground() -> None:
    (chart,) = charts(["agent", "n", "state"], [["a", 0, "done"], ["a", 0, "failed"]])
    assert chart.names == ["a done", "a failed"]
    assert chart.zero == HEIGHT


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        (["n"], [[1], [2]]),
        (["a", "n"], [["x", 1]]),
        (["a", "b"], [["x", "y"], ["z", "w"]]),
        (["a", "n"], [["x", 1]] * 201),
        ([], []),
    ],
)
def test_what_compares_nothing_is_not_drawn(columns: list[str], rows: list[list[Any]]) -> None:
    assert charts(columns, rows) == []


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=12))
@example([(None, None, None), (None, None, math.inf)])
def test_no_bar_leaves_its_chart(rows: list[tuple[Any, Any, Any]]) -> None:
    drawn = charts(["a", "b", "c"], rows)
    assert len(drawn) <= CHARTS_MAX
    for bar in [bar for chart in drawn for bar in chart.bars]:
        assert bar.x >= -0.01 and bar.x + bar.width <= WIDTH + 0.01
        assert bar.y >= -0.01 and bar.y + bar.height <= HEIGHT + 0.02


def test_a_question_is_asked_saved_and_forgotten(home: Home) -> None:
    async def talk(browser: Browser) -> None:
        wait = await browser.asked(["approve", "Send?", None])
        ask = {"sql": "SELECT id FROM runs"}
        page = await browser.http.get("/ui/query", params=ask)
        assert f'<a class="mono" href="/ui/runs/{wait["run"]}">' in page.text
        sheet = await browser.http.get("/ui/query.csv", params=ask)
        assert wait["run"] in sheet.text and sheet.headers["content-type"].startswith("text/csv")
        saved = await browser.post("/ui/queries", name="all <runs>", **ask)
        assert saved.status_code == 303
        page = await browser.http.get(saved.headers["location"])
        assert "all &lt;runs&gt;" in page.text
        await browser.post("/ui/queries/delete", name="all <runs>")
        assert "all &lt;runs&gt;" not in (await browser.http.get("/ui/query")).text

    browse(home, talk)


def test_what_is_wrong_with_a_question_is_said_beside_it(home: Home) -> None:
    async def talk(browser: Browser) -> None:
        page = await browser.http.get("/ui/query", params={"sql": "DROP <b>"})
        assert page.status_code == 422
        assert "syntax error in &#39;DROP &lt;b&gt;&#39;" in page.text
        assert ">DROP &lt;b&gt;</textarea>" in page.text

    browse(home, talk)
