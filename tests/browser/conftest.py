"""One server of the engine `process`, with 10,000 runs, and one browser for all of these tests.

The browser is Debian's chromium, driven by Playwright. Everything is real but the model, which
answers the same to all.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    expect,
    sync_playwright,
)

# `tests` as a package.
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.browser.many import seed

from torpor.client import Client, ensure_server, stop_server
from torpor.core.home import Home
from torpor.project.reading import read_agent

HERE = Path(__file__).parent
AXE = HERE / "axe.min.js"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
LIMIT_MS = 30_000
expect.set_options(timeout=LIMIT_MS)  # a busy host takes its time


class Model(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        choice = {"message": {"role": "assistant", "content": "Owls are quiet."}}
        usage = {"prompt_tokens": 27, "completion_tokens": 14}
        body = json.dumps({"model": "m", "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *of: object) -> None:
        pass


@pytest.fixture(scope="session")
def model() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


@dataclass
class Stage:
    client: Client
    version: str
    scenes: str  # the version of scenes.py
    many: dict[str, str]  # what of the runs that were there before the server is called

    def start(self, **given: Any) -> str:
        run: str = self.client.start(self.version, "research", given, None)["id"]
        return run

    def scene(self, agent: str, ended: bool = True, **given: Any) -> str:
        """A run of an agent of scenes.py, that has ended, or waits."""
        run: str = self.client.start(self.scenes, agent, given, None)["id"]
        for _ in self.client.follow(run):
            if not ended and self.client.waits(run):
                break
        return run

    def asking(self, **given: Any) -> str:
        """A run that has asked for approval."""
        run = self.start(**given)
        for _ in self.client.follow(run):
            if self.client.waits(run):
                return run
        raise AssertionError(f"{run} has ended and not asked")


@pytest.fixture(scope="session")
def stage(model: str) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="torpor-") as folder:
        home = Home(Path(folder))
        many = seed(home)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TORPOR_ENGINE", "process")
            patch.setenv("OPENAI_BASE_URL", model)
            patch.delenv("OPENAI_API_KEY", raising=False)
            client = ensure_server(home)
        source = read_agent(HERE / "agent.py")
        deployed = client.deploy(source, lambda stage, message, fraction: None)
        scenes = client.deploy(
            read_agent(HERE / "scenes.py"), lambda stage, message, fraction: None
        )
        terms = {"hosts": ["api.example.com", "*.orders.example.com"], "agents": ["order"]}
        client.set_secret("EXAMPLE_KEY", "sk-" + "x" * 40, placement=None, **terms)
        client.set_queue("slow", concurrency=2, rate="10/1m")
        client.add_schedule("early", cron="30 8 1 1 *", agent="research", input={"topic": "owls"})
        yield Stage(client, deployed["version"], scenes["version"], many)
        stop_server(home)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # A module's, not the session's: Playwright leaves an event loop running in this thread, beside
    # which no other test could have one.
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.skip("no chromium is installed here: scripts/setup.sh does it")
    with sync_playwright() as playwright:
        # Its sandbox refuses to be root's, which tests may be; they visit no site but ours.
        yield playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])


Opens = Callable[..., Page]


@pytest.fixture
def opens(stage: Stage, browser: Browser) -> Iterator[Opens]:
    """Open a path of the dashboard in a browser that has logged in. Whatever a page complains of,
    a script that its policy refuses among it, fails the test."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def open(path: str, **how: Any) -> Page:
        options: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}, **how}
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(LIMIT_MS)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.on("console", lambda said: complaints.append(said.text) if bad(said) else None)
        link = stage.client.dashboard(port=0)["url"]
        page.goto(link)
        page.wait_for_url("**/ui/runs")
        page.goto(link.partition("/ui/")[0] + path)
        return page

    def bad(said: ConsoleMessage) -> bool:
        # A refusal of what was asked, which a test may want, is told as an error, too.
        return said.type in ("error", "warning") and "status of 4" not in said.text

    yield open
    for context in contexts:
        context.close()
    assert complaints == []
