"""What pages show of runs and waits."""

from __future__ import annotations

import re

import pytest
from tests.unit.dashboard.test_dashboard_access import Browser, browse

from torpor.core.home import Home
from torpor.dashboard import render
from torpor.service.runs import ForkRequest, RunRequest
from torpor.testing.fakes.service import VERSION


def _wanted(how: str) -> ForkRequest:
    return ForkRequest(how=how)


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_a_failed_run_says_why_where_and_what_to_do(home: Home) -> None:
    async def talk(browser: Browser) -> None:
        script = {"script": [["approve", "Go?", None], ["fail", "ValueError", "no <card>"]]}
        run = (await browser.service.runs.start(RunRequest(script, version=VERSION)))["id"]
        wait = await browser.asks(run)
        await browser.post(f"/ui/waits/{wait['id']}", verdict="approve")
        while (await browser.service.runs.get(run))["state"] != "failed":
            await browser.service.logs.changed(run)
        shown = text_of((await browser.http.get(f"/ui/runs/{run}")).text)
        assert "ValueError : no &lt;card&gt;" in shown
        assert f"torpor retry {run} --agent AGENT.py" in shown
        assert "A new run goes on from where this one failed." in shown

    browse(home, talk)


def test_what_is_asleep_under_a_call_says_whose_answer_it_waits_for(home: Home) -> None:
    async def talk(browser: Browser) -> None:
        runs = browser.service.runs
        script = {"script": [["asleep", "http:api.<b>example.com/v1@0123abcd#1"]]}
        run = (await runs.start(RunRequest(script, version=VERSION)))["id"]
        while (await runs.get(run))["state"] != "suspended":
            await browser.service.logs.changed(run)
        for page in ("/ui/runs", f"/ui/runs/{run}"):
            shown = (await browser.http.get(page)).text.lower()
            assert "waiting for an answer from api.&lt;b&gt;example.com" in shown, page
        await runs.cancel(run)

    browse(home, talk)


def test_children_that_have_all_ended_are_shown(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def talk(browser: Browser) -> None:
        runs = browser.service.runs
        run = (await runs.start(RunRequest({"script": [["print", "x"]]}, version=VERSION)))["id"]
        while (detail := await runs.get(run))["state"] != "completed":
            await browser.service.logs.changed(run)
        parent = {**detail, "children": [{**detail, "id": "run_child"}]}

        async def get(ref: str) -> object:
            return parent

        monkeypatch.setattr(runs, "get", get)
        page = await browser.http.get(f"/ui/runs/{run}")
        assert page.status_code == 200
        children = page.text.partition('<div id="children"')[2].partition("</div>")[0]
        assert "run_child" in children and "hx-trigger" not in children  # nothing of them changes

    browse(home, talk)


def test_a_run_shows_its_output_by_lines(home: Home) -> None:
    async def talk(browser: Browser) -> None:
        said = ["print", "\x1b[31mred\x1b[0m\n10 %\r99 %\n"]
        wait = await browser.asked(said, ["print", "<b>last\n"], ["approve", "Go?", None])
        page = (await browser.http.get(f"/ui/runs/{wait['run']}?view=output")).text
        lines = re.findall(r'<span class="line stdout">(.*)', page)
        assert lines == ['<span class="red">red</span>', "99 %", "&lt;b&gt;last"]

    browse(home, talk)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("", ["Send?", "Which day?"]),
        ("?kind=approval", ["Send?"]),
        ("?kind=question&agent=player", ["Which day?"]),
        ("?kind=event", []),
        ("?agent=nobody", []),
        ("?text=day", ["Which day?"]),
        ("?kind=unheard-of", ["Send?", "Which day?"]),
    ],
)
def test_waits_are_narrowed(home: Home, asked: str, found: list[str]) -> None:
    async def talk(browser: Browser) -> None:
        await browser.asked(["approve", "Send?", None])
        await browser.asked(["wait", "Which day?", None])
        page = (await browser.http.get(f"/ui/waits{asked}")).text
        assert re.findall(r"<h2>(.*?)</h2>\n +<p class", page) == found

    browse(home, talk)


def test_what_a_code_change_has_replaced_leads_on(home: Home) -> None:
    async def talk(browser: Browser) -> None:
        runs, service = browser.service.memory.runs, browser.service
        first = (await browser.asked(["approve", "Go?", None]))["run"]
        second = (await service.runs.fork(first, _wanted("reload")))["id"]
        third = (await service.runs.fork(second, _wanted("reload")))["id"]
        by_hand = (await service.runs.fork(third, _wanted("fork")))["id"]
        for run in (first, second, third, by_hand):
            runs[run]["queue"] = "dev"
        runs[first]["successor"] = second
        runs[first]["error"] = {"type": "Reloaded", "message": "changed"}
        page = await browser.http.get(f"/ui/runs/{first}")
        assert f"Replaced by {third} : its code changed." in text_of(page.text)
        follow = await browser.http.get(f"/ui/runs/{first}?follow=1")
        assert follow.headers["location"] == f"/ui/runs/{third}?follow=1"
        head = await browser.http.get(f"/ui/runs/{second}/head?follow=1")
        assert head.headers["hx-redirect"] == f"/ui/runs/{third}?follow=1"
        newest = await browser.http.get(f"/ui/runs/{third}?follow=1")
        assert newest.status_code == 200 and "Replaced by" not in newest.text

    browse(home, talk)


def test_what_is_long_is_folded() -> None:
    short = "\n".join("abc")
    assert render.folded(short) == render.Folded(short)
    assert render.folded("\n".join("x" * 16)).rest == ""
    many = render.folded("\n".join(str(n) for n in range(40)))
    assert (many.first.count("\n"), many.rest.split("\n")[0], many.more) == (
        11,
        "12",
        "28 more lines",
    )
    wide = render.folded("y" * 1600)
    assert (len(wide.first), len(wide.rest), wide.more) == (1500, 100, "100 more characters")
