"""Webhooks: who is told of waits, how often, and what others may send in."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from torpor.contextlog import agents, notices, runs, schema, waits
from torpor.contextlog.entries import read_entries
from torpor.contextlog.runs import RunRow
from torpor.contextlog.waits import WaitRow
from torpor.control.service import webhooks
from torpor.control.service.events import Events
from torpor.control.service.hooks import Hooks
from torpor.control.service.tokens import Urls
from torpor.control.service.waits import AnswerWriter, Waits
from torpor.control.service.webhooks import Webhooks
from torpor.core.errors import Conflict, Invalid, NotFound
from torpor.core.home import Home
from torpor.core.ids import AgentVersion
from torpor.core.limits import LIMITS
from torpor.core.states import RunState
from torpor.core.webhooks import Unsigned
from torpor.logstore.sqlite import SqliteStore
from torpor.policy import signing
from torpor.service.events import Sent
from torpor.service.hooks import CreatedHook
from torpor.service.waits import Answer
from torpor.testing.clock import ManualClock
from torpor.worker.pen import Pen
from torpor.worker.sealing import SealingKeys

pytestmark = pytest.mark.anyio

URLS = {"ops": "https://ops.example.com/in", "boss": "http://boss.example.com:8080/x?y=z"}
PARAMS = [{"name": "order", "required": True}, {"name": "note", "required": False}]
AGENT = {"name": "shop", "doc": None, "params": PARAMS, "open": False}


class Town:
    """A log with a run, a clock, and receivers that answer as they are told to."""

    def __init__(self, directory: Path) -> None:
        self.home = Home(directory).create()
        self.store = SqliteStore.open(self.home.database)
        self.keys = SealingKeys(self.home, self.store, on=True)
        self.clock = ManualClock(1_000_000.0)
        self.urls = Urls(self.keys)
        writer = AnswerWriter(self.store, lambda: None)
        self.waits = Waits(self.store, self.urls, writer)
        self.started: list[RunRow] = []
        self.hooks = Hooks(
            self.store,
            self.keys,
            Events(writer),
            self.urls,
            self.started.append,
            self.clock,
        )
        self.got: list[httpx.Request] = []
        self.answers: dict[str, int | Exception] = {}
        self.tend()

    @property
    def now(self) -> float:
        return self.clock.now()

    def tend(self) -> None:
        """A server starts."""
        transport = httpx.MockTransport(self._answer)
        self.webhooks = Webhooks(
            self.store, self.keys, self.waits, clock=self.clock, transport=transport
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.got.append(request)
        answer = self.answers.get(str(request.url.host), 204)
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer, headers={"location": "http://elsewhere.example.com"})

    async def write(self, fn: Callable[[Any], Any]) -> Any:
        return await self.store.write(fn)

    async def deploy(self, letter: str = "a", **spec: Any) -> AgentVersion:
        version = AgentVersion(letter * 32)
        fields: dict[str, Any] = {"name": "file", "entry": "file.py", "source": b""}
        spec = {"webhooks": URLS, "image": "process"} | spec
        await self.write(
            lambda c: agents.put_agent(
                c,
                agents.NewAgent(
                    engine="process", version=version, spec=spec, agents=[AGENT], **fields
                ),
                self.now,
            )
        )
        return version

    async def run(self) -> RunRow:
        version = await self.deploy()

        def make(c: Any) -> RunRow:
            fields: dict[str, Any] = {"agent": "shop", "input": {}, "now": self.now}
            run = runs.create_run(c, version=version, **fields).id
            runs.claim(c, run, self.now)
            return runs.get_run(c, run)

        row = await self.write(make)
        assert isinstance(row, RunRow)
        return row

    async def ask(self, run: RunRow, n: int = 1, **asked: Any) -> WaitRow:
        """As a machine does."""
        data: dict[str, Any] = {
            "prompt": "Go?",
            "data": None,
            "timeout_s": None,
            "tags": [],
            "approve": False,
        }
        named = {"op": f"wait:ok#{n}", "kind": "wait", "name": "ok", "digest": "d"}
        message = named | {"data": data | asked}
        pen = Pen(self.store, run.id, run.epoch)
        (wait,) = await self.write(lambda c: pen.create_waits(c, [message]))
        assert isinstance(wait, WaitRow)
        # The pen's clock is the host's; what is due counts from the test's.
        moved = {"created_at": self.now}
        if wait.remind_at is not None:
            moved["remind_at"] = self.now + wait.remind_after[0]
        table, queued = schema.waits, schema.notices

        def move(c: Any) -> WaitRow:
            c.execute(table.update().where(table.c.id == wait.id).values(**moved))
            c.execute(queued.update().where(queued.c.wait == wait.id).values(next_at=self.now))
            return waits.get_wait(c, wait.id)

        moved_wait = await self.write(move)
        assert isinstance(moved_wait, WaitRow)
        return moved_wait

    async def look(self, later_s: float = 0.0) -> float | None:
        self.clock.skip(later_s)
        await self.webhooks.look()
        await self.webhooks.settled()
        return await self.webhooks.look()

    async def log(self, run: RunRow, *kinds: str) -> list[dict[str, Any]]:
        found = await self.store.read(lambda c: read_entries(c, run.id, 0, kinds))
        return [entry.data for entry in found]

    async def close(self) -> None:
        await self.webhooks.stop()
        self.store.close()


@pytest.fixture
async def town(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Town]:
    town = Town(tmp_path)
    yield town
    await town.close()


async def verified(town: Town, request: httpx.Request) -> dict[str, Any]:
    """The message, as its receiver checks and reads it."""
    secret = (await town.hooks.url_secret(str(request.url)))["secret"]
    key = base64.b64decode(secret.removeprefix("whsec_"))
    body = request.content
    assert signing.verify(key, request.headers, body, town.now) == request.headers["webhook-id"]
    message: dict[str, Any] = json.loads(body)
    return message


async def test_who_is_named_is_told_at_once_and_the_log_says_so(town: Town) -> None:
    town.urls.publish("https://agents.example.com")
    run = await town.run()
    wait = await town.ask(run, webhooks=["ops"], tags=["money"])
    assert await town.look() is None
    (request,) = town.got
    assert str(request.url) == URLS["ops"]
    message = await verified(town, request)
    assert message["type"] == "wait.created"
    told = message["data"]
    assert (told["id"], told["run"], told["agent"]) == (wait.id, run.id, "shop")
    assert (told["prompt"], told["tags"], told["reminder"]) == ("Go?", ["money"], 0)
    assert told["url"] == (await town.waits.get(wait.id))["url"]
    (sent,) = await town.log(run, "webhook.sent")
    assert (sent["wait"], sent["webhook"], sent["attempt"], sent["status"]) == (
        wait.id,
        "ops",
        1,
        204,
    )
    assert await town.hooks.url_secret(URLS["ops"]) != await town.hooks.url_secret(URLS["boss"])


async def test_reminders_escalate_until_the_answer(town: Town) -> None:
    run = await town.run()
    wait = await town.ask(run, webhooks=["ops", "boss"], remind_after=[60.0, 10.0, 600.0])
    assert wait.remind_after == [10.0, 60.0, 600.0]
    await town.look()
    assert await town.look(9.0) == town.now + 1.0
    assert len(town.got) == 1
    await town.look(1.0)
    await town.look(50.0)
    assert [str(each.url) for each in town.got] == [URLS["ops"], URLS["boss"], URLS["boss"]]
    reminded = [await verified(town, town.got[-1])]
    assert (reminded[0]["type"], reminded[0]["data"]["reminder"]) == ("wait.reminded", 2)
    assert await town.log(run, "wait.reminded") == [
        {"wait": wait.id, "reminder": n} for n in (1, 2)
    ]
    await town.waits.complete(wait.id, Answer("yes"))
    assert await town.look(1000.0) is None
    assert len(town.got) == 3


async def test_reminders_missed_while_no_server_ran_are_one(town: Town) -> None:
    run = await town.run()
    wait = await town.ask(run, remind_after=[10.0, 20.0, 30.0, 1000.0])
    assert await town.look(500.0) == wait.created_at + 1000.0
    assert await town.log(run, "wait.reminded") == [{"wait": wait.id, "reminder": 3}]


async def test_what_fails_is_tried_again_later_and_later_and_then_given_up(town: Town) -> None:
    run = await town.run()
    await town.ask(run, webhooks=["ops"])
    town.answers["ops.example.com"] = 302  # no redirect is followed
    due_at: float | None = town.now
    waited = []
    while due_at is not None:
        before = town.now
        due_at = await town.look(max(0.0, due_at - town.now))
        waited.append(town.now - before)
    wanted, jitter = LIMITS.webhook_retry_s, LIMITS.webhook_jitter
    assert len(town.got) == len(wanted) + 1
    for had, want in zip(waited[1:], wanted, strict=True):
        assert want * (1 - jitter) <= had <= want * (1 + jitter)
    assert len({each.headers["webhook-id"] for each in town.got}) == 1
    failed = await town.log(run, "webhook.failed")
    assert [each["attempt"] for each in failed] == list(range(1, len(wanted) + 2))
    assert failed[0]["why"] == "it answered 302"
    assert [each["again_at"] is None for each in failed] == [False] * len(wanted) + [True]


async def test_one_that_comes_back_is_told_once(town: Town) -> None:
    run = await town.run()
    await town.ask(run, webhooks=["ops"])
    town.answers["ops.example.com"] = httpx.ConnectError("nobody there")
    due_at = await town.look()
    assert due_at is not None
    (failed,) = await town.log(run, "webhook.failed")
    assert failed["why"] == "ConnectError: nobody there"
    town.answers.clear()
    await town.webhooks.stop()
    town.tend()  # another server
    assert await town.look(due_at - town.now) is None
    assert (await town.log(run, "webhook.sent"))[0]["attempt"] == 2
    assert len(town.got) == 2


async def test_one_that_wants_no_more_is_not_asked_again(town: Town) -> None:
    run = await town.run()
    await town.ask(run, webhooks=["ops"])
    town.answers["ops.example.com"] = webhooks.GONE
    assert await town.look() is None
    assert (await town.log(run, "webhook.failed"))[0]["again_at"] is None


async def test_nobody_is_told_of_what_has_ended(town: Town) -> None:
    run = await town.run()
    wait = await town.ask(run, webhooks=["ops"])
    await town.waits.complete(wait.id, Answer(1))
    assert await town.look() is None
    assert town.got == []
    (notice,) = await town.store.read(lambda c: notices.notices_of(c, wait.id))
    assert notice.state == notices.DROPPED
    other = await town.ask(run, 2, webhooks=["ops"])
    town.answers["ops.example.com"] = 500
    due_at = await town.look()
    assert due_at is not None
    await town.write(lambda c: runs.transition(c, run.id, None, RunState.CANCELLED, town.now))
    log = await town.log(run)
    assert await town.look(due_at - town.now) is None
    assert await town.log(run) == log  # what has ended is not added to
    assert (await town.waits.get(other.id))["state"] == "cancelled"


async def test_an_agent_tells_only_whom_its_file_names(town: Town) -> None:
    run = await town.run()
    wait = await town.ask(run, webhooks=["ops", "https://evil.example.com"])
    assert wait.state == "refused"
    assert "defines no webhook https://evil.example.com" in wait.outcome["error"]["message"]
    assert "has ops, boss" in wait.outcome["error"]["message"]
    assert await town.look() is None
    assert town.got == []
    # Where a name leads is looked up when it is used: as the file was deployed last.
    await town.ask(run, 2, webhooks=["ops"])
    moved = {"ops": "https://new.example.com/"}
    await town.write(lambda c: agents.deployed_again(c, run.version, {"webhooks": moved}, town.now))
    await town.look()
    assert [str(each.url) for each in town.got] == ["https://new.example.com/"]
    await town.ask(run, 3, webhooks=["ops"])
    await town.write(lambda c: agents.deployed_again(c, run.version, {"webhooks": {}}, town.now))
    assert await town.look() is None
    assert "no webhook 'ops' any more" in (await town.log(run, "webhook.failed"))[0]["why"]


async def test_attempt_44_the_webhook_named_permission_is_told_of_each_harmlessly(
    town: Town,
) -> None:
    run = await town.run()
    spec = {"webhooks": {"permission": URLS["ops"]}, "rules": {"permission_timeout": "12h"}}
    await town.write(lambda c: agents.deployed_again(c, run.version, spec, town.now))
    request: dict[str, Any] = {
        "scheme": "https",
        "host": "x.example",
        "port": 443,
        "method": "POST",
    }
    request |= {"target": "/a\u202e\x1b[2J", "headers": {"x-api-key": "sk-secret"}, "body": "{}"}
    begin: dict[str, Any] = {
        "op": "permission:p#1",
        "kind": "permission",
        "name": "p",
        "digest": "d" * 32,
    }
    begin |= {"data": {"request": request, "timeout_s": None}}
    pen = Pen(town.store, run.id, run.epoch, town.clock)
    (wait,) = await town.write(lambda c: pen.create_waits(c, [begin]))
    assert (wait.webhooks, wait.due_at) == (["permission"], town.now + 12 * 3600)
    await town.look()
    await town.webhooks.settled()
    (got,) = town.got
    message = json.loads(got.content)["data"]
    assert message["kind"] == "permission"
    assert message["data"]["url"] == r"https://x.example/a\u202e\x1b[2J" == message["prompt"][5:]
    assert "sk-secret" not in got.content.decode()
    given: dict[str, Any] = {"data": {**begin["data"], "timeout_s": 60}, "op": "permission:p#2"}
    (own,) = await town.write(lambda c: pen.create_waits(c, [begin | given]))
    assert own.due_at == town.now + 60


async def test_what_is_no_request_is_refused_and_nobody_is_asked(town: Town) -> None:
    run = await town.run()
    request: dict[str, Any] = {
        "scheme": "https",
        "host": "x.example",
        "port": 443,
        "method": "POST",
    }
    request |= {"target": "/", "headers": {}, "body_b64": "%"}
    begin: dict[str, Any] = {
        "op": "permission:p#1",
        "kind": "permission",
        "name": "p",
        "digest": "d" * 32,
    }
    begin |= {"data": {"request": request, "timeout_s": None}}
    pen = Pen(town.store, run.id, run.epoch, town.clock)
    (wait,) = await town.write(lambda c: pen.create_waits(c, [begin]))
    assert wait.state == waits.REFUSED
    assert "not base64" in wait.outcome["error"]["message"]


async def test_the_server_wakes_by_itself(town: Town) -> None:
    run = await town.run()
    tending = asyncio.create_task(town.webhooks.tend())
    try:
        with town.store.subscribe(run.id) as subscription:
            await asyncio.sleep(0)
            town.clock.skip(10e9)  # so that what the host's clock says is due
            pen = Pen(town.store, run.id, run.epoch)
            data = {"prompt": "", "data": 1, "timeout_s": None, "tags": [], "approve": True}
            begin = {"op": "wait:a#1", "kind": "wait", "name": "a", "digest": "d"}
            message = begin | {"data": data | {"webhooks": ["ops"], "remind_after": [1.0]}}
            await town.write(lambda c: pen.create_waits(c, [message]))
            async with asyncio.timeout(10):
                while len(await town.log(run, "webhook.sent")) < 2:
                    await subscription.wait()
    finally:
        tending.cancel()
        await asyncio.gather(tending, return_exceptions=True)
    assert len(town.got) == 2


# -- in ---------------------------------------------------------------------------------------


async def post(town: Town, hook: CreatedHook, body: Any, id: str = "m1", **changed: str) -> Sent:
    key = base64.b64decode(hook["secret"].removeprefix("whsec_"))
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = signing.sign(key, id, town.now, raw) | changed
    return await town.hooks.receive(hook["id"], headers, raw)


async def test_a_message_starts_a_run_once(town: Town) -> None:
    await town.deploy()
    hook = await town.hooks.create("file", None, None, None)
    assert hook["agent"] == "file:shop"
    first = await post(town, hook, {"order": 7})
    assert first["again"] is False
    (run,) = town.started
    assert (run.id, run.input, run.agent) == (first["run"], {"order": 7}, "shop")
    town.clock.skip(60)
    await town.deploy("b")
    again = await post(town, hook, {"order": 7})
    assert (again["run"], again["again"]) == (first["run"], True)
    other = await post(town, hook, {"order": 7}, id="m2")
    assert other["run"] != first["run"]
    assert [each.version[0] for each in town.started] == ["a", "b"]  # the current one each time


async def test_what_does_not_fit_starts_nothing(town: Town) -> None:
    await town.deploy()
    hook = await town.hooks.create("shop", None, None, None)
    for body in (b"{", b"NaN", {"odder": 1}, [1], {}, b"\xff"):
        with pytest.raises(Invalid):
            await post(town, hook, body)
    with pytest.raises(Unsigned):
        await post(town, hook, {"order": 1}, **{"webhook-signature": "v1,AAAA"})
    with pytest.raises(Unsigned, match="300 s"):
        old = base64.b64decode(hook["secret"].removeprefix("whsec_"))
        headers = signing.sign(old, "m1", town.now - 301, b"{}")
        await town.hooks.receive(hook["id"], headers, b"{}")
    with pytest.raises(NotFound):
        await town.hooks.receive("hook_none", {}, b"{}")
    assert town.started == []
    whole = await town.hooks.create("file.py:shop", None, None, "order")
    await post(town, whole, [1, 2])
    assert town.started[0].input == {"order": [1, 2]}


async def test_a_message_is_an_event_once(town: Town) -> None:
    run = await town.run()
    hook = await town.hooks.create("shop", "paid", "data.run", None)
    sent = await post(town, hook, {"data": {"run": run.id, "pence": 3}})
    assert (sent["run"], sent["wait"], sent["again"]) == (run.id, None, False)
    assert (await post(town, hook, {"data": {"run": run.id}}))["again"] is True
    (event,) = await town.log(run, "event.received")
    assert (event["name"], event["data"]["data"]["pence"], event["by"]) == ("paid", 3, hook["id"])
    # By the key that a run was started with.
    starting = await town.hooks.create("shop", None, None, None)
    started = await post(town, starting, {"order": 1}, id="order-9")
    key = f"{starting['id']}:order-9"
    assert (await post(town, hook, {"data": {"run": key}}, id="m2"))["run"] == started["run"]
    wrong: Any
    for wrong in ({"data": {"run": "run_none"}}, {"data": {"run": ""}}, {"data": 1}, [], 7):
        with pytest.raises((Invalid, NotFound)):
            await post(town, hook, wrong, id="m3")


async def test_a_hook_is_for_one_agent_and_until_it_is_revoked(town: Town) -> None:
    run = await town.run()
    other = AGENT | {"name": "other"}
    spec = {"image": "process"}
    fields: dict[str, Any] = {"name": "two", "entry": "two.py", "source": b"", "spec": spec}
    version = AgentVersion("c" * 32)
    await town.write(
        lambda c: agents.put_agent(
            c,
            agents.NewAgent(engine="process", version=version, agents=[other], **fields),
            town.now,
        )
    )
    hook = await town.hooks.create("other", "paid", "run", None)
    with pytest.raises(NotFound, match="two:other has no run"):
        await post(town, hook, {"run": run.id})
    assert [each["id"] for each in await town.hooks.list(False)] == [hook["id"]]
    assert "secret" not in (await town.hooks.list(False))[0]
    await town.hooks.revoke(hook["id"][:12])
    with pytest.raises(NotFound):
        await post(town, hook, {"run": run.id})
    with pytest.raises(Conflict):
        await town.hooks.revoke(hook["id"])
    assert await town.hooks.list(False) == []
    assert (await town.hooks.list(True))[0]["revoked_at"] == town.now


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (("none", None, None, None), NotFound),
        (("shop", "paid", None, None), Invalid),
        (("shop", None, "run", None), Invalid),
        (("shop", "paid", "run", "order"), Invalid),
        (("shop", None, None, "colour"), Invalid),
    ],
)
async def test_a_hook_that_makes_no_sense_is_not_made(
    town: Town, asked: tuple[str, str | None, str | None, str | None], error: type[Exception]
) -> None:
    await town.deploy()
    with pytest.raises(error):
        await town.hooks.create(*asked)
    assert await town.hooks.list(True) == []
