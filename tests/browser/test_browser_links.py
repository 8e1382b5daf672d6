"""Public links in a real browser: a phone, light and dark, without scripts, by the keyboard."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from playwright.sync_api import Browser, Page
from tests.browser.conftest import AXE
from tests.unit.public.conftest import Outside

from torpor.api.listening import LISTEN, listener
from torpor.api.public import public_app
from torpor.contextlog.waits import WaitRow
from torpor.core.home import Home

T = TypeVar("T")
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}}
SCHEMA = {
    "type": "object",
    "description": "For the delivery.",
    "properties": {
        "name": {"type": "string", "title": "Your name"},
        "people": {"type": "integer", "minimum": 1},
        "quick": {"type": "boolean"},
        "colour": {"enum": ["red", "blue"]},
        "country": {"enum": ["be", "de", "es", "fr", "it", "nl", "pt"]},
        "when": {"type": "string", "format": "date"},
        "guests": {"type": "array", "items": {"type": "string"}},
        "extras": {"type": "array", "items": {"enum": ["bread", "wine"]}},
        "home": {
            "type": "object",
            "properties": {"zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
            "required": ["zip"],
        },
        "rest": {"type": "object"},
    },
    "required": ["name", "people", "quick", "home"],
}


class Links:
    """A service behind a public port, in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._outside = self.do(self._open(Home(folder)))

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _open(self, home: Home) -> Outside:
        outside = Outside(home)
        public = listener({LISTEN: "127.0.0.1:0"})
        assert public is not None
        self._closing = asyncio.Event()
        outside.service.publish(public.url)
        serving = public.serve(public_app(outside.service), self._closing)
        self._serving = asyncio.create_task(serving)
        await outside.start()
        return outside

    def ask(self, **asked: Any) -> tuple[WaitRow, str]:
        wait = self.do(self._outside.ask(**asked))
        return wait, str(self.do(self._outside.service.waits.get(wait.id))["url"])

    def value(self, wait: WaitRow) -> Any:
        return self.do(self._outside.state(wait)).value

    def close(self) -> None:
        self.do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._closing.set()
        await self._serving
        self._outside.store.close()


@pytest.fixture(scope="module")
def links() -> Iterator[Links]:
    with tempfile.TemporaryDirectory(prefix="torpor-") as folder:
        links = Links(Path(folder))
        yield links
        links.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Whatever a page complains of fails the test; but what it was asked to refuse."""
    complaints: list[str] = []
    pages = []

    def visit(url: str, **how: Any) -> Page:
        page = browser.new_context(**PHONE, **how).new_page()
        pages.append(page)
        page.set_default_timeout(15_000)
        page.on("console", lambda said: complaints.append(said.text))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.goto(url)
        return page

    yield visit
    for page in pages:
        page.context.close()
    assert [text for text in complaints if "status of 4" not in text] == []


EVIL = "<img src=x onerror=alert(1)><script>alert(1)</script>"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_accessible_and_fit_a_phone(
    links: Links, visit: Callable[..., Page], scheme: str
) -> None:
    data = {"to": "x" * 200, "note": EVIL, "list": ["a", 1], "deep": {"a": {"b": [{"c": 1}]}}}
    for asked in (
        {"prompt": f"Which? {EVIL}\nmore", "data": data, "schema": SCHEMA},
        {"prompt": "Send it?", "data": data, "approve": True, "due_at": 4e9},
        {"prompt": "Why?"},
    ):
        _, url = links.ask(**asked)
        # Only for axe, which is a script: pages themselves may run none.
        page = visit(url, color_scheme=scheme, bypass_csp=True)
        assert page.evaluate("document.scripts.length") == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.add_script_tag(path=str(AXE))
        found = page.evaluate("axe.run()")["violations"]
        assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []


def test_a_form_is_filled_in_without_scripts(links: Links, visit: Callable[..., Page]) -> None:
    wait, url = links.ask(prompt="Which?", schema=SCHEMA)
    page = visit(url, java_script_enabled=False)
    page.get_by_label("Your name").fill(EVIL)
    page.get_by_label("people").fill("3")
    page.get_by_role("group", name="quick").get_by_label("No").check()
    page.get_by_label("blue").check()
    page.get_by_label("country").select_option("nl")
    page.get_by_label("when").fill("2026-12-24")
    page.get_by_label("guests").fill("Bo\nCy")
    page.get_by_label("wine").check()
    page.get_by_label("zip").fill("12")
    page.get_by_label("rest").fill('{"a": 1}')
    send = page.get_by_role("button", name="Send answer")
    send.click()
    assert "Nothing was sent" in page.get_by_role("alert").inner_text()
    zip_field = page.get_by_label("zip")
    assert zip_field.get_attribute("aria-invalid") == "true"
    told = page.locator(f"#{zip_field.get_attribute('aria-describedby')}").inner_text()
    assert "'12' does not match" in told
    assert page.get_by_label("Your name").input_value() == EVIL
    zip_field.fill("12345")
    send.click()
    page.get_by_text("This link cannot be used again").wait_for()
    page.reload()
    assert page.title() == "Answered"
    assert links.value(wait)["data"] == {
        "name": EVIL,
        "people": 3,
        "quick": False,
        "colour": "blue",
        "country": "nl",
        "when": "2026-12-24",
        "guests": ["Bo", "Cy"],
        "extras": ["wine"],
        "home": {"zip": "12345"},
        "rest": {"a": 1},
    }


def test_an_approval_is_given_by_the_keyboard(links: Links, visit: Callable[..., Page]) -> None:
    wait, url = links.ask(prompt="Send it?", approve=True)
    page = visit(url)
    page.keyboard.press("Tab")
    page.keyboard.type("looks fine")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_text("This link cannot be used again").wait_for()
    assert page.title() == "Approved"
    value = links.value(wait)
    assert (value["approved"], value["note"]) == (True, "looks fine")
