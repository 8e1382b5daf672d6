"""One suite for every implementation of `torpor.service`: the real one, whose runs are processes,
and the one in memory, whose runs play their input. Each test is about runs of its own.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from torpor.control.service.service import Service as RealService
from torpor.core.access import Scope
from torpor.core.agentfile import AgentSource
from torpor.core.errors import Conflict, Invalid, NotFound, TorporError, Unauthorized
from torpor.core.execs import CommandRequest
from torpor.core.home import Home
from torpor.core.retention import KEEP_ALL, Retention
from torpor.core.states import FINAL, RunState
from torpor.query.ask import Question
from torpor.service.logs import Entry
from torpor.service.runs import ForkRequest, RunDetail, RunFilter, RunRequest
from torpor.service.schedules import ScheduleSettings
from torpor.service.service import Service
from torpor.service.waits import Answer, Wait, WaitFilter
from torpor.testing.fakes.service import MemoryService, close_stores

pytestmark = pytest.mark.anyio

LIMIT_S = 60.0
# What the service in memory plays, as a program.
PLAYER = b'''
import torpor


@torpor.agent
def player(script: list = []):
    """Plays."""
    for verb, *rest in script:
        if verb == "print":
            print(rest[0])
        elif verb == "approve":
            torpor.approve(rest[0], rest[1])
        elif verb == "wait":
            torpor.waitpoint("wait", rest[0], rest[1]).result()
        elif verb == "event":
            torpor.event(rest[0]).result()
        elif verb == "fail":
            raise ValueError(rest[1])
        elif verb == "return":
            return rest[0]
'''
SOURCE = AgentSource("player.py", {"player.py": PLAYER}, origin="/play.py")
NOTHING = "run_nothing"


def heard(stage: str, message: str, fraction: float | None) -> None:
    pass


@dataclass(frozen=True)
class Place:
    """A service, and the agent that is deployed to it."""

    service: Service
    version: str

    async def start(self, *script: Any, **request: Any) -> str:
        given = {"script": list(script)}
        run = await self.service.runs.start(RunRequest(given, version=self.version, **request))
        return run["id"]

    async def until(self, run: str, *states: RunState) -> RunDetail:
        """The run, once it is in one of these states."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                change = asyncio.ensure_future(self.service.logs.changed(run))
                await asyncio.sleep(0)  # it listens before the run is read
                found = await self.service.runs.get(run)
                if found["state"] in states:
                    change.cancel()
                    return found
                await change

    async def ended(self, run: str) -> RunDetail:
        return await self.until(run, *FINAL)

    async def waiting(self, run: str) -> Wait:
        """What the run waits for, once it does."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                change = asyncio.ensure_future(self.service.logs.changed(run))
                await asyncio.sleep(0)
                found = await self.service.waits.list(WaitFilter(run))
                if found:
                    change.cancel()
                    return found[0]
                await change


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=[RealService, MemoryService])
async def place(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncIterator[Place]:
    with (
        tempfile.TemporaryDirectory(prefix="torpor-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TORPOR_ENGINE", "process")
        service = await request.param.open(Home(Path(folder)))
        deployed = await service.agents.deploy(SOURCE, heard)
        yield Place(service, deployed["version"])
        await service.hand_over(lambda words: None)
        await service.stop()
        close_stores()


async def test_a_run_is_played_to_its_result(place: Place) -> None:
    run = await place.start(["return", {"a": 1}])
    found = await place.ended(run)
    assert (found["state"], found["result"], found["error"]) == ("completed", {"a": 1}, None)
    assert (found["agent"], found["version"]) == ("player", place.version)
    assert found["machine"] is None and found["waits"] == []
    assert [member["id"] for member in found["family"]] == [run]
    entries: list[Entry] = []
    after = 0
    while True:
        page = await place.service.logs.read(run, after, 100)
        entries += page.entries
        if not page.more:
            break
        after = page.entries[-1]["seq"]
    assert [each["seq"] for each in entries] == list(range(1, found["last_seq"] + 1))
    assert (entries[0]["kind"], entries[-1]["kind"]) == ("run.created", "run.completed")
    assert await place.service.logs.begin(run, tail=1) == found["last_seq"] - 1
    printed = b"".join(await place.service.logs.output(run, "stdout"))
    assert isinstance(printed, bytes)


async def test_what_is_started_is_named_and_there(place: Place) -> None:
    runs = place.service.runs
    with pytest.raises(Invalid):
        await runs.start(RunRequest({}))
    for unknown in ("0" * 32, "none"):
        with pytest.raises(NotFound):
            await runs.start(RunRequest({}, version=unknown))
    by_name = await runs.start(RunRequest({"script": [["return", 1]]}, agent="player"))
    assert by_name["version"] == place.version
    once = await place.start(["return", 1], id_key="once")
    assert await place.start(["return", 1], id_key="once") == once
    await place.ended(once)
    await place.ended(by_name["id"])


async def test_runs_are_found_by_what_they_are(place: Place) -> None:
    mine = sorted([await place.start(["return", "needle"]) for _ in range(3)])
    for run in mine:
        await place.ended(run)
    found = await place.service.runs.list(RunFilter(text="needle"))
    assert [run["id"] for run in found] == mine[::-1]
    for narrowed in (
        RunFilter(["completed"], 2, agent="player", text="needle"),
        RunFilter(text="needle", limit=2),
    ):
        assert [run["id"] for run in await place.service.runs.list(narrowed)] == mine[:0:-1]
    older = await place.service.runs.list(RunFilter(text="needle", before=mine[1]))
    assert [run["id"] for run in older] == mine[:1]
    assert await place.service.runs.list(RunFilter(["failed"], text="needle")) == []
    assert await place.service.runs.list(RunFilter(agent="nobody")) == []
    assert all("queued_because" in run and run["asleep_under"] == [] for run in found)


async def test_a_wait_is_answered_once(place: Place) -> None:
    waits = place.service.waits
    run = await place.start(["approve", "Send it?", {"to": "all"}], ["return", 1])
    wait = await place.waiting(run)
    assert (wait["run"], wait["kind"], wait["state"]) == (run, "wait", "open")
    assert (wait["prompt"], wait["data"], wait["approve"]) == ("Send it?", {"to": "all"}, True)
    assert await waits.get(wait["id"]) == wait == await waits.get(wait["id"][:-1])
    assert await waits.list(WaitFilter(run, kinds=["event"])) == []
    assert await waits.list(WaitFilter(run, approve=True, agent="player", text="Send")) == [wait]
    with pytest.raises(Invalid):
        await waits.complete(wait["id"], Answer({"yes": 1}))
    done = await waits.complete(wait["id"], Answer(approved=True, note="fine", by="ada"))
    assert (done["state"], done["by"], done["url"]) == ("completed", "ada", None)
    assert (done["value"]["approved"], done["value"]["note"]) == (True, "fine")
    with pytest.raises(Conflict):
        await waits.complete(wait["id"], Answer(approved=False))
    assert (await place.ended(run))["result"] == 1
    assert await waits.list(WaitFilter(run)) == []
    assert [each["id"] for each in await waits.list(WaitFilter(run, ended=True))] == [wait["id"]]


async def test_a_question_is_answered_with_data(place: Place) -> None:
    run = await place.start(["wait", "Which?", None], ["return", "done"])
    wait = await place.waiting(run)
    assert wait["approve"] is False
    with pytest.raises(Invalid):
        await place.service.waits.complete(wait["id"], Answer(approved=True))
    done = await place.service.waits.complete(wait["id"], Answer([1, "two"]))
    assert done["value"]["data"] == [1, "two"]
    assert (await place.ended(run))["state"] is RunState.COMPLETED


async def test_an_event_ends_the_wait_for_it(place: Place) -> None:
    events = place.service.events
    run = await place.start(["event", "paid", None], ["return", 1])
    wait = await place.waiting(run)
    assert wait["kind"] == "event"
    with pytest.raises(Conflict):
        await place.service.waits.complete(wait["id"], Answer(1))
    other = await events.send(run, "refused", 1)
    assert (other["run"], other["name"], other["wait"]) == (run, "refused", None)
    sent = await events.send(run, "paid", {"n": 1}, by="bank")
    assert (sent["wait"], sent["again"]) == (wait["id"], False)
    await place.ended(run)
    with pytest.raises(Conflict):
        await events.send(run, "paid", 2)


async def test_a_run_is_cancelled_and_then_deleted(place: Place) -> None:
    runs = place.service.runs
    run = await place.start(["wait", "?", None])
    await place.waiting(run)
    with pytest.raises(Conflict):
        await runs.delete(run)
    assert (await runs.cancel(run))["state"] is RunState.CANCELLED
    assert await place.service.waits.list(WaitFilter(run)) == []
    with pytest.raises(Conflict):
        await runs.cancel(run)
    found = await runs.find(run[:-1])
    assert found.items() <= (await runs.get(run)).items() and found["id"] == run
    assert await runs.delete(run) == {"id": run, "deleted": True}
    with pytest.raises(NotFound):
        await runs.get(run)


async def test_a_failed_run_is_retried_and_any_is_forked(place: Place) -> None:
    runs = place.service.runs
    run = await place.start(["fail", "ValueError", "no such day"])
    failed = await place.ended(run)
    assert failed["state"] is RunState.FAILED and failed["error"] is not None
    assert (failed["error"]["type"], failed["error"]["message"]) == ("ValueError", "no such day")
    again = await runs.retry(run)
    assert again["origin"] == run
    how = (await place.ended(again["id"]))["forked"]
    assert how is not None and how["how"] == "retry"
    copy = await runs.fork(run, ForkRequest(input={"script": [["return", 2]]}))
    found = await place.ended(copy["id"])
    assert (found["origin"], found["result"]) == (run, 2)
    family = {member["id"] for member in found["family"]}
    assert family == {run, again["id"], copy["id"]}
    with pytest.raises(Conflict):
        await runs.fork(run, ForkRequest(at=9_999))
    with pytest.raises(Conflict):
        await runs.retry(copy["id"])


NOWHERE: dict[str, Callable[[Service], Coroutine[Any, Any, object]]] = {
    "run": lambda service: service.runs.get(NOTHING),
    "run, itself": lambda service: service.runs.find(NOTHING),
    "cancel": lambda service: service.runs.cancel(NOTHING),
    "fork": lambda service: service.runs.fork(NOTHING, ForkRequest()),
    "retry": lambda service: service.runs.retry(NOTHING),
    "upgrade": lambda service: service.runs.upgrade(NOTHING),
    "delete": lambda service: service.runs.delete(NOTHING),
    "result": lambda service: service.runs.result(NOTHING, "step:a#1"),
    "runs before": lambda service: service.runs.list(RunFilter(before=NOTHING)),
    "export": lambda service: service.transfers.export(NOTHING),
    "log": lambda service: service.logs.read(NOTHING, 0, 10),
    "log's end": lambda service: service.logs.begin(NOTHING, tail=1),
    "output": lambda service: service.logs.output(NOTHING, "stdout"),
    "wait": lambda service: service.waits.get("wait_nothing"),
    "waits": lambda service: service.waits.list(WaitFilter(NOTHING)),
    "waits after": lambda service: service.waits.list(WaitFilter(after="wait_nothing")),
    "answer": lambda service: service.waits.complete("wait_nothing", Answer(1)),
    "link": lambda service: service.links.get("nothing"),
    "event": lambda service: service.events.send(NOTHING, "paid", 1),
    "snapshots": lambda service: service.snapshots.list(NOTHING),
    "verify": lambda service: service.snapshots.verify(NOTHING),
    "artifacts": lambda service: service.artifacts.list(NOTHING),
    "artifact": lambda service: service.artifacts.content(NOTHING, "a.csv"),
    "file": lambda service: service.files.get("0" * 64),
    "exec": lambda service: service.execs.start(NOTHING, CommandRequest(("true",)), "me"),
    "agent": lambda service: service.agents.get("nobody"),
    "retired": lambda service: service.agents.retire("nobody"),
    "schedule": lambda service: service.schedules.pause("nothing", True),
    "no schedule": lambda service: service.schedules.remove("nothing"),
    "hook": lambda service: service.hooks.create("none"),
    "revoked hook": lambda service: service.hooks.revoke("hook_nothing"),
    "query": lambda service: service.queries.delete("nothing"),
    "key": lambda service: service.keys.revoke("nothing"),
    "token": lambda service: service.keys.create_token(run=NOTHING),
}


@pytest.mark.parametrize("what", NOWHERE)
async def test_what_is_not_there_is_not_found(place: Place, what: str) -> None:
    with pytest.raises(NotFound):
        await NOWHERE[what](place.service)


async def test_agents_are_described_and_deployed_once(place: Place) -> None:
    agents = place.service.agents
    again = await agents.deploy(SOURCE, heard)
    assert (again["version"], again["cached"]) == (place.version, True)
    (listed,) = await agents.list()
    assert (listed["version"], listed["name"]) == (place.version, "player")
    assert [each["origin"] for each in listed["current"]] == ["/play.py"]
    for ref, version in (("player", None), ("player:player", None), (None, place.version)):
        found = await agents.get(ref, version)
        assert (found["version"], found["agent"]["name"]) == (place.version, "player")
    with pytest.raises(Invalid):
        await agents.get(None)


async def test_keys_are_recognized_until_they_are_revoked(place: Place) -> None:
    keys = place.service.keys
    created = await keys.create("ci", [Scope.OBSERVE])
    assert (await keys.recognize(created["key"])).scopes == {Scope.OBSERVE}
    assert created["id"] in [key["id"] for key in await keys.list()]
    assert all("key" not in key for key in await keys.list())
    assert (await keys.revoke(created["id"]))["revoked_at"] is not None
    for wrong in (created["key"], "torpor_x_y", ""):
        with pytest.raises(Unauthorized):
            await keys.recognize(wrong)
    with pytest.raises(Invalid):
        await keys.create_token()


async def test_queues_keep_what_is_set(place: Place) -> None:
    queues = place.service.queues
    assert (await queues.update("slow", {"concurrency": 2, "rate": "10/1m"}))["concurrency"] == 2
    changed = await queues.update("slow", {"paused": True, "rate": None})
    assert (changed["paused"], changed["concurrency"], changed["rate"]) == (True, 2, None)
    assert changed in await queues.list()
    with pytest.raises(Invalid):
        await queues.update("slow", {"rate": "often"})


async def test_schedules_are_added_paused_and_removed(place: Place) -> None:
    schedules = place.service.schedules
    settings: ScheduleSettings = {
        "agent": "player",
        "cron": "30 8 * * *",
        "zone": "Europe/Berlin",
        "input": {"script": []},
        "jitter_s": 0.0,
        "overlap": "skip",
        "missed": "once",
        "queue": None,
        "priority": 0,
        "env": {"A": "b"},
    }
    added = await schedules.add("daily", settings, replace=False)
    assert (added["name"], added["env"], added["paused"]) == ("daily", ["A"], False)
    assert await schedules.list() == [added]
    assert (await schedules.pause("daily", True))["paused"] is True
    assert (await schedules.remove("daily"))["name"] == "daily"
    assert await schedules.list() == []


async def test_hooks_are_listed_until_they_are_revoked(place: Place) -> None:
    hooks = place.service.hooks
    created = await hooks.create("player")
    assert created["secret"].startswith("whsec_") and created["url"].endswith(created["id"])
    (listed,) = await hooks.list()
    assert listed["id"] == created["id"] and "secret" not in listed
    assert (await hooks.revoke(created["id"]))["revoked_at"] is not None
    assert await hooks.list() == []
    assert [hook["id"] for hook in await hooks.list(revoked=True)] == [created["id"]]
    url = "https://example.com/in"
    secret = await hooks.url_secret(url)
    assert secret["url"] == url and secret["secret"].startswith("whsec_")


async def test_files_are_known_by_their_digest(place: Place) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"a,b\n"
        yield b"1,2\n"

    files = place.service.files
    uploaded = await files.upload(body())
    assert uploaded["bytes"] == 8
    assert await files.get(uploaded["digest"]) == uploaded
    with pytest.raises(Invalid):
        await files.upload(body(), "0" * 64)


async def test_queries_are_answered_and_saved(place: Place) -> None:
    queries = place.service.queries
    await place.ended(await place.start(["return", 1]))
    found = await queries.ask(Question("SELECT id, state FROM runs", rows_max=1))
    assert {"id", "state"} <= set(found["columns"]) and len(found["rows"]) == 1
    with pytest.raises(Invalid):
        await queries.ask(Question("nonsense"))
    await queries.save("all", "SELECT 1")
    await queries.save("all", "SELECT * FROM runs")
    assert [(each["name"], each["sql"]) for each in await queries.list()] == [
        ("all", "SELECT * FROM runs")
    ]
    await queries.delete("all")
    assert await queries.list() == []


async def test_a_command_runs_beside_an_agent(place: Place) -> None:
    run = await place.start(["wait", "?", None])
    await place.waiting(run)
    await place.until(run, RunState.SUSPENDED)
    command = await place.service.execs.start(run, CommandRequest(("printf", "hello")), "me")
    assert (await place.service.execs.get(run, command.id)).id == command.id
    written = b""
    async with asyncio.timeout(LIMIT_S):
        while command.end is None:
            for each in await command.changes(1.0):
                written += each.data
                command.took(len(each.data))
    written += b"".join(each.data for each in await command.changes(0.0))
    assert written == b"hello"
    assert not isinstance(command.end, TorporError) and command.end.code == 0
    await place.service.runs.cancel(run)
    with pytest.raises(Conflict):
        await place.service.execs.start(run, CommandRequest(("true",)), "me")
    with pytest.raises(Invalid):
        await place.service.execs.start(
            await place.start(["wait", "?", None]), CommandRequest(()), "me"
        )


async def test_what_is_kept_is_counted(place: Place, tmp_path: Path) -> None:
    storage = place.service.storage
    await place.ended(await place.start(["return", 1]))
    totals = await place.service.totals()
    assert set(totals["runs"]) == set(RunState) and totals["runs"][RunState.COMPLETED] > 0
    assert (await storage.collect(True))["dry_run"] is True
    assert await storage.retain(Retention(age_s=3600.0)) == {"age_s": 3600.0, "log_bytes": None}
    assert (await storage.retention())["age_s"] == 3600.0
    await storage.retain(KEEP_ALL)
    copied = await storage.back_up(str(tmp_path / "copy"), False)
    assert (copied["directory"], copied["key"]) == (str(tmp_path / "copy"), False)
    health = await place.service.health()
    assert health["home"] and health["public_url"] is None


async def test_what_is_published_has_links(place: Place) -> None:
    """Last: nothing is taken back."""
    place.service.publish("https://agents.example.com")
    assert (await place.service.health())["public_url"] == "https://agents.example.com"
    run = await place.start(["approve", "Go?", None], ["return", 1])
    wait = await place.waiting(run)
    base, _, token = (wait["url"] or "").rpartition("/")
    assert base == "https://agents.example.com/w"
    shown = await place.service.links.get(token)
    assert (shown["prompt"], shown["state"], shown["approved"]) == ("Go?", "open", None)
    assert not {"id", "run"} & set(shown)
    answered = await place.service.links.answer(token, Answer(approved=True, by="its link"))
    assert (answered["state"], answered["approved"]) == ("completed", True)
    with pytest.raises(Conflict):
        await place.service.links.answer(token, Answer(approved=True))
    assert (await place.ended(run))["result"] == 1
