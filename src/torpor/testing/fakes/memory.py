"""Runs in memory, which do what their input says: what the resources of `MemoryService` share.

`input = {"script": [[verb, …], …]}`, played in order:

    print TEXT | log MESSAGE | emit VALUE
    approve PROMPT DATA | wait PROMPT DATA [SCHEMA] | event NAME DATA
    fail TYPE MESSAGE | return VALUE
    queued WHY        first of all: it never gets a machine
    asleep OP …       under these calls, which nobody answers

A run that waits is frozen at once.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torpor.core.agentfile import AgentSource
from torpor.core.errors import NotFound
from torpor.core.ids import new_id, op_kind, op_name
from torpor.core.states import FINAL, RunState
from torpor.service.agents import Deployed
from torpor.service.logs import Entry
from torpor.service.runs import Run
from torpor.service.shapes import Object, reply
from torpor.service.waits import Answer, Wait

VERSION = "0123456789abcdef0123456789abcdef"
SNAPSHOT_BYTES, TEMPLATE_BYTES = 1_200_000, 16_100_000

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

T = TypeVar("T", bound=Mapping[str, Any])


def find(table: Mapping[str, T], ref: str, kind: str) -> T:
    """What has this id, or one that begins so. Raises NotFound."""
    found = [row for id, row in table.items() if id.startswith(ref)]
    if len(found) != 1:
        raise NotFound(f"no {kind} {ref}", hint=f"See the {kind}s there are.")
    return found[0]


@dataclass
class Memory:
    """Everything, by id. `details`: what a run's detail has beside, `forked` above all."""

    runs: dict[str, Run] = field(default_factory=dict)
    id_keys: dict[str, str] = field(default_factory=dict)  # key → run
    files: dict[str, list[Object]] = field(default_factory=dict)
    details: dict[str, Object] = field(default_factory=dict)
    logs: dict[str, list[Entry]] = field(default_factory=dict)
    waits: dict[str, Wait] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)  # in the scripts
    pinned: set[str] = field(default_factory=set)
    deployed: Deployed | None = None
    source: AgentSource | None = None  # that was deployed last
    base: str | None = None  # of public URLs
    _watchers: dict[str, list[asyncio.Future[None]]] = field(default_factory=dict)
    _answered: dict[str, asyncio.Event] = field(default_factory=dict)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    # As a file.

    def load(self, path: Path) -> None:
        """Unfinished runs go on."""
        kept = json.loads(path.read_text())
        self.runs = {id: reply(Run, run) for id, run in kept["runs"].items()}
        self.waits = {id: reply(Wait, wait) for id, wait in kept["waits"].items()}
        self.logs, self.positions = kept["logs"], kept["positions"]
        for run in self.runs.values():
            if run["state"] not in FINAL:
                self.play(run)

    def save(self, path: Path) -> None:
        kept = {name: getattr(self, name) for name in ("runs", "waits", "logs", "positions")}
        path.write_text(json.dumps(kept))

    # Runs.

    def run(self, ref: str) -> Run:
        return find(self.runs, ref, "run")

    def log(self, ref: str) -> list[Entry]:
        return self.logs[self.run(ref)["id"]]

    def play(self, run: Run) -> None:
        task = asyncio.get_running_loop().create_task(self._script(run))
        self._tasks[run["id"]] = task

    def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    def cancel(self, run: Run) -> None:
        self._tasks[run["id"]].cancel()
        for wait in self.waits.values():
            if wait["run"] == run["id"] and wait["state"] == "open":
                wait.update({"state": "cancelled", "completed_at": time.time(), "url": None})
        self._end(run, RunState.CANCELLED)

    def family(self, run: Run) -> list[Run]:
        while run["origin"] is not None:
            run = self.runs[run["origin"]]
        members = [run]
        for member in members:
            members += [each for each in self.runs.values() if each["origin"] == member["id"]]
        return members

    # Logs.

    def append(self, run: Run, kind: str, op: str | None, data: Object) -> None:
        run["last_seq"] += 1
        entry = reply(
            Entry,
            run=run["id"],
            seq=run["last_seq"],
            at=time.time(),
            epoch=run["epoch"],
            kind=kind,
            op=op,
            data=data,
        )
        self.logs[run["id"]].append(entry)
        for future in self._watchers.pop(run["id"], []):
            if not future.done():
                future.set_result(None)

    def changed(self, run: str) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.setdefault(run, []).append(future)
        return future

    # Waits.

    def complete(self, wait: Wait, answer: Answer) -> None:
        value = {"data": answer.data, "approved": answer.approved, "note": answer.note}
        value |= {"status": "completed", "by": answer.by}
        wait.update({"state": "completed", "value": value, "by": answer.by})
        wait.update({"completed_at": time.time(), "url": None})
        answered = {"wait": wait["id"], "approved": answer.approved}
        answered |= {"note": answer.note, "by": answer.by}
        answered |= {} if answer.origin is None else {"origin": answer.origin}
        run = self.runs[wait["run"]]
        self.append(run, "wait.completed", wait["op"], answered)
        self.append(run, "op.end", wait["op"], {"ok": True, "value": value})
        self._answered[wait["id"]].set()

    # Scripts.

    async def _script(self, run: Run) -> None:
        script = run["input"].get("script", [])
        if script[:1] and script[0][0] == "queued":
            run["queued_because"] = script[0][1]
            return
        if run["state"] is RunState.QUEUED:
            self._move(run, RunState.RUNNING, "run.started")
            run["started_at"] = time.time()
        for position in range(self.positions.get(run["id"], 0), len(script)):
            self.positions[run["id"]] = position
            verb, *rest = script[position]
            if verb == "print":
                text = {"stream": "stdout", "text": rest[0], "offset": 0}
                self.append(run, "output", None, text)
            elif verb == "log":
                note = {"message": rest[0], "level": "info", "data": {"n": 1}}
                self.append(run, "note.log", None, note)
            elif verb == "emit":
                self.append(run, "note.emit", None, {"value": rest[0]})
            elif verb in ("approve", "permission", "wait", "event"):
                await self._wait(run, position, verb, *rest)
            elif verb == "asleep":
                self._sleep_under(run, rest)
                return
            elif verb == "fail":
                trace = "Traceback (most recent call last):\n  agent.py, line 1"
                run["error"] = {"type": rest[0], "message": rest[1], "traceback": trace}
                self._end(run, RunState.FAILED)
                return
            elif verb == "return":
                run["result"] = rest[0]
        self._end(run, RunState.COMPLETED)

    async def _wait(
        self,
        run: Run,
        position: int,
        verb: str,
        prompt: str,
        data: Any = None,
        schema: Object | None = None,
    ) -> None:
        kind = verb if verb in ("event", "permission") else "wait"
        op = f"{kind}:{verb}#{position}"
        known = [w for w in self.waits.values() if w["run"] == run["id"] and w["op"] == op]
        wait = known[0] if known else self._open(run, op, kind, verb, prompt, data, schema)
        answered = self._answered[wait["id"]] = asyncio.Event()
        if wait["state"] == "open":
            await answered.wait()
        self._move(run, RunState.RUNNING, "run.resumed")
        self.append(run, "machine.up", None, {"resume_ms": 120.0})

    def _sleep_under(self, run: Run, calls: list[str]) -> None:
        """Until it is cancelled."""
        for op in calls:
            self.append(run, "op.begin", op, {"name": op_name(op), "kind": op_kind(op)})
        self._move(run, RunState.SUSPENDED, "run.suspended")
        run["asleep_under"] = calls

    def _open(
        self,
        run: Run,
        op: str,
        kind: str,
        verb: str,
        prompt: str,
        data: Any,
        schema: Object | None,
    ) -> Wait:
        id = new_id("wait")
        wait = reply(
            Wait,
            id=id,
            run=run["id"],
            agent=run["agent"],
            op=op,
            kind=kind,
            prompt=prompt,
            data=data,
            schema=schema,
            approve=verb in ("approve", "permission"),
            tags=[verb],
            id_key=None,
            webhooks=[],
            remind_after=[],
            reminded=0,
            remind_at=None,
            created_at=time.time(),
            due_at=None,
            state="open",
            value=None,
            completed_at=None,
            by=None,
            child=None,
            url=f"{self.base}/w/{id}" if self.base else None,
        )
        self.waits[wait["id"]] = wait
        begun: Object = {"name": verb, "digest": "", "kind": kind, "prompt": prompt, "data": data}
        begun |= {"schema": schema, "approve": wait["approve"], "due_at": None}
        self.append(run, "op.begin", op, begun)
        frozen = {"snapshot": new_id("snap"), "bytes": SNAPSHOT_BYTES, "pause_ms": 8.0}
        self.append(run, "snapshot", None, frozen)
        self._move(run, RunState.SUSPENDED, "run.suspended")
        return wait

    def _move(self, run: Run, state: RunState, kind: str, data: Object | None = None) -> None:
        now = time.time()
        spent_s = now - run["state_since"]
        if run["state"] is RunState.RUNNING:
            run["ran_s"] += spent_s
        elif run["state"] is RunState.SUSPENDED:
            run["slept_s"] += spent_s
        if state is RunState.RUNNING:
            run["epoch"] += 1
        run["state"], run["state_since"] = state, now
        run.pop("asleep_under", None)
        self.append(run, kind, None, data or {})

    def _end(self, run: Run, state: RunState) -> None:
        run["ended_at"] = time.time()
        error: Object = {"error": run["error"]} if run["error"] else {}
        self._move(run, state, f"run.{state.value}", error)
