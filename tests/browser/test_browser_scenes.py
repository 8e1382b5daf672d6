"""A run's page in a real browser: failures, children, output, files; and what asks first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.browser.conftest import Opens, Stage
from tests.browser.test_browser_pages import COLOURS, HOW, UNFOLD, violations


def follow(page: Page, run: str) -> str:
    """The run whose page comes."""
    page.wait_for_url(lambda url: "/ui/runs/run_" in url and run not in url)
    return page.url.rpartition("/")[2]


@pytest.mark.parametrize("how", HOW, ids=list(HOW))
def test_what_a_run_shows_is_for_everyone(stage: Stage, opens: Opens, how: str) -> None:
    runs = [stage.scene(agent) for agent in ("billing", "build", "publish")]
    runs += [stage.scene(agent, ended=False) for agent in ("report", "order", "refund")]
    page = opens("/ui/runs", **HOW[how])
    base = page.url.partition("/ui/")[0]
    for path in [f"{run}{view}" for run in runs for view in ("", "?view=output", "?view=about")]:
        page.goto(f"{base}/ui/runs/{path}")
        page.evaluate(UNFOLD)
        assert violations(page, COLOURS if how == "dark" else "") == [], path
        wider = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wider <= 0, f"{path} has to be scrolled sideways"


@pytest.mark.parametrize("scripts", [True, False])
def test_a_failed_run_is_retried_once_one_is_sure(
    stage: Stage, opens: Opens, scripts: bool
) -> None:
    run = stage.scene("billing")
    page = opens(f"/ui/runs/{run}", java_script_enabled=scripts)
    why = page.locator(".failure")
    expect(why.locator(".error")).to_contain_text("ValueError: invoice 2026-118 has no amount")
    lines = Path(__file__).with_name("scenes.py").read_text().splitlines()
    line = next(n for n, text in enumerate(lines, 1) if "raise ValueError" in text)
    expect(why.locator(".where")).to_contain_text(f"line {line}, in billing")
    expect(why.locator(".calls")).to_contain_text("in read_amount")
    retry = page.locator(".sure", has_text="Retry").first
    expect(retry.get_by_role("button")).to_be_hidden()
    retry.locator("summary").click()
    expect(retry.locator(".popover")).to_contain_text("goes on from where this one failed")
    retry.get_by_role("button", name="Retry").click()
    made = stage.client.run(follow(page, run))
    assert (made["origin"], made["forked"]["how"]) == (run, "retry")


def test_who_is_not_sure_leaves_all_as_it_was(stage: Stage, opens: Opens) -> None:
    run = stage.scene("billing")
    page = opens(f"/ui/runs/{run}")
    fork = page.locator(".title .sure", has_text="Fork")
    fork.locator("summary").click()
    expect(fork.get_by_role("button", name="Fork")).to_be_visible()
    page.keyboard.press("Escape")
    expect(fork.get_by_role("button", name="Fork")).to_be_hidden()
    expect(fork.locator("summary")).to_be_focused()
    assert len(stage.client.run(run)["family"]) == 1


def colour(page: Page, text: str) -> str:
    found: str = (
        page.locator(".terminal span")
        .get_by_text(text)
        .evaluate("(e) => getComputedStyle(e).color")
    )
    return found


def test_output_has_its_colours_and_lines(stage: Stage, opens: Opens) -> None:
    run = stage.scene("build")
    page = opens(f"/ui/runs/{run}")
    expect(page.locator(".item.output .terminal").first).to_be_visible()  # it is short
    assert colour(page, "FAILED") == "rgb(168, 35, 27)"
    page.get_by_role("link", name="Output").click()
    lines = page.locator(".printed .line")
    expect(lines.nth(0)).to_have_text("Building wheel <script>alert('output')</script>")
    expect(lines.nth(1)).to_have_text("#################### 100 %")
    expect(page.locator(".printed .stderr")).to_have_text("warning: one test fails")


def test_children_are_there_with_state_and_input(stage: Stage, opens: Opens) -> None:
    run = stage.scene("report", ended=False)
    page = opens(f"/ui/runs/{run}")
    children = page.get_by_role("list", name="Children").get_by_role("listitem")
    expect(children).to_have_count(4)
    turin = children.filter(has_text="city: Turin")
    expect(turin).to_contain_text("LookupError: no figures for Turin")
    turin.get_by_role("link").click()
    child = stage.client.run(follow(page, run))
    assert (child["parent"], child["input"]["city"]) == (run, "Turin")
    stage.client.cancel(run)


def test_what_an_agent_shows_is_folded_where_it_is_long(stage: Stage, opens: Opens) -> None:
    run = stage.scene("order", ended=False, dish="gnocchi")
    page = opens("/ui/waits?kind=question&agent=order&text=gnocchi")
    (wait,) = page.locator(".wait").all()
    last = wait.get_by_text("40. gnocchi with 40 cheeses")
    expect(wait.get_by_text("1. gnocchi with 1 cheeses")).to_be_visible()
    expect(last).to_be_hidden()
    wait.get_by_text("more lines").click()
    expect(last).to_be_visible()
    wait.get_by_label("How many people?").fill("4")
    wait.get_by_label("terrace").check()
    wait.get_by_role("button", name="Send answer").click()
    page.wait_for_url("**/ui/waits")
    (asked,) = stage.client.waits(run, all=True)
    given: dict[str, Any] = asked["value"]["data"]
    assert (given["people"], given["table"]) == (4, "terrace")


def test_the_page_goes_on_with_what_a_save_has_made(stage: Stage, opens: Opens) -> None:
    started = stage.client.start(stage.scenes, "order", {"dish": "soup"}, None, queue="dev")
    page = opens("/ui/runs")
    page.goto(page.url.replace("/runs", f"/runs/{started['id']}?follow=1"))
    made = stage.client.reload(started["id"], stage.scenes, fresh=False)
    page.wait_for_url(f"**/ui/runs/{made['id']}?follow=1")
    page.goto(page.url.replace(f"{made['id']}?follow=1", started["id"]))
    expect(page.get_by_role("status").first).to_contain_text(f"Replaced by {made['id']}")
    stage.client.cancel(made["id"])


def test_columns_are_put_into_the_question(opens: Opens) -> None:
    page = opens("/ui/query")
    page.locator("#sql").fill("SELECT FROM runs")
    page.locator("#sql").evaluate("(e) => e.setSelectionRange(6, 6)")
    page.locator(".tables summary").first.click()
    page.get_by_role("button", name="ran_s").click()
    expect(page.locator("#sql")).to_have_value("SELECT ran_s FROM runs")
    expect(page.locator("#sql")).to_be_focused()
