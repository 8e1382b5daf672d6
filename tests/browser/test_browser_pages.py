"""Every page in a real browser: for everyone, quick, and of use with keys, thumbs or no scripts."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect
from tests.browser.conftest import AXE, Opens, Stage

QUERY = "/ui/query?sql=SELECT+state,+count(*)+AS+runs+FROM+runs+GROUP+BY+state"
PAGES = ["/ui/runs", "/ui/runs?before={middle}", "/ui/runs/{long}", "/ui/runs/{out}"]
PAGES += ["/ui/waits", "/ui/agents"]
PAGES += [
    "/ui/storage",
    "/ui/queues",
    "/ui/schedules",
    "/ui/secrets",
    QUERY,
    "/ui/waits?kind=all",
    "/ui/runs/none",
]
QUICK = [
    *PAGES[:-3],
    "/ui/waits?kind=all",
    "/ui/runs?text=nobody+says+this",
    "/ui/runs?state=failed&agent=seeded",
]
QUICK += ["/ui/waits?text=nobody+says+this", "/ui/waits?kind=approval&agent=seeded"]
QUICK += ["/ui/runs?text=a+needle", "/ui/runs/{long}?after=0", "/ui/runs/{long}/head"]
UNFOLD = "[...document.querySelectorAll('details')].slice(0, 30).forEach((d) => (d.open = true))"
SERVED_MS_MAX = 200
TRIES = 5
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
# Dark, the same pages have other colours, and nothing else.
COLOURS = '{runOnly: ["color-contrast", "link-in-text-block"]}'
HOW: dict[str, dict[str, Any]] = {"light": {}, "dark": {"color_scheme": "dark"}, "phone": PHONE}


def violations(page: Page, rules: str) -> list[str]:
    page.evaluate(AXE.read_text())  # not a script of the page's: its policy would refuse it
    found: dict[str, Any] = page.evaluate(f"axe.run({rules})")
    return [
        f"{each['id']}: {each['help']}: {[node['html'][:150] for node in each['nodes'][:3]]}"
        for each in found["violations"]
    ]


@pytest.mark.parametrize(
    "how", [{}, {"color_scheme": "dark"}, PHONE], ids=["light", "dark", "phone"]
)
def test_every_page_is_for_everyone(stage: Stage, opens: Opens, how: dict[str, Any]) -> None:
    """https://github.com/dequelabs/axe-core, all its rules."""
    rules = COLOURS if "color_scheme" in how else ""
    asking = stage.asking(topic="bats")
    page = opens("/ui/runs", **how)
    base = page.url.partition("/ui/")[0]
    for path in [*PAGES[:-1], f"/ui/runs/{asking}"]:
        page.goto(base + path.format(**stage.many))
        page.evaluate(UNFOLD)
        assert violations(page, rules) == [], path
        wider = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wider <= 0, f"{path} has to be scrolled sideways"
    page.goto(base + f"/ui/runs/{asking}")
    page.keyboard.press("?")
    assert violations(page, rules) == []


def test_every_page_comes_within_200_ms(stage: Stage) -> None:
    link = stage.client.dashboard(port=0)["url"]
    with httpx.Client(base_url=link.partition("/ui/")[0], timeout=30.0) as http:
        http.get(link)
        for path in QUICK:
            took = []
            for _ in range(TRIES):
                began = time.perf_counter()
                answer = http.get(path.format(**stage.many))
                took.append((time.perf_counter() - began) * 1000)
                assert answer.status_code == 200
            # What a page costs is the least of it: other tests may run beside.
            assert min(took) <= SERVED_MS_MAX, f"{path}: {took}"
            print(f"{min(took):6.0f} ms  {len(answer.content) // 1024:5} KiB  {path}")


def test_a_run_grows_on_its_page_and_is_answered_there(stage: Stage, opens: Opens) -> None:
    run = stage.asking(topic="owls")
    page = opens(f"/ui/runs/{run}")
    turn = page.locator(".item.turn")
    expect(turn).to_contain_text("Owls are quiet.")
    expect(turn.locator(".figures")).to_contain_text("27 in14 out")
    turn.locator("[data-open]").click()
    page.get_by_label("Note").fill("looks fine")
    page.get_by_role("button", name="Approve").click()
    ended = page.locator(".item.run").filter(has_text="completed")
    expect(ended).to_contain_text("sent: Owls are quiet.")
    expect(page.locator("#head .state")).to_have_text("completed")
    expect(page.locator(".item.wait .figures")).to_contain_text("approved")
    assert stage.client.run(run)["result"] == "sent: Owls are quiet."


def test_what_happens_meanwhile_appears_without_a_reload(stage: Stage, opens: Opens) -> None:
    run = stage.asking(topic="owls")
    page = opens(f"/ui/runs/{run}")
    page.evaluate("window.mark = 1")
    step = page.locator(".item.step > details")
    step.locator("[data-open]").click()
    (wait,) = stage.client.waits(run)
    stage.client.complete(wait["id"], approved=False, note="not now", by="ana")
    expect(page.locator(".item.run").last).to_contain_text("not sent: not now")
    expect(page.locator("#head .state")).to_have_text("completed")
    expect(page.locator("#head .wait")).to_have_count(0)
    expect(page.locator(".item.wait .figures")).to_contain_text("denied")
    expect(step).to_have_attribute("open", "")
    assert page.evaluate("window.mark") == 1


def test_what_is_refused_is_explained_where_it_was_asked(stage: Stage, opens: Opens) -> None:
    page = opens("/ui/agents")
    # Of an agent that takes anything: the others have a form.
    start = page.locator("details.start", has=page.get_by_label("Input")).first
    start.locator("summary").click()
    start.get_by_label("Input").fill("[1]")
    start.get_by_role("button", name="Start", exact=True).click()
    expect(start.get_by_role("alert")).to_contain_text("a JSON object")
    expect(start.get_by_label("Input")).to_have_value("[1]")


def test_keys_lead_everywhere(stage: Stage, opens: Opens) -> None:
    page = opens("/ui/runs")
    rows = page.locator("[data-row]")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    expect(rows.nth(0)).to_have_class(re.compile("chosen"))
    page.keyboard.press("j")
    wanted = rows.nth(1).get_attribute("id")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/ui/runs/{wanted}")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.keyboard.press("w")
    page.wait_for_url("**/ui/waits")
    page.keyboard.press("g")
    page.keyboard.press("r")
    page.wait_for_url("**/ui/runs")
    page.keyboard.press("/")
    page.keyboard.type("needle")
    page.keyboard.press("Enter")
    page.wait_for_url("**text=needle*")
    expect(rows).to_have_count(1)
    expect(rows).to_have_id(stage.many["found"])


def test_runs_are_narrowed_and_paged(stage: Stage, opens: Opens) -> None:
    page = opens("/ui/runs")
    page.locator(".chip").filter(has_text="failed").click()
    page.wait_for_url("**state=failed*")
    expect(page.locator("tbody .state").first).to_have_text("failed")
    first = page.locator("[data-row]").first.get_attribute("id") or ""
    page.get_by_role("link", name="Older").click()
    page.wait_for_url("**before=*")
    assert (page.locator("[data-row]").first.get_attribute("id") or "") < first
    page.get_by_role("link", name="Newest").click()
    expect(page.locator("[data-row]").first).to_have_id(first)


def test_a_run_is_forked_from_a_point_of_its_log(stage: Stage, opens: Opens) -> None:
    run = stage.asking(topic="owls")
    page = opens(f"/ui/runs/{run}")
    turn = page.locator(".item.turn")
    turn.locator("[data-open]").click()
    turn.get_by_text("Fork from here").click()
    expect(turn.locator(".popover")).to_contain_text("the fork does again, for real")
    turn.get_by_role("button", name="Fork").click()
    page.wait_for_url(lambda url: "/ui/runs/run_" in url and run not in url)
    fork = stage.client.run(page.url.rpartition("/")[2])
    assert fork["origin"] == run
    kinds = [entry["kind"] for entry in stage.client.entries(run)]
    assert fork["origin_seq"] == kinds.index("op.end", kinds.index("op.end") + 1) + 1


def test_a_run_is_forked_with_another_input(stage: Stage, opens: Opens) -> None:
    run = stage.asking(topic="owls")
    page = opens(f"/ui/runs/{run}")
    page.get_by_text("Fork with another input").click()
    form = page.get_by_role("complementary").locator("form")
    form.get_by_label("Input of the fork").fill('{"nothing": "such"}')
    form.get_by_role("button", name="Fork").click()
    expect(form.get_by_role("alert")).to_contain_text("unknown: nothing")
    form.get_by_label("Input of the fork").fill('{"topic": "wrens"}')
    form.get_by_role("button", name="Fork").click()
    page.wait_for_url(lambda url: "/ui/runs/run_" in url and run not in url)
    fork = stage.client.run(page.url.rpartition("/")[2])
    assert (fork["origin"], fork["input"]) == (run, {"topic": "wrens"})
    stage.client.cancel(fork["id"])


def test_a_schedule_is_added(stage: Stage, opens: Opens) -> None:
    page = opens("/ui/schedules")
    page.get_by_text("Add a schedule").click()
    for field, text in (("Name", "by-hand"), ("Agent", "research"), ("Cron", "5 3 * *")):
        page.get_by_label(field, exact=True).fill(text)
    page.get_by_label("Input").fill('{"topic": "larks"}')
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator(".several .trouble")).to_contain_text("not a cron expression")
    expect(page.get_by_label("Name", exact=True)).to_have_value("by-hand")
    page.get_by_label("Cron", exact=True).fill("5 3 1 1 *")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("heading", name="by-hand")).to_be_visible()
    (made,) = [each for each in stage.client.schedules() if each["name"] == "by-hand"]
    assert (made["agent"], made["input"], made["zone"]) == ("research", {"topic": "larks"}, "UTC")
    stage.client.remove_schedule("by-hand")


def test_a_run_is_cancelled_once_one_is_sure(stage: Stage, opens: Opens) -> None:
    run = stage.asking(topic="owls")
    page = opens(f"/ui/runs/{run}", **PHONE)
    page.get_by_text("Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the run").click()
    expect(page.locator("#head .state")).to_have_text("cancelled")
    assert stage.client.run(run)["state"] == "cancelled"


def test_the_theme_that_was_chosen_is_kept(opens: Opens) -> None:
    page = opens("/ui/runs")
    page.keyboard.press("t")
    page.goto(page.url.replace("runs", "agents"))
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_pages_are_of_use_without_scripts(stage: Stage, opens: Opens) -> None:
    run = stage.asking(topic="owls")
    page = opens(f"/ui/runs/{run}", java_script_enabled=False)
    page.locator(".item.step [data-open]").click()
    expect(page.locator(".item.step pre").last).to_contain_text("<script>alert('agent')</script>")
    page.get_by_label("Note").fill("later")
    page.get_by_role("button", name="Deny").click()
    page.wait_for_url(f"**/ui/runs/{run}")
    assert stage.client.wait(waits_of(stage, run))["state"] == "completed"


def waits_of(stage: Stage, run: str) -> str:
    (wait,) = stage.client.waits(run, all=True)
    found: str = wait["id"]
    return found
