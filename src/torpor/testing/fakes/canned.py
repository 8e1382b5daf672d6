"""Resources of a `MemoryService` whose answers are always the same, or that do little."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence

from torpor.control.service.execs import Here
from torpor.core.errors import Conflict, Invalid, NotFound
from torpor.core.execs import CommandRequest
from torpor.core.home import Home
from torpor.core.ids import RunId, new_id
from torpor.core.retention import Retention
from torpor.core.states import FINAL
from torpor.core.webhooks import Unsigned
from torpor.engine.process.command import LocalCommand, NotStarted
from torpor.query.ask import Question
from torpor.service.events import Sent
from torpor.service.files import Artifact
from torpor.service.hooks import CreatedHook, Hook, UrlSecret
from torpor.service.queries import Rows, SavedQuery
from torpor.service.schedules import Schedule, ScheduleSettings
from torpor.service.shapes import reply
from torpor.service.storage import Backup, Collected, Kept, Snapshot, Verified
from torpor.testing.fakes.memory import (
    TEMPLATE_BYTES,
    VERSION,
    Memory,
    find,
)
from torpor.worker.commands import WINDOW_BYTES, Command, Commands, Ended

SECRET = "whsec_c2VjcmV0"


class Hooks:
    """Each is for the agent that it is asked for, but for `none`. Takes what is signed `good`."""

    def __init__(self) -> None:
        self._hooks: list[Hook] = []

    async def create(
        self,
        agent: str,
        event: str | None = None,
        run_at: str | None = None,
        into: str | None = None,
    ) -> CreatedHook:
        if agent == "none":
            raise NotFound("no agent 'none' is deployed")
        id = new_id("hook")
        hook = reply(
            Hook,
            id=id,
            agent=agent,
            origin="",
            event=event,
            run_at=run_at,
            into=into,
            created_at=time.time(),
            revoked_at=None,
            url=f"/hooks/{id}",
        )
        self._hooks.append(hook)
        return reply(CreatedHook, hook, secret=SECRET)

    async def list(self, revoked: bool = False) -> Sequence[Hook]:
        return [hook for hook in self._hooks if revoked or hook["revoked_at"] is None]

    async def revoke(self, ref: str) -> Hook:
        hook = find({each["id"]: each for each in self._hooks}, ref, "hook")
        hook["revoked_at"] = time.time()
        return hook

    async def receive(self, hook: str, headers: Mapping[str, str], body: bytes) -> Sent:
        if headers.get("webhook-signature") != "good":
            raise Unsigned("webhook-signature is wrong")
        return reply(Sent, run="run_1", seq=None, name=None, wait=None, again=False)

    async def url_secret(self, url: str) -> UrlSecret:
        return reply(UrlSecret, url=url, secret=SECRET)


class Schedules:
    """They never fire."""

    def __init__(self) -> None:
        self.known: dict[str, Schedule] = {}

    async def list(self) -> Sequence[Schedule]:
        return [*self.known.values()]

    async def add(self, name: str, settings: ScheduleSettings, *, replace: bool) -> Schedule:
        times = dict.fromkeys(("next_time", "next_at", "last_time", "last_run", "trouble"))
        env = sorted(settings.get("env", {}))
        self.known[name] = reply(
            Schedule, settings, times, name=name, origin="", paused=False, made_at=1.0, env=env
        )
        return self.known[name]

    async def pause(self, name: str, paused: bool) -> Schedule:
        self._require(name)["paused"] = paused
        return self.known[name]

    async def remove(self, name: str) -> Schedule:
        self._require(name)
        return self.known.pop(name)

    def _require(self, name: str) -> Schedule:
        if name not in self.known:
            raise NotFound(f"there is no schedule {name!r}")
        return self.known[name]


class Snapshots:
    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def list(self, ref: str) -> Sequence[Snapshot]:
        run = self._memory.run(ref)
        return [
            reply(
                Snapshot,
                id=entry["data"]["snapshot"],
                run=run["id"],
                epoch=entry["epoch"],
                seq=entry["seq"],
                parent=None,
                manifest="00",
                bytes=entry["data"]["bytes"],
                pause_ms=8.0,
                freeze_ms=120.0,
                created_at=entry["at"],
                detail={},
                pinned=entry["data"]["snapshot"] in self._memory.pinned,
                reclaimed_at=None,
            )
            for entry in self._memory.logs[run["id"]]
            if entry["kind"] == "snapshot"
        ]

    async def verify(self, ref: str) -> Verified:
        """Those of a run whose input says `damaged` are."""
        run = self._memory.run(ref)
        problems = ["layer 00 is damaged"] if run["input"].get("damaged") else []
        taken = await self.list(ref)
        return reply(
            Verified,
            run=run["id"],
            snapshots=[{"id": s["id"], "template": False, "problems": problems} for s in taken],
            problems=[{"problem": each, "runs": [run["id"]]} for each in problems],
        )

    async def pin(self, ref: str, snapshot: str, pinned: bool) -> Snapshot:
        taken = {each["id"]: each for each in await self.list(ref)}
        found = find(taken, snapshot, "snapshot")
        (self._memory.pinned.add if pinned else self._memory.pinned.discard)(found["id"])
        return reply(Snapshot, found, pinned=pinned)


class Storage:
    """A backup's directory is there if it is called `taken`, and incomplete if `damaged`."""

    def __init__(self) -> None:
        self._retention = Retention()

    async def collect(self, dry_run: bool) -> Collected:
        return reply(
            Collected,
            dry_run=dry_run,
            reclaimed=[{"id": "snap_1", "run": "run_1"}, {"id": "snap_2", "run": None}],
            manifests=1,
            layers=2,
            values=0,
            bytes=3_400_000,
            young_bytes=1000,
            kept_bytes=TEMPLATE_BYTES,
            kept_snapshots=1,
            kept_templates=[{"version": VERSION, "why": "1 unfinished run"}],
            kept_bases=2,
            problems=[],
        )

    async def back_up(self, directory: str, with_key: bool) -> Backup:
        if directory.endswith("taken"):
            raise Conflict(f"{directory} exists already")
        return reply(
            Backup,
            directory=directory,
            format="torpor-backup",
            version=1,
            torpor="0",
            made_at=1.0,
            runs=3,
            unfinished=1,
            snapshots=2,
            key=with_key,
            files=9,
            bytes=3_400_000,
            problems=["layer 00 is missing"] if directory.endswith("damaged") else [],
        )

    async def retention(self) -> Kept:
        return reply(Kept, self._retention.to_json())

    async def retain(self, retention: Retention) -> Kept:
        self._retention = retention
        return await self.retention()


CONTENT = {("report.csv", 1): b"a,b\n", ("report.csv", 2): b"a,b\n1,2\n", ("out/x.html", 1): b"<p>"}
# Not published: the run had written it when it ended.
KEPT = ("out/left.bin", 1)


class Artifacts:
    """Every run has the same."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def list(self, ref: str) -> Sequence[Artifact]:
        self._memory.run(ref)
        known = CONTENT | {KEPT: bytes(3)}
        return [
            reply(
                Artifact,
                seq=1,
                at=1.0,
                step=None,
                media_type="text/csv",
                op=f"artifact:{name}#{version}",
                name=name,
                version=version,
                bytes=len(content),
                digest=content.hex(),
                kept=(name, version) == KEPT,
            )
            for (name, version), content in sorted(known.items(), key=lambda each: -each[0][1])
        ]

    async def content(
        self, ref: str, name: str, version: int | None = None
    ) -> tuple[Artifact, Iterator[bytes]]:
        for each in await self.list(ref):
            if each["name"] == name and version in (None, each["version"]):
                return each, iter((bytes.fromhex(each["digest"]),))
        raise NotFound(f"no artifact {name}")


class Execs:
    """Commands are real processes, in the data directory."""

    def __init__(self, memory: Memory, home: Home) -> None:
        self._memory, self._home, self._commands = memory, home, Commands()

    async def start(self, ref: str, command: CommandRequest, who: str) -> Command:
        run = self._memory.run(ref)
        if run["state"] in FINAL:
            raise Conflict(f"{run['id']} has ended", hint="Fork it.")
        started = Command(RunId(run["id"]), command.check(), who)
        self._commands.add(started)
        environment = {"PATH": os.environ["PATH"], **command.env}
        try:
            hand = await LocalCommand.start(
                command, environment, self._home.root, Here(started), WINDOW_BYTES
            )
        except NotStarted as error:
            started.ended(Ended(code=error.code, problem=error.why))
        else:
            started.begin(hand, 1)
        return started

    async def get(self, ref: str, id: str) -> Command:
        return self._commands.get(RunId(ref), id)


class Queries:
    """Whatever is asked, the answer has all runs."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._saved: dict[str, SavedQuery] = {}

    async def ask(self, question: Question) -> Rows:
        if "select" not in question.sql.lower():
            raise Invalid(f"syntax error in {question.sql!r}")
        rows = [[run["id"], run["state"], None, 0.5] for run in self._memory.runs.values()]
        shown = rows[: question.rows_max]
        columns = ["id", "state", "nothing", "half"]
        return reply(Rows, columns=columns, rows=shown, more=len(shown) < len(rows), ms=1.5)

    async def list(self) -> Sequence[SavedQuery]:
        return [self._saved[name] for name in sorted(self._saved)]

    async def save(self, name: str, sql: str) -> SavedQuery:
        self._saved[name] = reply(SavedQuery, name=name, sql=sql, saved_at=1.0)
        return self._saved[name]

    async def delete(self, name: str) -> None:
        if name not in self._saved:
            raise NotFound(f"there is no saved query {name!r}")
        del self._saved[name]
