"""Who gets in, and that nobody else makes a browser do anything."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
import pytest

from torpor.api.app import create_app
from torpor.core.agentfile import AgentSource
from torpor.core.home import Home
from torpor.dashboard import sessions
from torpor.dashboard.sessions import Sessions
from torpor.service.runs import RunRequest
from torpor.service.schedules import ScheduleSettings
from torpor.service.waits import Wait, WaitFilter
from torpor.testing.fakes.service import PLAYER, VERSION, MemoryService

ORIGIN = "http://127.0.0.1:7717"
PAGES = [
    "/ui/runs",
    "/ui/waits",
    "/ui/agents",
    "/ui/queues",
    "/ui/schedules",
    "/ui/secrets",
    "/ui/query",
    "/ui/storage",
]
PAGES += ["/ui/schedules", "/ui/storage", "/ui/storage/reclaimable"]


class Browser:
    """A browser with the dashboard open, and what is behind it."""

    def __init__(self, home: Home) -> None:
        self.service = MemoryService(home)
        self.app = create_app(self.service)
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url=ORIGIN)
        self.csrf = ""

    async def log_in(self) -> None:
        token = self.app.state.sessions.link()
        welcome = await self.http.get(f"/ui/login?token={token}")
        assert welcome.status_code == 200
        page = await self.http.get("/ui/runs")
        (self.csrf, *_) = re.findall(r'name="csrf" value="([^"]+)"', page.text)

    async def post(self, path: str, origin: str | None = ORIGIN, **form: str) -> httpx.Response:
        headers = {} if origin is None else {"origin": origin}
        return await self.http.post(path, data={"csrf": self.csrf} | form, headers=headers)

    async def asked(self, *script: Any) -> Wait:
        """A run that has asked, and its wait."""
        run = await self.service.runs.start(RunRequest({"script": list(script)}, version=VERSION))
        return await self.asks(run["id"])

    async def asks(self, run: str) -> Wait:
        """The wait that the run, which plays in this loop too, comes to."""
        waits: Sequence[Wait] = []
        while not waits:
            await asyncio.sleep(0)
            waits = await self.service.waits.list(WaitFilter(run))
        return waits[0]


def browse(home: Home, talk: Callable[[Browser], Awaitable[None]], logged_in: bool = True) -> None:
    async def main() -> None:
        browser = Browser(home)
        if logged_in:
            await browser.log_in()
        await talk(browser)

    asyncio.run(main())


def test_a_link_works_once_and_not_for_long() -> None:
    now = [0.0]
    kept = Sessions(lambda: now[0])
    token = kept.link()
    made = kept.log_in(token)
    assert made is not None and kept.find(made.id) == made.session
    assert kept.log_in(token) is None
    late = kept.link()
    now[0] += sessions.LINK_S + 1
    assert kept.log_in(late) is None
    now[0] += sessions.SESSION_S
    assert kept.find(made.id) is None


def test_who_logs_out_is_out() -> None:
    kept = Sessions()
    made = kept.log_in(kept.link())
    assert made is not None
    kept.log_out(made.id)
    assert kept.find(made.id) is None


@pytest.mark.parametrize("path", [*PAGES, "/ui/runs/run_1", "/ui/nothing", "/ui/runs/x/live"])
def test_nothing_is_shown_without_a_session(home: Home, path: str) -> None:
    async def talk(browser: Browser) -> None:
        answer = await browser.http.get(path)
        assert answer.status_code == 401
        assert "torpor dashboard" in answer.text
        assert (await browser.http.get("/ui/login?token=guessed")).status_code == 401

    browse(home, talk, logged_in=False)


def test_the_cookie_is_kept_from_scripts_and_other_sites(home: Home) -> None:
    async def talk(browser: Browser) -> None:
        token = browser.app.state.sessions.link()
        answer = await browser.http.get(f"/ui/login?token={token}")
        (cookie,) = answer.headers.get_list("set-cookie")
        told = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert {"httponly", "samesite=strict", "path=/ui"} <= told

    browse(home, talk, logged_in=False)


@pytest.mark.parametrize("path", PAGES)
def test_pages_run_and_load_nothing_that_is_not_ours(home: Home, path: str) -> None:
    async def talk(browser: Browser) -> None:
        answer = await browser.http.get(path)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?! src=)|<style| style=| on\w+=", answer.text)
        assert not re.search(r"(src|href|action)=\"(?!/|\?|#)", answer.text)

    browse(home, talk)


def test_what_an_agent_says_is_text(home: Home) -> None:
    async def talk(browser: Browser) -> None:
        evil = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
        wait = await browser.asked(["print", evil], ["log", evil], ["approve", evil, {evil: evil}])
        for path in (f"/ui/runs/{wait['run']}", "/ui/waits", "/ui/runs"):
            answer = await browser.http.get(path)
            assert "&lt;script&gt;alert(1)" in answer.text, path
            assert "<script>alert" not in answer.text and "<img src=x" not in answer.text

    browse(home, talk)


@pytest.mark.parametrize(
    ("origin", "changed"),
    [
        ("http://evil.example", {}),
        ("http://127.0.0.1:8000", {}),
        ("null", {}),
        (None, {}),
        (ORIGIN, {"csrf": "guessed"}),
        (ORIGIN, {"csrf": ""}),
    ],
)
def test_a_post_from_elsewhere_changes_nothing(
    home: Home, origin: str | None, changed: dict[str, str]
) -> None:
    async def talk(browser: Browser) -> None:
        wait = await browser.asked(["approve", "Send?", None], ["return", 1])
        form = {"verdict": "approve"} | changed
        answer = await browser.post(f"/ui/waits/{wait['id']}", origin, **form)
        assert answer.status_code == 403
        assert (await browser.service.waits.get(wait["id"]))["state"] == "open"

    browse(home, talk)


EVIL = "<script>alert(1)</script>"


def test_a_permission_has_three_choices_and_a_reason(home: Home) -> None:
    async def talk(browser: Browser) -> None:
        for verdict, data in (
            ("approve", {"decision": "once", "reason": "r"}),
            ("run", {"decision": "run", "reason": "r"}),
            ("deny", {"decision": "deny", "reason": "r"}),
        ):
            wait = await browser.asked(["permission", "POST x", {"url": EVIL}], ["return", 1])
            page = (await browser.http.get("/ui/waits")).text
            assert "Allow for this run" in page and EVIL not in page
            whole = await browser.http.get(f"/ui/waits/{wait['id']}/action")
            assert "attachment" in whole.headers["content-disposition"]
            assert whole.headers["content-type"] == "text/plain; charset=utf-8"
            answer = await browser.post(f"/ui/waits/{wait['id']}", verdict=verdict, note="r")
            assert answer.status_code == 303
            assert wait["value"]["data"] == data
            (entry,) = [
                each
                for each in browser.service.memory.logs[wait["run"]]
                if each["kind"] == "wait.completed"
            ]
            assert entry["data"]["origin"].startswith("the dashboard")
        ordinary = await browser.asked(["approve", "Send?", None])
        wrong = await browser.post(f"/ui/waits/{ordinary['id']}", verdict="run")
        assert wrong.status_code == 422

    browse(home, talk)


def test_a_wait_is_answered(home: Home) -> None:
    async def talk(browser: Browser) -> None:
        wait = await browser.asked(["approve", "Send?", None], ["wait", "Colour?", None])
        unsure = await browser.post(f"/ui/waits/{wait['id']}", verdict="maybe")
        assert unsure.status_code == 422 and "approve or deny" in unsure.text
        answer = await browser.post(f"/ui/waits/{wait['id']}", verdict="deny", note="not yet")
        assert (answer.status_code, answer.headers["location"]) == (303, f"/ui/runs/{wait['run']}")
        assert wait["value"]["approved"] is False and wait["value"]["note"] == "not yet"
        second = await browser.asks(wait["run"])
        await browser.post(f"/ui/waits/{second['id']}", a='{"colour": "red"}')
        assert second["value"]["data"] == {"colour": "red"}
        late = await browser.post(f"/ui/waits/{second['id']}", a="blue")
        assert late.status_code == 409 and "answered already" in late.text

    browse(home, talk)


@pytest.mark.parametrize(
    ("method", "path", "form", "status", "says"),
    [
        ("GET", "/ui/runs/run_none", {}, 404, "no run run_none"),
        ("GET", "/ui/runs?text=" + "x" * 300, {}, 422, "200 characters"),
        ("GET", "/ui/nothing", {}, 404, "/ui/nothing"),
        ("POST", "/ui/runs", {}, 405, "Method"),
        ("POST", "/ui/runs/run_none/cancel", {}, 404, "run_none"),
        ("POST", "/ui/runs/run_none/fork", {"at": "-1"}, 422, "a position in a log"),
        ("POST", f"/ui/agents/{VERSION}/runs", {"input": "[1]"}, 422, "a JSON object"),
    ],
)
def test_what_cannot_be_done_says_why(
    home: Home, method: str, path: str, form: dict[str, str], status: int, says: str
) -> None:
    async def talk(browser: Browser) -> None:
        get = browser.http.get
        answer = await (get(path) if method == "GET" else browser.post(path, **form))
        assert answer.status_code == status
        assert says in answer.text

    browse(home, talk)


def test_a_run_is_started_forked_and_cancelled(home: Home) -> None:
    async def talk(browser: Browser) -> None:
        given = '{"script": [["approve", "Send?", null]]}'
        started = await browser.post(f"/ui/agents/{VERSION}/runs", agent="player", input=given)
        run = started.headers["location"].rpartition("/")[2]
        page = await browser.http.get(f"/ui/runs/{run}")
        assert page.status_code == 200
        forked = await browser.post(f"/ui/runs/{run}/fork", at="1")
        fork = forked.headers["location"].rpartition("/")[2]
        how = (await browser.service.runs.get(fork))["forked"]
        assert how is not None and how["at"] == 1
        other = '{"script": [["return", 2]]}'
        forked = await browser.post(f"/ui/runs/{run}/fork", input=other)
        fork = forked.headers["location"].rpartition("/")[2]
        assert (await browser.service.runs.get(fork))["input"] == json.loads(other)
        wrong = await browser.post(f"/ui/runs/{run}/fork", input="[1]")
        assert wrong.status_code == 422 and "JSON object" in wrong.text
        await browser.post(f"/ui/runs/{run}/cancel")
        assert (await browser.service.runs.get(run))["state"] == "cancelled"
        retried = await browser.post(f"/ui/runs/{run}/retry")
        assert retried.status_code == 303

    browse(home, talk)


def test_a_run_is_started_by_the_form_of_its_agents_input(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def talk(browser: Browser) -> None:
        reach = ({"host": "a.example", "methods": ["GET"], "ask": True},)
        source = AgentSource(entry="player.py", files={"player.py": b""}, egress=reach)
        await browser.service.agents.deploy(source, lambda *told: None)
        page = (await browser.http.get("/ui/agents")).text
        assert "May reach 1 host<" in page
        assert "a.example: GET, asks a person first" in page
        assert 'name="input"' in page  # it takes any other name, too
        monkeypatch.setitem(PLAYER, "open", False)
        await browser.service.agents.deploy(source, lambda *told: None)
        page = (await browser.http.get("/ui/agents")).text
        assert 'name="input"' not in page
        assert 'name="a/count"' in page and 'value="3"' in page and "how often" in page
        typed = {"a/count": "5", "a/dry_run": "false", "a/name": "5", "a/script": "some text"}
        started = await browser.post(f"/ui/agents/{VERSION}/runs", agent="player", **typed)
        run = started.headers["location"].rpartition("/")[2]
        assert (await browser.service.runs.get(run))["input"] == {
            "count": 5,
            "dry_run": False,
            "name": "5",
            "script": "some text",
        }
        typed["a/count"] = "abc"
        refused = await browser.post(f"/ui/agents/{VERSION}/runs", agent="player", **typed)
        assert refused.status_code == 422 and "is not a number" in refused.text

    browse(home, talk)


def test_a_queue_is_paused_and_limited(home: Home) -> None:
    async def talk(browser: Browser) -> None:
        queues = browser.service.queues
        await queues.update("web/eu", {"concurrency": 3})
        await browser.post("/ui/queues/web%2Feu", paused="true")
        assert (await queues.list())[0]["paused"] is True
        await browser.post("/ui/queues/web%2Feu", concurrency="", per_key="2", rate=" 10/1m ")
        (known,) = await queues.list()
        assert (known["concurrency"], known["per_key"], known["rate"]) == (None, 2, "10/1m")
        page = await browser.http.get("/ui/queues")
        assert "Resume" in page.text and "2 per key, starts 10/1m" in page.text
        wrong = await browser.post("/ui/queues/web%2Feu", per_key="many")
        assert wrong.status_code == 422 and "per_key must be a number" in wrong.text

    browse(home, talk)


def test_a_secret_is_set_rotated_and_removed_and_never_shown(home: Home) -> None:
    async def talk(browser: Browser) -> None:
        value, secrets = "ui-5f-value-2c", browser.service.secrets
        typed = {"name": " T ", "hosts": "a.example, *.b.example", "agents": "", "place": "query"}
        added = await browser.post("/ui/secrets", **typed, value=value, where="key")
        assert added.status_code == 303 and added.headers["location"] == "/ui/secrets"
        (known,) = await secrets.list()
        assert known["hosts"] == ["a.example", "*.b.example"] and known["agents"] is None
        assert known["placement"] == {"query": "key"} and known["set_by"] == "dashboard"
        wrong = await browser.post("/ui/secrets", **typed, value=f"{value}\n{value}", where="key")
        assert wrong.status_code == 422 and "several lines" in wrong.text
        rotated = await browser.post("/ui/secrets/T", do="rotate", value=value)
        odd = await browser.post("/ui/secrets/T", do="show")
        assert odd.status_code == 422
        page = await browser.http.get("/ui/secrets")
        assert "a.example, *.b.example" in page.text and "rotated" in page.text
        removed = await browser.post("/ui/secrets/T", do="remove")
        assert removed.status_code == 303 and await secrets.list() == []
        answers = (added, wrong, rotated, odd, page, removed)
        assert all(value[:6] not in answer.text for answer in answers)

    browse(home, talk)


def test_a_schedule_is_added(home: Home) -> None:
    async def talk(browser: Browser) -> None:
        known = browser.service.schedules.known
        page = await browser.http.get("/ui/schedules")
        assert "<option>cancel-old" in page.text
        typed = {"name": " daily ", "agent": "player", "cron": "30 8 * * *", "overlap": "queue"}
        typed |= {"missed": "all", "input": '{"n": 1}', "jitter": "15m", "priority": "3"}
        added = await browser.post("/ui/schedules", **typed, zone="", queue="")
        assert added.status_code == 303 and added.headers["location"] == "/ui/schedules"
        assert (
            known["daily"]
            | {
                "agent": "player",
                "cron": "30 8 * * *",
                "overlap": "queue",
                "missed": "all",
                "zone": "UTC",
                "input": {"n": 1},
                "jitter_s": 900.0,
                "priority": 3,
                "queue": None,
            }
            == known["daily"]
        )
        for field, value, says in (
            ("jitter", "soon", "is not a duration"),
            ("priority", "high", "priority a number"),
            ("input", "7", "JSON object"),
        ):
            wrong = await browser.post("/ui/schedules", **(typed | {"name": "x", field: value}))
            assert wrong.status_code == 422 and says in wrong.text
        assert list(known) == ["daily"]

    browse(home, talk)


def test_a_schedule_is_paused_and_removed(home: Home) -> None:
    async def talk(browser: Browser) -> None:
        schedules = browser.service.schedules
        settings: ScheduleSettings = {
            "agent": "player",
            "cron": "30 8 * * *",
            "zone": "Europe/Berlin",
            "input": {"n": 1},
            "jitter_s": 0.0,
            "overlap": "skip",
            "missed": "once",
            "queue": None,
            "priority": 0,
        }
        await schedules.add("each/day", settings, replace=False)
        await browser.post("/ui/schedules/each%2Fday", do="pause")
        assert schedules.known["each/day"]["paused"] is True
        page = await browser.http.get("/ui/schedules")
        assert "30 8 * * *" in page.text and "Resume" in page.text
        assert (await browser.post("/ui/schedules/each%2Fday", do="x")).status_code == 422
        await browser.post("/ui/schedules/each%2Fday", do="remove")
        assert schedules.known == {}

    browse(home, talk)


def test_a_log_is_followed_from_where_a_browser_was(home: Home) -> None:
    async def talk(browser: Browser) -> None:
        run = await browser.service.runs.start(
            RunRequest({"script": [["print", "a"], ["log", "b"], ["return", 1]]}, version=VERSION)
        )
        live = f"/ui/runs/{run['id']}/live?start=0&after=1"
        whole = await browser.http.get(live)
        ids = [int(each) for each in re.findall(r"^id: (\d+)$", whole.text, re.MULTILINE)]
        assert ids and whole.text.rstrip().endswith('data: {"state":"completed"}')
        rest = await browser.http.get(live, headers={"last-event-id": str(ids[-1])})
        assert "event: item" not in rest.text and "event: end" in rest.text

    browse(home, talk)


def test_what_is_loaded_is_kept_until_it_changes(home: Home) -> None:
    async def talk(browser: Browser) -> None:
        page = await browser.http.get("/ui/runs")
        urls = re.findall(r"/ui/static/[^\"]+", page.text)
        assert any(url.startswith("/ui/static/htmx.min.js?") for url in urls)
        for url in urls:
            asset = await browser.http.get(url)
            assert asset.status_code == 200 and "immutable" in asset.headers["cache-control"]
        for path in ("/ui/static/none.js", "/ui/static/..%2fapp.py", "/ui/static/htmx.LICENSE"):
            assert (await browser.http.get(path)).status_code == 404

    browse(home, talk)


def test_what_a_log_did_not_take_is_counted_and_there_to_be_downloaded(home: Home) -> None:
    async def talk(browser: Browser) -> None:
        run = (await browser.asked(["approve", "go?", None]))["run"]
        page = (await browser.http.get(f"/ui/runs/{run}")).text
        assert "stdout: 3.0 kB of 9.0 kB in its log, 5.0 kB beside it, 1.0 kB not kept" in page
        assert "stderr:" not in page
        assert f'href="/ui/runs/{run}/output/stdout" download' in page
        answer = await browser.http.get(f"/ui/runs/{run}/output/stdout")
        assert answer.text == "stdout of it"
        assert answer.headers["content-disposition"].startswith("attachment")
        assert (await browser.http.get(f"/ui/runs/{run}/output/stdin")).status_code == 404

    browse(home, talk)
