"""A service in memory, of the shape of the real one, whose runs do what their input says.

`input = {"script": [[verb, …], …]}`, played in order:

    print TEXT | log MESSAGE | approve PROMPT DATA | wait PROMPT DATA | event NAME DATA
    fail TYPE MESSAGE
    return VALUE

A run that waits is frozen at once. A file `hold` in the home holds up the handing over. The state
is kept in memory.json when it stops, so that a server on it can be restarted. As a program it
serves: `python memory_service.py HOME`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.registry import Collector

from torpor.api.server import serve
from torpor.blobs.local import LocalBlobs
from torpor.control.service.access import Access
from torpor.control.service.executing import Here
from torpor.control.service.forking import Wanted
from torpor.control.service.hooks import Unsigned
from torpor.core.agentfile import AgentSource
from torpor.core.errors import Conflict, GuestError, Invalid, NotFound, TorporError
from torpor.core.execs import Asked
from torpor.core.home import Home
from torpor.core.ids import RunId, new_id
from torpor.core.paging import Page
from torpor.core.prices import Prices
from torpor.core.retention import Retention
from torpor.core.starting import AT_ONCE, Start
from torpor.core.states import FINAL, RunState
from torpor.engine.process.command import LocalCommand, NotStarted
from torpor.logstore.sqlite import SqliteStore
from torpor.query.ask import Question
from torpor.worker.commands import WINDOW_BYTES, Command, Commands, Ended
from torpor.worker.runfiles import RunFiles
from torpor.worker.sealing import Keys

Object = dict[str, Any]
PAGE_ENTRIES = 3  # a page need not have as many entries as were asked for
VERSION = "0123456789abcdef0123456789abcdef"
SNAPSHOT_BYTES = 1_200_000
# More than a body may have that is not streamed.
EXPORT_BYTES = 3 << 20


@dataclass
class MemoryDeleting:
    service: MemoryService
    kept: Retention = field(default_factory=Retention)

    async def delete(self, ref: str) -> Object:
        run = self.service._find(self.service._runs, ref, "run")
        if RunState(run["state"]) not in FINAL:
            raise Conflict(f"{run['id']} has not ended")
        del self.service._runs[run["id"]]
        return {"id": run["id"], "deleted": True}

    async def retention(self) -> Object:
        return self.kept.to_json()

    async def keep(self, retention: Retention) -> Object:
        self.kept = retention
        return retention.to_json()


CONTENT = {("report.csv", 1): b"a,b\n", ("report.csv", 2): b"a,b\n1,2\n", ("out/x.html", 1): b"<p>"}
# `kept`, which only its end kept.
KEPT = ("out/left.bin", 1)


@dataclass
class MemoryArtifacts:
    """Every run has the same."""

    service: MemoryService

    async def list(self, ref: str) -> list[Object]:
        self.service._find(self.service._runs, ref, "run")
        shared: Object = {"seq": 1, "at": 1.0, "step": None, "media_type": "text/csv"}
        known = CONTENT | {KEPT: bytes(3)}
        return [
            {
                **shared,
                "op": f"artifact:{name}#{version}",
                "name": name,
                "version": version,
                "bytes": len(content),
                "digest": content.hex(),
                "kept": (name, version) == KEPT,
            }
            for (name, version), content in sorted(known.items(), key=lambda each: -each[0][1])
        ]

    async def find(self, ref: str, name: str, version: int | None = None) -> Object:
        for each in await self.list(ref):
            if each["name"] == name and version in (None, each["version"]):
                return each
        raise NotFound(f"no artifact {name}")

    async def content(self, found: Object) -> Iterator[bytes]:
        return iter((bytes.fromhex(found["digest"]),))


class MemoryQueues:
    def __init__(self) -> None:
        self.known: dict[str, Object] = {}

    async def queues(self) -> list[Object]:
        return list(self.known.values())

    async def set(self, name: str, changes: Mapping[str, Any]) -> Object:
        limits = {"paused": False, "concurrency": None, "per_key": None, "rate": None}
        figures = {"delayed": 0, "queued": 0, "running": 0, "suspended": 0}
        fresh = {"name": name, "made_at": 1.0} | limits | figures
        self.known[name] = self.known.get(name, fresh) | dict(changes)
        return self.known[name]


class MemoryHooks:
    """Each is for the agent that it is asked for. Takes what is signed `good`."""

    def __init__(self) -> None:
        self.made: list[Object] = []

    async def create(
        self, agent: str, event: str | None, run_at: str | None, into: str | None
    ) -> Object:
        if agent == "none":
            raise NotFound("no agent 'none' is deployed")
        hook: Object = {"id": new_id("hook"), "agent": agent, "event": event, "run_at": run_at}
        hook |= {"into": into, "created_at": time.time(), "revoked_at": None}
        self.made.append(hook | {"url": f"/hooks/{hook['id']}"})
        return self.made[-1] | {"secret": "whsec_c2VjcmV0"}

    async def list(self, revoked: bool) -> list[Object]:
        return [hook for hook in self.made if revoked or hook["revoked_at"] is None]

    async def revoke(self, ref: str) -> Object:
        found = [hook for hook in self.made if hook["id"].startswith(ref)]
        if len(found) != 1:
            raise NotFound(f"no hook {ref}")
        found[0]["revoked_at"] = time.time()
        return found[0]

    async def receive(self, hook: str, headers: Mapping[str, str], body: bytes) -> Object:
        if headers.get("webhook-signature") != "good":
            raise Unsigned("webhook-signature is wrong")
        return {"run": "run_1", "seq": None, "name": None, "wait": None, "again": False}


class MemoryExecuting:
    """Commands are real processes, in the home."""

    def __init__(self, service: MemoryService) -> None:
        self._service, self.commands = service, Commands()

    async def execute(self, ref: str, asked: Asked, who: str) -> Command:
        run = self._service._find(self._service._runs, ref, "run")
        if RunState(run["state"]) in FINAL:
            raise Conflict(f"{run['id']} has ended", hint="Fork it.")
        command = Command(RunId(run["id"]), asked.check(), who)
        self.commands.add(command)
        environment = {"PATH": os.environ["PATH"], **asked.env}
        home = self._service.home.root
        try:
            hand = await LocalCommand.start(asked, environment, home, Here(command), WINDOW_BYTES)
        except NotStarted as error:
            command.ended(Ended(code=error.code, problem=error.why))
        else:
            command.begin(hand, 1)
        return command

    async def command(self, ref: str, id: str) -> Command:
        return self.commands.get(RunId(ref), id)


class MemorySchedules:
    def __init__(self) -> None:
        self.known: dict[str, Object] = {}

    async def list(self) -> list[Object]:
        return [*self.known.values()]

    async def add(self, name: str, settings: Mapping[str, Any], *, replace: bool) -> Object:
        times = dict.fromkeys(("next_time", "next_at", "last_time", "last_run", "trouble"))
        rules = {"paused": False, "made_at": 1.0, "overlap": "skip", "missed": "once"}
        self.known[name] = {"name": name} | rules | times | dict(settings)
        return self.known[name]

    async def pause(self, name: str, paused: bool) -> Object:
        self.known[name]["paused"] = paused
        return self.known[name]

    async def remove(self, name: str) -> Object:
        return self.known.pop(name)


SCHEMA: Object = {
    "type": "object",
    "properties": {
        "script": {},
        "count": {"type": "integer", "default": 3, "description": "how often"},
        "dry_run": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        "name": {"type": "string"},
        "due": {"$ref": "#/$defs/Due"},
    },
    "additionalProperties": True,
    "$defs": {"Due": {"type": "string", "format": "date"}},
}

PLAYER: Object = {
    "name": "player",
    "doc": "Plays.",
    "params": [{"name": "script", "required": True}],
    "open": True,
    "schema": SCHEMA,
}


_opened: list[SqliteStore] = []


def close_stores() -> None:
    """After each test: a store has threads and files."""
    while _opened:
        _opened.pop().close()


class MemoryService:
    def __init__(self, home: Home) -> None:
        self.home = home
        home.create()
        store = SqliteStore.open(home.database)
        _opened.append(store)
        self.access = Access(store)
        self.files = RunFiles(LocalBlobs(home.blobs), store, Keys(home, store, on=True))
        self.hooks = MemoryHooks()
        self.stopped = False
        self._base: str | None = None
        self._runs: dict[str, Object] = {}
        self._logs: dict[str, list[Object]] = {}
        self._waits: dict[str, Object] = {}
        self._positions: dict[str, int] = {}
        self._deployed: list[Object] = []
        self._pinned: set[str] = set()
        self._saved: dict[str, Object] = {}
        self.queueing = MemoryQueues()
        self.deleting = MemoryDeleting(self)
        self.artifacts = MemoryArtifacts(self)
        self.schedules = MemorySchedules()
        self.executing = MemoryExecuting(self)
        self._appended: dict[str, list[asyncio.Future[None]]] = {}
        self._answered: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @classmethod
    async def open(cls, home: Home) -> MemoryService:
        service = cls(home)
        kept = home.root / "memory.json"
        if kept.exists():
            state = json.loads(kept.read_text())
            service._runs, service._logs = state["runs"], state["logs"]
            service._waits, service._positions = state["waits"], state["positions"]
            for run in service._runs.values():
                if RunState(run["state"]) not in FINAL:
                    service._play(run)
        return service

    async def hand_over(self, tell: Callable[[str], None]) -> None:
        for run in self._runs.values():
            if RunState(run["state"]) not in FINAL:
                tell(f"{run['id']}: frozen where it was")
        if (self.home.root / "hold").exists():
            await asyncio.Event().wait()

    async def stop(self) -> None:
        self.stopped = True
        for task in self._tasks.values():
            task.cancel()
        state = {
            "runs": self._runs,
            "logs": self._logs,
            "waits": self._waits,
            "positions": self._positions,
        }
        (self.home.root / "memory.json").write_text(json.dumps(state))

    async def health(self) -> Object:
        return {
            "version": "0.1.0",
            "pid": 1,
            "engine": "memory",
            "engine_why": "it is played",
            "accel": None,
            "home": str(self.home.root),
            "model": "none",
            "public_url": self._base,
            "started_at": time.time(),
        }

    async def metrics(self) -> Collector:
        registry = CollectorRegistry()
        Gauge("torpor_runs", "Runs", registry=registry).set(len(self._runs))
        return registry

    async def prices(self) -> Prices:
        return Prices({"m": {"input": 1.0, "output": 2.0}})

    async def saved_queries(self) -> list[Object]:
        return list(self._saved.values())

    async def save_query(self, name: str, sql: str) -> Object:
        self._saved[name] = {"name": name, "sql": sql, "saved_at": 1.0}
        return self._saved[name]

    async def delete_query(self, name: str) -> None:
        del self._saved[self._find(self._saved, name, "query")["name"]]

    async def query(self, question: Question) -> Object:
        if "select" not in question.sql.lower():
            raise Invalid(f"syntax error in {question.sql!r}")
        rows = [[run["id"], run["state"], None, 0.5] for run in self._runs.values()]
        shown = rows[: question.rows_max]
        columns = ["id", "state", "nothing", "half"]
        return {"columns": columns, "rows": shown, "more": len(shown) < len(rows), "ms": 1.5}

    async def deploy(
        self,
        source: AgentSource,
        progress: Callable[[str, str, float | None], None],
        engine: str | None = None,
    ) -> Object:
        progress("boot", "booting [the image]", None)
        # As the real one's, part of the work is in a thread.
        await asyncio.to_thread(progress, "load", "loading the agent", 0.5)
        text = source.files[source.entry].decode()
        if "does not load" in text:
            raise GuestError("the agent does not load", hint="ImportError: no such module")
        if "breaks the service" in text:
            raise RuntimeError("secret detail")
        cached = bool(self._deployed)
        deployed = {
            "engine": engine or "qemu",
            "version": VERSION,
            "agents": [PLAYER],
            "default": "player",
            "boot_ms": 1000.0,
            "template_bytes": 16_100_000,
            "cached": cached,
        }
        self._deployed = [deployed]
        return deployed

    async def agents(self) -> list[Object]:
        keys = ("version", "engine", "agents", "template_bytes", "boot_ms")
        return [
            {k: d[k] for k in keys}
            | {
                "name": "player",
                "first_at": 1.0,
                "deployed_at": 1.0,
                "current": [{"origin": "/play.py", "name": "player", "deployed_at": 1.0}],
            }
            for d in self._deployed
        ]

    async def agent(self, ref: str | None, version: str | None, engine: str | None) -> Object:
        if ref in (None, "player", "player:player") and (self._deployed or version == VERSION):
            return {"version": VERSION, "name": "player", "engine": "qemu", "agent": PLAYER}
        raise NotFound(f"no agent {ref!r} is deployed", hint="Deploy it first.")

    async def retire(self, ref: str) -> Object:
        (known,) = await self.agents()
        self._deployed = []
        (gone,) = known["current"]
        return dict(gone)

    async def start(
        self,
        version: str | None,
        agent: str | None,
        input: Object,
        id_key: str | None,
        start: Start = AT_ONCE,
        *,
        engine: str | None = None,
        files: Mapping[str, str] | None = None,
    ) -> Object:
        if version != VERSION:
            raise NotFound(f"no agent of version {version}", hint="Deploy it first.")
        for run in self._runs.values():
            if id_key is not None and run["id_key"] == id_key:
                return run
        now = time.time()
        run = {
            "id": new_id("run"),
            "id_key": id_key,
            "version": version,
            "agent": agent or "player",
            "engine": "qemu",
            "state": "queued",
            "input": input,
            "files": [{"path": p, "digest": d, "bytes": 0} for p, d in (files or {}).items()],
            "result": None,
            "error": None,
            "epoch": 0,
            "created_at": now,
            "started_at": None,
            "ended_at": None,
            "ran_s": 0.0,
            "slept_s": 0.0,
            "state_since": now,
            "last_seq": 0,
            "origin": None,
            "origin_seq": None,
            "parent": None,
            "queue": "player",
            "queue_key": None,
            "priority": 0,
            "not_before": None,
            "expires_at": None,
            "after": None,
            "successor": None,
            "attempt": 1,
            "schedule": None,
            "env": sorted(start.env),
            "queued_because": None,
        }
        self._runs[run["id"]], self._logs[run["id"]] = run, []
        self._append(run, "run.created", None, {})
        self._play(run)
        return run

    async def fork(self, ref: str, wanted: Wanted) -> Object:
        """Plays from the beginning, whatever was wanted: what that was is in its log."""
        origin = self._find(self._runs, ref, "run")
        if isinstance(wanted.at, int) and wanted.at > origin["last_seq"]:
            raise Conflict(f"{origin['id']} cannot be forked at {wanted.at}", hint="See its log.")
        given = origin["input"] if wanted.input is None else dict(wanted.input)
        run = await self.start(VERSION, origin["agent"], given, None)
        run |= {"origin": origin["id"], "origin_seq": 1}
        told = {"how": wanted.how, "set": sorted(wanted.set), "retried": [], "base": None}
        asked = {"at": wanted.at, "version": wanted.version, "values": dict(wanted.set)}
        run["forked"] = told | asked
        self._append(run, "run.forked", None, told | asked)
        return run

    async def retry(self, ref: str, version: str | None) -> Object:
        origin = self._find(self._runs, ref, "run")
        if origin["state"] not in ("failed", "cancelled"):
            raise Conflict(f"{origin['id']} is {origin['state']}")
        run = await self.fork(ref, Wanted(how="retry", version=version))
        run["forked"]["retried"] = ["step:charge#1"]
        return run

    async def totals(self) -> Object:
        runs = {each.value: 0 for each in RunState}
        for run in self._runs.values():
            runs[run["state"]] += 1
        waits = await self.waits(None, False)
        of_waits = {"waits_open": len(waits), "waits_asking": len(waits)}
        return {"runs": runs, **of_waits, "snapshots": 0, "snapshot_bytes": 0}

    async def runs(
        self,
        states: list[str] | None,
        limit: int,
        before: str | None,
        agent: str | None = None,
        text: str | None = None,
    ) -> list[Object]:
        found = [
            run
            for run in sorted(self._runs.values(), key=lambda run: run["id"], reverse=True)
            if (states is None or run["state"] in states)
            and (before is None or run["id"] < before)
            and agent in (None, run["agent"])
            and (text is None or text in json.dumps(run))
        ]
        return found[:limit]

    async def run(self, ref: str) -> Object:
        run = self._find(self._runs, ref, "run")
        frozen = [e for e in self._logs[run["id"]] if e["kind"] == "snapshot"]
        return run | {
            "waits": await self.waits(run["id"], False),
            "in_doubt": [],
            "children": [],
            "snapshots_count": len(frozen),
            "bytes": SNAPSHOT_BYTES * len(frozen),
            "template_bytes": 16_100_000,
            "cycles": len(frozen),
            "output": {
                "stdout": {"printed": 9_000, "logged": 3_000, "kept": 5_000, "dropped": 1_000},
                "stderr": {"printed": 5, "logged": 5, "kept": 0, "dropped": 0},
            },
            "forked": run.get("forked"),
            "models": [],
            "conversation": run.get("conversation"),
            "family": self._family(run),
            "machine": {"pid": 7, "epoch": run["epoch"], "state": "running", "pager": None}
            if run["state"] == "running"
            else None,
        }

    def _family(self, run: Object) -> list[Object]:
        while run["origin"] is not None:
            run = self._runs[run["origin"]]
        members = [run]
        for member in members:
            members += [each for each in self._runs.values() if each["origin"] == member["id"]]
        return members

    async def entries(self, ref: str, after: int, limit: int, kinds: list[str] | None) -> Page:
        log = self._logs[self._find(self._runs, ref, "run")["id"]]
        found = [e for e in log[after:] if kinds is None or e["kind"] in kinds]
        given = min(limit, PAGE_ENTRIES)
        return Page(found[:given], len(found) > given)

    async def begin(
        self, ref: str, kinds: list[str] | None, tail: int | None, since: float | None
    ) -> int:
        log = self._logs[self._find(self._runs, ref, "run")["id"]]
        seqs = [e["seq"] for e in log if kinds is None or e["kind"] in kinds]
        ends = [0] if tail is None else seqs[: len(seqs) - tail][-1:]
        older = [] if since is None else [e["seq"] for e in log if e["at"] < since]
        places: list[int] = [0, *ends, *older]
        return max(places)

    def changed(self, run_id: str) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._appended.setdefault(run_id, []).append(future)
        return future

    async def output(self, ref: str, stream: str, offset: int = 0) -> Iterator[bytes]:
        self._find(self._runs, ref, "run")
        return iter((f"{stream} of it".encode()[offset:],))

    async def cancel(self, ref: str) -> Object:
        run = self._find(self._runs, ref, "run")
        if RunState(run["state"]) in FINAL:
            raise Conflict(f"{run['id']} has ended: {run['state']}")
        self._tasks[run["id"]].cancel()
        for wait in await self.waits(run["id"], False):
            wait |= {"state": "cancelled", "completed_at": time.time()}
        self._end(run, "cancelled")
        return run

    async def snapshots(self, ref: str) -> list[Object]:
        run = self._find(self._runs, ref, "run")
        return [
            {
                "id": e["data"]["snapshot"],
                "run": run["id"],
                "epoch": e["epoch"],
                "seq": e["seq"],
                "parent": None,
                "manifest": "00",
                "bytes": e["data"]["bytes"],
                "pause_ms": 8.0,
                "freeze_ms": 120.0,
                "created_at": e["at"],
                "detail": {},
                "pinned": e["data"]["snapshot"] in self._pinned,
                "reclaimed_at": None,
            }
            for e in self._logs[run["id"]]
            if e["kind"] == "snapshot"
        ]

    async def verify(self, ref: str) -> Object:
        taken = await self.snapshots(ref)
        run = self._find(self._runs, ref, "run")
        bad = ["layer 00 is damaged"] if run["input"].get("damaged") else []
        return {
            "run": run["id"],
            "snapshots": [{"id": s["id"], "template": False, "problems": bad} for s in taken],
            "problems": [{"problem": said, "runs": [run["id"]]} for said in bad],
        }

    async def pin(self, ref: str, snapshot: str, pinned: bool) -> Object:
        taken = {s["id"]: s for s in await self.snapshots(ref)}
        found = self._find(taken, snapshot, "snapshot")
        (self._pinned.add if pinned else self._pinned.discard)(found["id"])
        return found | {"pinned": pinned}

    async def gc(self, dry_run: bool) -> Object:
        return {
            "dry_run": dry_run,
            "reclaimed": [{"id": "snap_1", "run": "run_1"}, {"id": "snap_2", "run": None}],
            "manifests": 1,
            "layers": 2,
            "values": 0,
            "bytes": 3_400_000,
            "young_bytes": 1000,
            "kept_bytes": 16_100_000,
            "kept_snapshots": 1,
            "kept_templates": [{"version": VERSION, "why": "1 unfinished run"}],
            "kept_bases": 2,
            "problems": [],
        }

    async def backup(self, directory: str, with_key: bool) -> Object:
        if directory.endswith("taken"):
            raise Conflict(f"{directory} exists already")
        counted = {"runs": 3, "unfinished": 1, "snapshots": 2, "files": 9, "bytes": 3_400_000}
        told = {"format": "torpor-backup", "version": 1, "torpor": "0", "made_at": 1.0}
        problems = ["layer 00 is missing"] if directory.endswith("damaged") else []
        return told | counted | {"directory": directory, "key": with_key, "problems": problems}

    async def export(self, ref: str, snapshot: str | None) -> Iterator[bytes]:
        run = self._find(self._runs, ref, "run")
        if run["state"] == "running":
            raise Conflict(f"{run['id']} is running")
        return iter([b"export of ", json.dumps(run).encode(), b"x" * EXPORT_BYTES])

    async def result(self, ref: str, op: str) -> tuple[str, Iterator[bytes]]:
        run = self._find(self._runs, ref, "run")
        if op != "step:a/b#1":
            raise NotFound(f"no operation {op} has begun in run {run['id']}")
        return "bytes", iter([b"\x00\xff", b"end"])

    async def import_run(self, chunks: AsyncIterator[bytes]) -> Object:
        data = b"".join([chunk async for chunk in chunks])
        if not data.startswith(b"export of ") or not data.endswith(b"x" * EXPORT_BYTES):
            raise Invalid("this is no export")
        run: Object = json.loads(data.removeprefix(b"export of ")[:-EXPORT_BYTES])
        if run["id"] in self._runs:
            raise Conflict(f"run {run['id']} is here already")
        return run

    async def waits(
        self,
        run: str | None,
        all: bool,
        limit: int | None = None,
        after: str | None = None,
        tag: str | None = None,
        kinds: list[str] | None = None,
        approve: bool | None = None,
        agent: str | None = None,
        text: str | None = None,
    ) -> list[Object]:
        only = None if run is None else self._find(self._runs, run, "run")["id"]
        found = [
            wait
            for wait in self._waits.values()
            if only in (None, wait["run"]) and (all or wait["state"] == "open")
            if (after is None or wait["id"] > after) and (tag is None or tag in wait["tags"])
            if kinds is None or wait["kind"] in kinds
            if approve in (None, wait["approve"]) and agent in (None, wait["agent"])
            if text is None or text in json.dumps(wait)
        ]
        return found[:limit]

    async def wait(self, ref: str) -> Object:
        return self._find(self._waits, ref, "wait")

    async def complete(
        self, ref: str, data: Any, approved: bool | None, note: str | None, by: str | None
    ) -> Object:
        wait = self._find(self._waits, ref, "wait")
        if wait["state"] != "open":
            raise Conflict(f"{wait['id']} was answered already, by {wait['by']}")
        if data == "refused":
            raise Invalid("the agent takes anything but 'refused'")
        value = {"status": "completed", "data": data, "approved": approved, "note": note, "by": by}
        wait |= {"state": "completed", "value": value, "completed_at": time.time(), "by": by}
        told = {"wait": wait["id"], "approved": approved, "note": note, "by": by}
        self._append(self._runs[wait["run"]], "wait.completed", wait["op"], told)
        self._append(self._runs[wait["run"]], "op.end", wait["op"], {"ok": True, "value": value})
        self._answered[wait["id"]].set()
        return wait

    async def webhook_secret(self, url: str) -> Object:
        return {"url": url, "secret": "whsec_c2VjcmV0"}

    def publish(self, base: str) -> None:
        self._base = base

    async def linked(self, token: str) -> Object:
        """The token is the wait's id."""
        wait = await self.wait(token)
        shown = ("prompt", "data", "schema", "approve", "state", "created_at", "due_at")
        approved = (wait["value"] or {}).get("approved")
        also = {"name": "n", "agent": "player", "approved": approved}
        return {key: wait[key] for key in (*shown, "completed_at")} | also

    async def answer_linked(
        self, token: str, data: Any, approved: bool | None, note: str | None
    ) -> Object:
        await self.complete(token, data, approved, note, "its link")
        return await self.linked(token)

    async def send(
        self, ref: str, name: str, data: Any, by: str | None, event: str | None
    ) -> Object:
        """What the run does not wait for is forgotten. An event whose id is known is one of it."""
        run = self._find(self._runs, ref, "run")
        if RunState(run["state"]) in FINAL:
            raise Conflict(f"{run['id']} is {run['state']}")
        sent = {"run": run["id"], "seq": run["last_seq"] + 1, "name": name, "wait": None}
        if event == "known":
            return sent | {"again": True}
        for wait in await self.waits(run["id"], False):
            if (wait["kind"], wait["prompt"]) == ("event", name):
                ended = await self.complete(wait["id"], data, None, None, by)
                sent["wait"] = ended["id"]
        return sent | {"again": False}

    @staticmethod
    def _find(table: dict[str, Object], ref: str, what: str) -> Object:
        found = [row for id, row in table.items() if id.startswith(ref)]
        if len(found) != 1:
            raise NotFound(f"no {what} {ref}", hint=f"See the {what}s there are.")
        return found[0]

    def _append(self, run: Object, kind: str, op: str | None, data: Object) -> None:
        run["last_seq"] += 1
        entry = {
            "run": run["id"],
            "seq": run["last_seq"],
            "at": time.time(),
            "epoch": run["epoch"],
            "kind": kind,
            "op": op,
            "data": data,
        }
        self._logs[run["id"]].append(entry)
        for future in self._appended.pop(run["id"], []):
            if not future.done():
                future.set_result(None)

    def _play(self, run: Object) -> None:
        task = asyncio.get_running_loop().create_task(self._script(run))
        self._tasks[run["id"]] = task

    async def _script(self, run: Object) -> None:
        script = run["input"].get("script", [])
        if script[:1] and script[0][0] == "queued":
            run["queued_because"] = script[0][1]
            return  # it never gets a machine
        if run["state"] == "queued":
            self._move(run, "running", "run.started")
            run["started_at"] = time.time()
        for position in range(self._positions.get(run["id"], 0), len(script)):
            self._positions[run["id"]] = position
            verb, *rest = script[position]
            if verb == "print":
                text = {"stream": "stdout", "text": rest[0], "offset": 0}
                self._append(run, "output", None, text)
            elif verb == "log":
                self._append(
                    run, "note.log", None, {"message": rest[0], "level": "info", "data": {"n": 1}}
                )
            elif verb == "emit":
                self._append(run, "note.emit", None, {"value": rest[0]})
            elif verb in ("approve", "wait", "event"):
                await self._ask(run, position, verb, *rest)
            elif verb == "fail":
                trace = "Traceback (most recent call last):\n  agent.py, line 1"
                run["error"] = {"type": rest[0], "message": rest[1], "traceback": trace}
                self._end(run, "failed")
                return
            elif verb == "return":
                run["result"] = rest[0]
        self._end(run, "completed")

    async def _ask(
        self,
        run: Object,
        position: int,
        verb: str,
        prompt: str,
        data: Any,
        schema: Object | None = None,
    ) -> None:
        kind = "event" if verb == "event" else "wait"
        op = f"{kind}:{verb}#{position}"
        known = [w for w in self._waits.values() if w["run"] == run["id"] and w["op"] == op]
        if known:
            wait = known[0]
        else:
            wait = {
                "id": new_id("wait"),
                "run": run["id"],
                "agent": run["agent"],
                "op": op,
                "kind": kind,
                "prompt": prompt,
                "data": data,
                "schema": schema,
                "approve": verb == "approve",
                "tags": [verb],
                "id_key": None,
                "webhooks": [],
                "remind_after": [],
                "reminded": 0,
                "remind_at": None,
                "created_at": time.time(),
                "due_at": None,
                "state": "open",
                "value": None,
                "completed_at": None,
                "by": None,
                "child": None,
                "url": f"{self._base}/w/{op}" if self._base else None,
            }
            self._waits[wait["id"]] = wait
            keys = ("kind", "prompt", "data", "schema", "approve", "due_at")
            begun = {"name": verb, "digest": ""} | {key: wait[key] for key in keys}
            self._append(run, "op.begin", op, begun)
            frozen = {"snapshot": new_id("snap"), "bytes": SNAPSHOT_BYTES, "pause_ms": 8.0}
            self._append(run, "snapshot", None, frozen)
            self._move(run, "suspended", "run.suspended")
        answered = self._answered[wait["id"]] = asyncio.Event()
        if wait["state"] == "open":
            await answered.wait()
        self._move(run, "running", "run.resumed")
        self._append(run, "machine.up", None, {"resume_ms": 120.0})

    def _move(self, run: Object, state: str, kind: str, data: Object | None = None) -> None:
        now = time.time()
        spent = {"running": "ran_s", "suspended": "slept_s"}.get(run["state"])
        if spent:
            run[spent] += now - run["state_since"]
        if state == "running":
            run["epoch"] += 1
        run |= {"state": state, "state_since": now}
        self._append(run, kind, None, data or {})

    def _end(self, run: Object, state: str) -> None:
        run["ended_at"] = time.time()
        self._move(run, state, f"run.{state}", {"error": run["error"]} if run["error"] else {})


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    try:
        asyncio.run(serve(Home(Path(sys.argv[1])), MemoryService.open))
    except TorporError as refused:
        sys.exit(f"error: {refused.message}")
