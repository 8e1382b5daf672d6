"""A server of the `process` engine dies at every call that matters for durability, and the next one
carries its run to the end that it would have had: with real processes and kill -9.

Which calls: `tests.faults.crashing`. SQLite's own system calls are inside a commit.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVERS = 2
RESULT = ["first", "g1", "g2", "g3", "at last", "never", "yes", "last"]
# What a run without any crash does, and how often.
EFFECTS = {"first": 1, "g1": 1, "g2": 1, "g3": 1, "fragile": 2, "hopeless": 1, "last": 1}
CALLS = {"commit", "fsync", "rename", "claim", "transition", "kill"}
KINDS = {f"{when}-{call}" for call in CALLS for when in ("before", "after")}
CONCURRENT = 3
# Of each kind the first call and every so many-th. 1 is every one.
STRIDE = int(os.environ.get("TORPOR_TEST_CRASH_STRIDE", "4"))


def test_a_server_dies_at_every_call(tmp_path: Path) -> None:
    with host() as serve:
        assert serve(tmp_path, "none", 0) == 0
    check(tmp_path, Seen(), Counter())
    passed: dict[str, int] = json.loads((tmp_path / "story.json").read_text())["passed"]
    assert passed.keys() == KINDS, passed
    calls = [(kind, n) for kind in sorted(passed) for n in range(1, passed[kind] + 1, STRIDE)]
    with ThreadPoolExecutor(SERVERS) as pool:
        parts = pool.map(partial(lives, tmp_path), [calls[n::SERVERS] for n in range(SERVERS)])
        died = Counter(kind for part in parts for kind in part)
    assert died.keys() == KINDS, died
    # A run has about as many calls as another: which writes share a commit is chance.
    assert died.total() >= 0.8 * len(calls), died


@contextlib.contextmanager
def host() -> Iterator[Callable[[Path, str, int], int]]:
    """Serves; see `tests.faults.crashing`."""
    command = [sys.executable, "-m", "tests.faults.crashing"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=pipe, stdout=pipe) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None

        def serve(home: Path, kind: str, at: int) -> int:
            print(home, kind, at, file=stdin, flush=True)
            return int(stdout.readline())

        yield serve
        stdin.close()


def lives(directory: Path, calls: Sequence[tuple[str, int]]) -> list[str]:
    """Die at each of these calls and live on; the kinds of those that there were."""
    died: list[str] = []
    with host() as serve:
        for kind, at in calls:
            home = directory / f"{kind}-{at}"
            home.mkdir()
            code = serve(home, kind, at)
            at_death, by_then = Seen.of(home), effects(home)
            if code == -signal.SIGKILL:
                died.append(kind)
                code = serve(home, "none", 0)
            try:
                assert code == 0, (home / "trouble").read_text()
                check(home, at_death, by_then)
            except AssertionError as error:
                error.add_note(f"It had died at {kind} {at}.")
                raise
    return died


@dataclass
class Seen:
    """What a log holds of steps, each called what it writes into the ledger."""

    begun: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    again: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, home: Path) -> Seen:
        seen, names = cls(), dict[str, str]()
        with contextlib.closing(sqlite3.connect(home / "torpor.db")) as log:
            try:
                found = log.execute("SELECT kind, op, data FROM entries ORDER BY seq").fetchall()
            except sqlite3.OperationalError:  # it died before there was a schema
                return seen
        for kind, op, text in found:
            data = json.loads(text)
            if kind == "op.begin" and data["kind"] == "step":
                spends = data["name"] == "spend"
                names[op] = data["data"]["args"][1] if spends else data["name"]
                seen.begun.add(names[op])
            elif kind == "op.end" and op in names:
                seen.ended.add(names[op])
            elif kind == "op.again":
                assert names[op] not in seen.ended, f"{op} was recorded and is done again"
                seen.again[names[op]] += 1
        return seen


def effects(home: Path) -> Counter[str]:
    ledger = home / "ledger"
    return Counter(ledger.read_text().split() if ledger.exists() else [])


def check(home: Path, at_death: Seen, by_then: Counter[str]) -> None:
    """How the run ended, which had come so far when its server died."""
    story = json.loads((home / "story.json").read_text())
    assert (story["state"], story["result"]) == ("completed", RESULT), story["error"]
    seen, happened = Seen.of(home), effects(home)
    assert happened.keys() == EFFECTS.keys() == seen.ended, "0 lost"
    for what, times in EFFECTS.items():
        if what in at_death.ended:
            assert happened[what] == by_then[what], f"{what} had a result and happened again"
        # A body begins when its beginning is on its way to the log, which may not have come there
        # when the server died. Whatever the log knew of is marked.
        unknown = what in by_then and what not in at_death.begun
        assert happened[what] <= times + seen.again[what] + unknown, f"{what} again, not in doubt"
    assert seen.again.total() <= CONCURRENT, seen.again
    printed = "".join(data["text"] for kind, _, data in story["log"] if kind == "output")
    assert printed == "begun\ndone\n"
