"""Waitpoints by their links: pages for people, JSON for programs, and nothing else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tests.unit.public.conftest import BROWSER, Outside, Talk

from torpor.contextlog.entries import read_entries
from torpor.contextlog.keys import put_key
from torpor.control.service.tokens import Tokens
from torpor.core import permissions
from torpor.core.errors import NotFound
from torpor.core.ids import WaitId
from torpor.snapshot.seal import Key
from torpor.worker.sealing import wrap

Talking = Callable[[Talk], None]
SCHEMA = {
    "type": "object",
    "properties": {"people": {"type": "integer", "minimum": 1}, "name": {"type": "string"}},
    "required": ["people"],
}
EVIL = '"><script>alert(1)</script>'


def test_a_token_is_for_one_wait_and_cannot_be_made_up() -> None:
    tokens = Tokens(b"k" * 32)
    wait, other = WaitId("wait_0123456789abcdef"), WaitId("wait_0123456789abcdeg")
    token = tokens.token(wait)
    assert tokens.wait(token) == wait
    made_up = [
        "",
        "é" * 60,
        token[:-1],
        token + "A",
        token[:-1] + ("A" if token[-1] != "A" else "B"),
        other.removeprefix("wait_") + token[16:],
        Tokens(b"l" * 32).token(wait),
    ]
    for each in made_up:
        with pytest.raises(NotFound):
            tokens.wait(each)


def test_a_person_answers_a_form(talk: Talking) -> None:
    async def about(outside: Outside, http: httpx.AsyncClient) -> None:
        data = {"place": f"Rosa {EVIL}", "tried": ["Luigi"]}
        wait = await outside.ask(prompt=f"Which? {EVIL}", data=data, schema=SCHEMA)
        path = await outside.path(wait)
        page = await http.get(path, headers=BROWSER)
        assert page.status_code == 200
        assert "<script" not in page.text and "&lt;script&gt;" in page.text
        assert 'name="a/people" type="number"' in page.text

        wrong = {"a/people": "0", "a/name": EVIL}
        refused = await http.post(path, data=wrong, headers=BROWSER)
        assert refused.status_code == 422
        assert 'value="0"' in refused.text and 'aria-invalid="true"' in refused.text
        assert "0 is less than the minimum of 1" in refused.text
        assert "<script" not in refused.text and "&#34;&gt;&lt;script&gt;" in refused.text
        empty = await http.post(path, data={"a/name": "x"}, headers=BROWSER)
        assert (empty.status_code, "is required" in empty.text) == (422, True)
        assert (await outside.state(wait)).state == "open"

        done = await http.post(path, data={"a/people": "3", "a/name": " "}, headers=BROWSER)
        assert (done.status_code, done.headers["location"]) == (303, path)
        ended = await outside.state(wait)
        assert ended.value == {
            "status": "completed",
            "data": {"people": 3},
            "approved": None,
            "note": None,
            "by": "its link",
        }
        assert "This link cannot be used again" in (await http.get(path, headers=BROWSER)).text
        late = await http.post(path, data={"a/people": "4"}, headers=BROWSER)
        assert (late.status_code, "was not taken" in late.text) == (409, True)
        assert await outside.state(wait) == ended
        assert (await outside.service.waits.get(wait.id))["url"] is None

    talk(about)


def test_a_program_answers_with_json(talk: Talking) -> None:
    async def about(outside: Outside, http: httpx.AsyncClient) -> None:
        wait = await outside.ask(prompt="Which?", schema=SCHEMA, data=[1])
        path = await outside.path(wait)
        asked = (await http.get(path)).json()
        assert (asked["agent"], asked["prompt"], asked["data"]) == ("shop", "Which?", [1])
        assert (asked["state"], asked["schema"]) == ("open", SCHEMA)
        assert not {"run", "id", "op", "value", "by"} & set(asked)

        for body, status in (
            ({"data": {"people": "many"}}, 422),
            ({"data": {"people": 1}, "approved": True}, 422),
            ({"data": {"people": 1}, "by": "somebody else"}, 422),
            ({"data": {"people": 1}, "note": 7}, 422),
            ([], 422),
        ):
            refused = await http.post(path, json=body)
            assert refused.status_code == status, body
            assert refused.headers["content-type"] == "application/problem+json"
        # What kind of answer it is comes before what the answer says.
        approved = (await http.post(path, json={"approved": True})).json()
        assert "asks for an answer, not for approval" in approved["detail"]
        assert f"torpor complete {wait.id}" in approved["hint"]
        told = (await http.post(path, json={"data": {"people": "many"}})).json()
        assert told["errors"] == [
            {"pointer": "/people", "detail": "'many' is not of type 'integer'"}
        ]
        no_json = {"content-type": "application/json"}
        assert (await http.post(path, content=b"{", headers=no_json)).status_code == 422
        assert (await http.post(path, content=b'{"data": NaN}', headers=no_json)).status_code == 422
        assert (await http.post(path, content=b"x")).status_code == 415
        large = await http.post(path, content=b"1" * (3 << 20), headers=no_json)
        assert large.status_code == 413
        assert (await outside.state(wait)).state == "open"

        done = await http.post(path, json={"data": {"people": 2}})
        assert (done.status_code, done.json()["state"]) == (200, "completed")
        assert "data" in done.json() and done.json()["data"] == [1]  # what was asked
        again = await http.post(path, json={"data": {"people": 2}})
        assert (again.status_code, again.json()["code"]) == (409, "conflict")
        # A form is taken from a program, too.
        other = await outside.ask()
        sent = await http.post(await outside.path(other), data={"a": "just text"})
        assert sent.json()["state"] == "completed"
        value = (await outside.state(other)).value
        assert value is not None and value["data"] == "just text"

    talk(about)


@pytest.mark.parametrize("verdict", ["approve", "deny"])
def test_an_approval_has_two_buttons_and_a_note(talk: Talking, verdict: str) -> None:
    async def about(outside: Outside, http: httpx.AsyncClient) -> None:
        wait = await outside.ask(prompt="Send?", approve=True, due_at=2e9)
        path = await outside.path(wait)
        page = (await http.get(path, headers=BROWSER)).text
        assert re.findall(r'name="verdict" value="(\w+)"', page) == ["approve", "deny"]
        assert "Please answer by" in page
        neither = await http.post(path, data={"note": "hm"}, headers=BROWSER)
        assert (neither.status_code, "hm</textarea>" in neither.text) == (422, True)
        form = {"verdict": verdict, "note": " fine "}
        assert (await http.post(path, data=form, headers=BROWSER)).status_code == 303
        value = (await outside.state(wait)).value
        assert value is not None
        assert (value["approved"], value["note"]) == (verdict == "approve", "fine")
        ended = (await http.get(path, headers=BROWSER)).text
        assert ("Approved" if verdict == "approve" else "Denied") in ended

    talk(about)


REQUEST = {
    "scheme": "https",
    "host": "api.example.com",
    "port": 443,
    "method": "POST",
    "target": f"/{EVIL}\u202e\x1b[2J",
    "headers": {"x-api-key": "sk-secret", "x": EVIL},
    "body": EVIL * 10_000,
}


@pytest.mark.parametrize("verdict", ["approve", "run", "deny"])
def test_attempt_44_a_permission_s_page_shows_a_request_harmlessly(
    talk: Talking, verdict: str
) -> None:
    async def about(outside: Outside, http: httpx.AsyncClient) -> None:
        action = {"request": REQUEST, "reason": f"just {EVIL}"}
        prompt = permissions.prompt(action)
        asked = {"name": permissions.op_name(action), "approve": True, "prompt": prompt}
        wait = await outside.ask(kind="permission", data=action, **asked)
        path = await outside.path(wait)
        page = (await http.get(path, headers=BROWSER)).text
        buttons = re.findall(r'name="verdict" value="(\w+)"', page)
        assert buttons == ["approve", "run", "deny"]
        assert "<script" not in page and "sk-secret" not in page
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x1b]", page)
        assert len(page) < 100_000 and "more characters" in page
        whole = await http.get(f"{path}/action")
        assert "attachment" in whole.headers["content-disposition"]
        assert whole.headers["content-type"] == "text/plain; charset=utf-8"
        assert EVIL * 10_000 in whole.text and "sk-secret" not in whole.text
        form = {"verdict": verdict, "note": " because "}
        assert (await http.post(path, data=form, headers=BROWSER)).status_code == 303
        value = (await outside.state(wait)).value
        assert value is not None
        decision = {"approve": "once", "run": "run", "deny": "deny"}[verdict]
        assert value["data"] == {"decision": decision, "reason": "because"}
        ended = (await http.get(path, headers=BROWSER)).text
        assert ("Denied" if verdict == "deny" else "Allowed") in ended
        entries = await outside.store.read(lambda c: read_entries(c, outside.run))
        (completed,) = [each.data for each in entries if each.kind == "wait.completed"]
        assert completed["by"] == "its link" and completed["origin"] == "its link, from 127.0.0.1"

    talk(about)


def test_a_permission_is_decided_by_a_program_s_answer_too(talk: Talking) -> None:
    async def about(outside: Outside, http: httpx.AsyncClient) -> None:
        action = {"action": {"name": "refund", "arguments": {"order": 7}}}
        wait = await outside.ask(kind="permission", name="refund", data=action, approve=True)
        path = await outside.path(wait)
        for wrong in ({"data": True}, {"data": {"decision": "always"}}, {"data": None}, {}):
            assert (await http.post(path, json=wrong)).status_code == 422, wrong
        both = {"data": {"decision": "deny"}, "approved": True}
        assert (await http.post(path, json=both)).status_code == 422
        given = {"data": {"decision": "run"}}
        assert (await http.post(path, json=given)).json()["approved"] is True
        ordinary = await outside.ask(prompt="Send?", approve=True)
        assert (await http.get(f"{await outside.path(ordinary)}/action")).status_code == 409

    talk(about)


def test_what_has_ended_otherwise_says_so(talk: Talking) -> None:
    async def about(outside: Outside, http: httpx.AsyncClient) -> None:
        late, cancelled = await outside.ask(), await outside.ask()
        paths = [await outside.path(each) for each in (late, cancelled)]
        await outside.end(late, status="timeout")
        await outside.finish()
        for path, said in zip(paths, ("Nobody answered in time", "stopped waiting"), strict=True):
            assert said in (await http.get(path, headers=BROWSER)).text
            refused = await http.post(path, json={"data": 1})
            assert refused.status_code == 409
        assert (await http.get(paths[0])).json()["state"] == "timeout"

    talk(about)


def test_of_many_at_once_one_answers(talk: Talking) -> None:
    async def about(outside: Outside, http: httpx.AsyncClient) -> None:
        wait = await outside.ask()
        path = await outside.path(wait)
        answers = await asyncio.gather(
            *(http.post(path, json={"data": n}) for n in range(20)),
            outside.end(wait, status="timeout"),
            return_exceptions=True,
        )
        codes = [each.status_code for each in answers if isinstance(each, httpx.Response)]
        ended = await outside.state(wait)
        assert codes.count(200) == (ended.state == "completed")
        assert codes.count(200) + codes.count(409) == 20
        if ended.state == "completed":
            assert ended.value is not None
            assert codes[ended.value["data"]] == 200

    talk(about)


def test_pages_tell_browsers_what_they_may(talk: Talking) -> None:
    async def about(outside: Outside, http: httpx.AsyncClient) -> None:
        path = await outside.path(await outside.ask())
        for page in (
            await http.get(path, headers=BROWSER),
            await http.get(path),
            await http.get("/w/none", headers=BROWSER),
        ):
            policy = page.headers["content-security-policy"]
            assert "default-src 'none'" in policy and "script-src" not in policy
            assert "frame-ancestors 'none'" in policy and "unsafe" not in policy
            assert page.headers["referrer-policy"] == "no-referrer"
            assert page.headers["cache-control"] == "no-store"
            assert not page.cookies
        text = (await http.get(path, headers=BROWSER)).text
        (style,) = re.findall(r'href="(/w/static/[^"]+)"', text)
        css = await http.get(style)
        assert css.headers["content-type"].startswith("text/css")
        assert "immutable" in css.headers["cache-control"]

    talk(about)


def test_nothing_else_is_public(talk: Talking) -> None:
    async def about(outside: Outside, http: httpx.AsyncClient) -> None:
        wait = await outside.ask()
        path = await outside.path(wait)
        for other in ("/v1/health", "/v1/waits", "/metrics", "/docs", "/openapi.json", "/ui/runs"):
            assert (await http.get(other)).status_code == 404, other
        for made_up in (f"/w/{wait.id}", path[:-1], f"{path}/x", "/w/", "/w/%00", "/w/é"):
            answer = await http.get(made_up)
            assert answer.status_code == 404, made_up
            assert (await http.post(made_up, json={"data": 1})).status_code in (404, 405)
        page = await http.get(path[:-1], headers=BROWSER)
        assert (page.status_code, "This link does not exist" in page.text) == (404, True)
        assert (await http.delete(path)).status_code == 405
        async with outside.http(all=True) as socket:  # the Unix socket has all of it
            assert (await socket.get(path)).json()["state"] == "open"
            assert (await socket.get("/v1/health")).json()["public_url"] == str(http.base_url)

    talk(about)


def test_without_the_hosts_key_there_are_no_links_but_waits(talk: Talking) -> None:
    async def about(outside: Outside, http: httpx.AsyncClient) -> None:
        wait = await outside.ask()
        key = Key.new()
        await outside.store.write(lambda c: put_key(c, outside.run, wrap(key, outside.run, key)))
        assert (await outside.service.waits.get(wait.id))["url"] is None
        assert (await http.get("/w/anything")).status_code == 503

    talk(about)


def test_waits_that_no_person_answers_have_no_link(talk: Talking) -> None:
    async def about(outside: Outside, http: httpx.AsyncClient) -> None:
        sleep: Any = await outside.ask(kind="sleep", due_at=2e9)
        assert (await outside.service.waits.get(sleep.id))["url"] is None
        tokens = await outside.service._urls.tokens()
        assert (await http.get(f"/w/{tokens.token(sleep.id)}")).status_code == 404

    talk(about)
