"""A server of the `process` engine that kills itself at a call that matters for durability.

    python -m tests.faults.crashing     and then, a line each on stdin:
    HOME KIND N     serve HOME until its run has ended, or die at the Nth call of that kind

A kind is a call, with when: before-commit, after-fsync. Before a call it has not happened; after
it, it has and nobody has heard of it. A child serves, for each line. When it is gone, its exit code
is a line on stdout: 0 when the run has ended, -9 when it died at that call; `HOME/story.json` says
how the run ended. The calls are wrapped from here: the product knows nothing of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from sqlalchemy import Connection, Engine, event

from torpor.blobs.local import LocalBlobs
from torpor.contextlog import runs, waits
from torpor.contextlog.entries import read_entries
from torpor.core.ids import RunId
from torpor.core.states import FINAL, RunState
from torpor.engine.process.agent import Agent
from torpor.logstore import sqlite as store
from torpor.logstore.news import Feed
from torpor.policy import freeze
from torpor.testing.fakes.plain import Plain

STUCK_S = 60.0
SYSTEM_CALLS = ("fsync", "rename", "replace", "link")
AGENT = """
import asyncio, os, sys, threading
from pathlib import Path
import torpor

def note(ledger, what):
    fd = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, f"{what}\\n".encode())
    os.fsync(fd)
    os.close(fd)

@torpor.step
def spend(ledger, what):
    note(ledger, what)
    return what

@torpor.step(retries=2, backoff=0.01)
def fragile(ledger):
    note(ledger, "fragile")
    if Path(ledger).read_text().split().count("fragile") < 2:
        raise OSError("not yet")
    return "at last"

@torpor.step
def hopeless(ledger):
    note(ledger, "hopeless")
    raise ValueError("never")

@torpor.agent
async def story(ledger):
    print("begun")
    told = [await asyncio.to_thread(spend, ledger, "first")]
    told += await asyncio.gather(*(asyncio.to_thread(spend, ledger, w) for w in ("g1", "g2", "g3")))
    told.append(fragile(ledger))
    try:
        hopeless(ledger)
    except ValueError as error:
        told.append(str(error))
    told.append((await torpor.waitpoint("go on?")).data)
    await asyncio.to_thread(torpor.sleep, 0.05)
    await torpor.checkpoint()
    told.append(spend(ledger, "last"))
    print("done")
    return told
"""


class Fuse:
    """Counts calls; dies at the `at`th of one kind."""

    def __init__(self, call: str, at: int) -> None:
        self.call, self.at = call, at
        self.passed: Counter[str] = Counter()

    def __call__(self, call: str) -> None:
        self.passed[call] += 1
        if call == self.call and self.passed[call] == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, name: str, call: str) -> None:
        real = getattr(owner, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self(f"before-{call}")
            value = real(*args, **kwargs)
            self(f"after-{call}")
            return value

        setattr(owner, name, wrapper)

    def lay(self) -> None:
        make_engine, publish, kill = store.make_engine, Feed.publish, Agent.kill

        def watched(path: Path, **options: Any) -> Engine:
            engine = make_engine(path, **options)
            if not options.get("read_only"):
                event.listen(engine, "commit", lambda c: self("before-commit"))
            return engine

        def committed(feed: Feed, written: Any) -> None:  # before any caller hears of it
            self("after-commit")
            publish(feed, written)

        async def killing(agent: Agent) -> None:
            self("before-kill")
            await kill(agent)
            self("after-kill")

        for owner, name, wrapped in (
            (store, "make_engine", watched),
            (Feed, "publish", committed),
            (Agent, "kill", killing),
        ):
            setattr(owner, name, wrapped)
        for name in SYSTEM_CALLS:
            self.around(os, name, name)
        for name in ("put_all", "put_stream"):
            self.around(LocalBlobs, name, "put")
        for name, kind in (("claim",) * 2, ("transition",) * 2, ("suspend", "transition")):
            self.around(runs, name, kind)


async def serve(home: Path, fuse: Fuse) -> None:
    """Until the run, made if there is none, has ended; its wait is answered when it sleeps."""
    fuse.lay()
    plain = Plain(home, terms=replace(freeze.PROCESS, grace_s=0.0))
    await plain.start()
    try:
        version = await plain.deploy(AGENT)
        made = await plain.store.write(
            lambda c: runs.create_run(
                c,
                version=version,
                agent="story",
                input={"ledger": str(home / "ledger")},
                id_key="the story",
                now=time.time(),
            )
        )
        await see_through(plain, made.id)
        row = await plain.ended(made.id)  # its log is checked
        log = await plain.store.read(lambda c: read_entries(c, made.id))
    finally:
        await plain.close()
    told = {
        "state": row.state,
        "result": row.result,
        "error": row.error,
        "log": [[entry.kind, entry.op, entry.data] for entry in log],
        "passed": fuse.passed,
    }
    (home / "story.json").write_text(json.dumps(told))


async def see_through(plain: Plain, run: RunId) -> None:
    def answer(c: Connection) -> None:
        for wait in waits.list_waits(c, run, narrowed=waits.Narrowed(kinds=["wait"])):
            waits.complete_wait(c, wait.id, value={"data": "yes"}, now=time.time())

    with plain.store.subscribe(run) as subscription:
        while (row := await plain.row(run)).state not in FINAL:
            if row.state is RunState.SUSPENDED and not row.ready:
                await plain.store.write(answer)
            await subscription.wait()


def child(home: Path, fuse: Fuse) -> NoReturn:
    code = 1
    with contextlib.suppress(BaseException):
        try:
            asyncio.run(asyncio.wait_for(serve(home, fuse), STUCK_S))
            code = 0
        except BaseException:
            (home / "trouble").write_text(traceback.format_exc())
            raise
    os._exit(code)


def main() -> None:
    for line in sys.stdin:
        home, call, at = line.rsplit(maxsplit=2)
        pid = os.fork()
        if pid == 0:
            child(Path(home), Fuse(call, int(at)))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
