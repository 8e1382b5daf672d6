"""Resources of a `MemoryService`, as `torpor.service` describes them: what runs do."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from torpor.control.service.egress import judged
from torpor.core import permissions
from torpor.core.agentfile import AgentSource
from torpor.core.egress import judge, parse_egress, parse_request
from torpor.core.errors import Conflict, GuestError, Invalid, NotFound
from torpor.core.ids import new_id
from torpor.core.presets import hinted
from torpor.core.states import FINAL, RunState
from torpor.service.agents import Agent, Deployed, Deployment, DescribedAgent, Report
from torpor.service.egress import Exchange, ExchangeFilter, Judged, Reach
from torpor.service.events import Sent
from torpor.service.logs import LogPage
from torpor.service.runs import (
    ALL_RUNS,
    Deleted,
    ForkRequest,
    Run,
    RunDetail,
    RunFilter,
    RunRequest,
)
from torpor.service.shapes import Object, reply
from torpor.service.waits import OPEN_WAITS, Answer, PublicWait, Wait, WaitFilter
from torpor.testing.fakes.memory import (
    PLAYER,
    SNAPSHOT_BYTES,
    TEMPLATE_BYTES,
    VERSION,
    Memory,
    find,
)

PAGE_ENTRIES = 3  # a page need not have as many entries as were asked for
EXPORT_BYTES = 3 << 20  # more than a body may have that is not streamed


class Agents:
    """One agent can be deployed, `player`, whatever its files say."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def deploy(
        self, source: AgentSource, report: Report, engine: str | None = None
    ) -> Deployed:
        report("boot", "booting [the image]", None)
        # As the real one's, part of the work is in a thread.
        await asyncio.to_thread(report, "load", "loading the agent", 0.5)
        text = source.files[source.entry].decode()
        if "does not load" in text:
            raise GuestError("the agent does not load", hint="ImportError: no such module")
        if "breaks the service" in text:
            raise RuntimeError("secret detail")
        cached = self._memory.deployed is not None
        self._memory.source = source
        self._memory.deployed = reply(
            Deployed,
            engine=engine or "qemu",
            version=VERSION,
            agents=[PLAYER],
            default="player",
            boot_ms=1000.0,
            template_bytes=TEMPLATE_BYTES,
            cached=cached,
        )
        return self._memory.deployed

    async def list(self) -> Sequence[Agent]:
        deployed = self._memory.deployed
        if deployed is None:
            return []
        keys = ("version", "engine", "agents", "template_bytes", "boot_ms")
        known = {key: value for key, value in deployed.items() if key in keys}
        current = {"origin": "/play.py", "name": "player", "deployed_at": 1.0}
        return [
            reply(
                *(Agent, known),
                name="player",
                egress=_rules(self._memory.source),
                first_at=1.0,
                deployed_at=1.0,
                current=[current],
            )
        ]

    async def get(
        self, ref: str | None, version: str | None = None, engine: str | None = None
    ) -> DescribedAgent:
        if ref is None and version is None:
            raise Invalid("name an agent or a version")
        known = version == VERSION or (version is None and self._memory.deployed is not None)
        if ref in (None, "player", "player:player") and known:
            return reply(
                DescribedAgent, version=VERSION, name="player", engine="qemu", agent=PLAYER
            )
        raise NotFound(f"no agent {ref!r} is deployed", hint="Deploy it first.")

    async def retire(self, ref: str) -> Deployment:
        known = await self.list()
        if not known or ref not in ("player", "player:player", "/play.py"):
            raise NotFound(f"no agent {ref!r} is deployed", hint="Deploy it first.")
        self._memory.deployed = None
        return known[0]["current"][0]


def _rules(source: AgentSource | None) -> list[Object]:
    entries = [] if source is None else list(source.egress)
    return [asdict(rule) for rule in parse_egress(entries, "egress")]


class Egress:
    """Of what was deployed. Nothing ever goes out, or is refused."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def reach(self, ref: str, *, exact: bool = False) -> Reach:
        source = self._source(ref)
        return reply(
            Reach,
            name="player",
            version=VERSION,
            engine="qemu",
            origin="/play.py",
            deployed_at=1.0,
            entries=[dict(entry) for entry in source.egress],
            rules=_rules(source),
            budget=source.rules.given.get("budget", {}),
        )

    async def test(self, ref: str, method: str, url: str) -> Judged:
        request, source = parse_request(method, url), self._source(ref)
        verdict = hinted(judge(parse_egress(list(source.egress), "egress"), request), request)
        return judged(asdict(verdict), whole=False)

    async def log(self, wanted: ExchangeFilter) -> Sequence[Exchange]:
        if wanted.run is not None:
            self._memory.run(wanted.run)
        return []

    def _source(self, ref: str) -> AgentSource:
        source = self._memory.source
        names = ("player", "player:player", "/play.py", source.origin if source else "")
        if source is None or self._memory.deployed is None or ref not in names:
            raise NotFound(f"no agent {ref!r} is deployed", hint="Deploy it first.")
        return source


class Runs:
    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def start(self, request: RunRequest) -> Run:
        memory = self._memory
        if request.version is None and request.agent is None:
            raise Invalid("name an agent or a version")
        by_name = memory.deployed is not None and request.agent in ("player", "player:player")
        if request.version != VERSION and (request.version is not None or not by_name):
            named = request.version or request.agent
            raise NotFound(f"no agent of version {named}", hint="Deploy it first.")
        if request.id_key is not None and request.id_key in memory.id_keys:
            return memory.runs[memory.id_keys[request.id_key]]
        now = time.time()
        run = reply(
            Run,
            id=new_id("run"),
            version=VERSION,
            agent=(request.agent or "player").rpartition(":")[2],
            engine="qemu",
            state=RunState.QUEUED,
            input=dict(request.input),
            result=None,
            error=None,
            epoch=0,
            created_at=now,
            started_at=None,
            ended_at=None,
            ran_s=0.0,
            slept_s=0.0,
            state_since=now,
            last_seq=0,
            origin=None,
            origin_seq=None,
            parent=None,
            queue="player",
            queue_key=None,
            priority=0,
            not_before=None,
            expires_at=None,
            after=None,
            successor=None,
            attempt=1,
            schedule=None,
            env=sorted(request.start.env),
        )
        memory.runs[run["id"]], memory.logs[run["id"]] = run, []
        if request.id_key is not None:
            memory.id_keys[request.id_key] = run["id"]
        files = request.files.items()
        memory.files[run["id"]] = [{"path": p, "digest": d, "bytes": 0} for p, d in files]
        memory.append(run, "run.created", None, {})
        memory.play(run)
        return run

    async def list(self, filter: RunFilter = ALL_RUNS) -> Sequence[Run]:
        states = None if filter.states is None else [RunState(state) for state in filter.states]
        runs = self._memory.runs
        before = None if filter.before is None else self._memory.run(filter.before)["id"]
        found = [
            reply(Run, {"queued_because": None, "asleep_under": []}, run)
            for run in sorted(runs.values(), key=lambda run: run["id"], reverse=True)
            if (states is None or run["state"] in states)
            and (before is None or run["id"] < before)
            and filter.agent in (None, run["agent"])
            and (filter.text is None or filter.text in json.dumps(run))
        ]
        return found[: filter.limit]

    async def find(self, ref: str) -> Run:
        return self._memory.run(ref)

    async def get(self, ref: str) -> RunDetail:
        memory = self._memory
        run = memory.run(ref)
        frozen = [each for each in memory.logs[run["id"]] if each["kind"] == "snapshot"]
        waits = [each for each in memory.waits.values() if each["run"] == run["id"]]
        machine = {"pid": 7, "epoch": run["epoch"], "state": "running", "pager": None}
        beside: Object = {"forked": None, "conversation": None}
        return reply(
            RunDetail,
            {"queued_because": None, "asleep_under": []},
            run,
            beside | memory.details.get(run["id"], {}),
            files=memory.files.get(run["id"], []),
            waits=[each for each in waits if each["state"] == "open"],
            in_doubt=[],
            children=[],
            snapshots_count=len(frozen),
            bytes=SNAPSHOT_BYTES * len(frozen),
            template_bytes=TEMPLATE_BYTES,
            cycles=len(frozen),
            output={
                "stdout": {"printed": 9_000, "logged": 3_000, "kept": 5_000, "dropped": 1_000},
                "stderr": {"printed": 5, "logged": 5, "kept": 0, "dropped": 0},
            },
            models=[],
            budget=[{"kind": "requests", "used": 0, "allowed": 1000, "asks": False}],
            family=memory.family(run),
            machine=machine if run["state"] is RunState.RUNNING else None,
        )

    async def cancel(self, ref: str) -> Run:
        run = self._memory.run(ref)
        if run["state"] in FINAL:
            raise Conflict(f"{run['id']} has ended: {run['state']}")
        self._memory.cancel(run)
        return run

    async def fork(self, ref: str, request: ForkRequest) -> Run:
        """Plays from the beginning, whatever was requested: what that was is in its log."""
        origin = self._memory.run(ref)
        if isinstance(request.at, int) and request.at > origin["last_seq"]:
            raise Conflict(f"{origin['id']} cannot be forked at {request.at}", hint="See its log.")
        given = origin["input"] if request.input is None else request.input
        run = await self.start(RunRequest(given, version=VERSION, agent=origin["agent"]))
        run["origin"], run["origin_seq"] = origin["id"], 1
        forked: Object = {
            "how": request.how,
            "set": sorted(request.set),
            "retried": [],
            "base": None,
        }
        forked |= {"at": request.at, "version": request.version, "values": dict(request.set)}
        self._memory.details[run["id"]] = {"forked": forked}
        self._memory.append(run, "run.forked", None, forked)
        return run

    async def retry(self, ref: str, version: str | None = None) -> Run:
        origin = self._memory.run(ref)
        if origin["state"] not in (RunState.FAILED, RunState.CANCELLED):
            raise Conflict(f"{origin['id']} is {origin['state']}")
        run = await self.fork(ref, ForkRequest(how="retry", version=version))
        self._memory.details[run["id"]]["forked"]["retried"] = ["step:charge#1"]
        return run

    async def reload(self, ref: str, version: str, *, fresh: bool) -> RunDetail:
        if version != VERSION:
            raise NotFound(f"no agent of version {version}", hint="Deploy it first.")
        run = await self.fork(ref, ForkRequest(how="reload", version=version))
        return await self.get(run["id"])

    async def upgrade(self, ref: str, version: str | None = None) -> Run:
        run = self._memory.run(ref)
        raise Conflict(f"{run['id']} is of the current version already")

    async def delete(self, ref: str) -> Deleted:
        run = self._memory.run(ref)
        if run["state"] not in FINAL:
            raise Conflict(f"{run['id']} has not ended")
        del self._memory.runs[run["id"]]
        return reply(Deleted, id=run["id"], deleted=True)

    async def result(self, ref: str, op: str) -> tuple[str, Iterator[bytes]]:
        run = self._memory.run(ref)
        if op != "step:a/b#1":
            raise NotFound(f"no operation {op} has begun in run {run['id']}")
        return "bytes", iter([b"\x00\xff", b"end"])


class Transfers:
    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def export(self, ref: str, snapshot: str | None = None) -> Iterator[bytes]:
        run = self._memory.run(ref)
        if run["state"] is RunState.RUNNING:
            raise Conflict(f"{run['id']} is running")
        return iter([b"export of ", json.dumps(run).encode(), b"x" * EXPORT_BYTES])

    async def import_run(self, chunks: AsyncIterator[bytes]) -> Run:
        data = b"".join([chunk async for chunk in chunks])
        if not data.startswith(b"export of ") or not data.endswith(b"x" * EXPORT_BYTES):
            raise Invalid("this is no export")
        run = reply(Run, json.loads(data.removeprefix(b"export of ")[:-EXPORT_BYTES]))
        if run["id"] in self._memory.runs:
            raise Conflict(f"run {run['id']} is here already")
        return run


class Logs:
    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def read(
        self, ref: str, after: int, limit: int, kinds: Sequence[str] | None = None
    ) -> LogPage:
        log = self._memory.log(ref)
        found = [e for e in log[after:] if kinds is None or e["kind"] in kinds]
        given = min(limit, PAGE_ENTRIES)
        return LogPage(found[:given], len(found) > given)

    async def begin(
        self,
        ref: str,
        kinds: Sequence[str] | None = None,
        tail: int | None = None,
        since: float | None = None,
    ) -> int:
        log = self._memory.log(ref)
        seqs = [e["seq"] for e in log if kinds is None or e["kind"] in kinds]
        ends = [0] if tail is None else seqs[: len(seqs) - tail][-1:]
        older = [] if since is None else [e["seq"] for e in log if e["at"] < since]
        return max([0, *ends, *older])

    def changed(self, run: str) -> Awaitable[None]:
        return self._memory.changed(run)

    async def output(self, ref: str, stream: str, offset: int = 0) -> Iterator[bytes]:
        self._memory.run(ref)
        return iter((f"{stream} of it".encode()[offset:],))


class Waits:
    """An answer may be anything but "refused"."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def list(self, filter: WaitFilter = OPEN_WAITS) -> Sequence[Wait]:
        memory = self._memory
        run = None if filter.run is None else memory.run(filter.run)["id"]
        after = None if filter.after is None else find(memory.waits, filter.after, "wait")["id"]
        found = [
            wait
            for wait in memory.waits.values()
            if run in (None, wait["run"]) and (filter.ended or wait["state"] == "open")
            if after is None or wait["id"] > after
            if filter.tag is None or filter.tag in wait["tags"]
            if filter.kinds is None or wait["kind"] in filter.kinds
            if filter.approve in (None, wait["approve"]) and filter.agent in (None, wait["agent"])
            if filter.text is None or filter.text in json.dumps(wait)
        ]
        return found[: filter.limit]

    async def get(self, ref: str) -> Wait:
        return find(self._memory.waits, ref, "wait")

    async def complete(self, ref: str, answer: Answer) -> Wait:
        wait = await self.get(ref)
        if wait["kind"] == "event":
            raise Conflict(f"{wait['id']} is for an event, not for an answer")
        if wait["kind"] == permissions.KIND:
            settled = permissions.settled(answer.data, answer.approved, answer.note)
            answer = replace(answer, **settled)
        elif wait["approve"] is (answer.approved is None):
            raise Invalid(f"{wait['id']} asks for {'approval' if wait['approve'] else 'an answer'}")
        if answer.data == "refused":
            raise Invalid("the agent takes anything but 'refused'")
        if wait["state"] != "open":
            raise Conflict(f"{wait['id']} was answered already, by {wait['by']}")
        self._memory.complete(wait, answer)
        return wait

    async def action(self, ref: str) -> str:
        wait = await self.get(ref)
        if wait["kind"] != permissions.KIND:
            raise Conflict(f"{wait['id']} is no permission")
        return f"all of {wait['prompt']}\n"


class Links:
    """The token is the wait's id."""

    def __init__(self, waits: Waits) -> None:
        self._waits = waits

    async def get(self, token: str) -> PublicWait:
        wait = await self._waits.get(token)
        shown = ("kind", "prompt", "data", "schema", "approve", "state", "created_at", "due_at")
        return reply(
            PublicWait,
            {key: value for key, value in wait.items() if key in shown},
            completed_at=wait["completed_at"],
            name="n",
            agent="player",
            approved=(wait["value"] or {}).get("approved"),
        )

    async def answer(self, token: str, answer: Answer) -> PublicWait:
        await self._waits.complete(token, answer)
        return await self.get(token)

    async def action(self, token: str) -> str:
        return await self._waits.action(token)


class Events:
    """What the run does not wait for is forgotten. An event whose id is "known" came before."""

    def __init__(self, memory: Memory, waits: Waits) -> None:
        self._memory, self._waits = memory, waits

    async def send(
        self, ref: str, name: str, data: Any, *, by: str | None = None, id: str | None = None
    ) -> Sent:
        run = self._memory.run(ref)
        if run["state"] in FINAL:
            raise Conflict(f"{run['id']} is {run['state']}")
        seq, taken = run["last_seq"] + 1, None
        if id != "known":
            for wait in await self._waits.list(WaitFilter(run["id"], kinds=["event"])):
                if taken is None and wait["prompt"] == name:
                    self._memory.complete(wait, Answer(data, by=by))
                    taken = wait["id"]
        again = id == "known"
        return reply(Sent, run=run["id"], seq=seq, name=name, wait=taken, again=again)
