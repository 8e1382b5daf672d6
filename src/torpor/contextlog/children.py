"""Children: runs that another run, their parent, has spawned and may wait for.

    parent   op.begin child:NAME#n ── wait of kind child ───────── op.end: result or error
                       └► child   run.created ─ … ─ run.completed ──┘ one transaction

A child is a run like any other, with a log of its own; that it is one is an operation of its
parent (rule 2): replayed, or begun again after a crash, it is the same child. Its beginning, the
child and the wait for it are one write, and so are the child's end and that of the wait. All that
is spawned at once is one write, too.

A fork of the parent waits for the same child; what it spawns after its place are its own. A retry
of the parent retries the children that failed it. A child of its parent's own file has its parent's
version, whatever was deployed since. A child that cannot be made (no such agent, an input that does
not fit) has failed, and the parent gets the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, insert, select

from torpor.contextlog import codecs, schema
from torpor.contextlog.agents import get_agent
from torpor.contextlog.deployments import Chosen, Preference, choose_current
from torpor.contextlog.entries import BEGIN, IDENTITY, NewEntry, append
from torpor.contextlog.runs import NewRun, RunRow, get_run, insert_runs
from torpor.contextlog.waits import FAILED, WaitRow, complete_wait, new_wait, waits_for
from torpor.core.errors import CallerError, Conflict
from torpor.core.ids import Epoch, RunId, new_id
from torpor.core.inputs import Check
from torpor.core.starting import Start

# A child of a child of …: what is deeper is taken for a mistake that would never end.
DEPTH_MAX = 32


def spawn(
    c: Connection,
    parent: RunId,
    epoch: Epoch,
    requests: Sequence[Mapping[str, Any]],
    check_input: Check,
    now: float,
) -> list[WaitRow]:
    """Begin what `asked`, begin messages of kind `child`, ask for; the waits for them, in order.
    What began before is as it was. Raises as `entries.append` does."""
    ops = [each["op"] for each in requests]
    known = waits_for(c, parent, ops)
    fresh = [each for each in requests if each["op"] not in known]
    ids = sorted(new_id("run") for _ in fresh)  # they start in the order in which they were asked
    runs = {each["op"]: RunId(run) for each, run in zip(fresh, ids, strict=True)}
    append(c, parent, epoch, [_begin(each, runs.get(each["op"])) for each in requests], now)
    if fresh:
        row = get_run(c, parent)
        choose, too_deep = _chooser(c, row), _depth(c, row) >= DEPTH_MAX
        created_waits = [
            new_wait(parent, op, "child", _shown(each) | {"child": runs[op]}, now)
            for each in fresh
            for op in [each["op"]]
        ]
        c.execute(insert(schema.waits), created_waits)
        known |= waits_for(c, parent, list(runs))
        new_runs = []
        for each in fresh:
            op, data = each["op"], each["data"]
            try:
                if too_deep:
                    raise Conflict(f"runs are nested {DEPTH_MAX} deep here; that is the limit")
                chosen = choose(data["own"], data["agent"])
                check_input(chosen.agent, data["input"])
                codecs.check_input(data["input"])
                start = Start(**data.get("start", {})).check()
            except CallerError as error:
                problem = {"type": type(error).__name__, "message": error.message}
                failed = {"status": FAILED, "data": problem}
                complete_wait(c, known[op].id, value=failed, now=now)
                known |= waits_for(c, parent, [op])
            else:
                given = (chosen.row, chosen.agent["name"], data["input"])
                of: dict[str, Any] = {"parent": parent, "start": start, "api_key": row.api_key}
                new_runs.append(NewRun(runs[op], *given, **of))
        insert_runs(c, new_runs, now)
    return [known[op] for op in ops]


def _chooser(c: Connection, parent: RunRow) -> Callable[[bool, str], Chosen]:
    """What a name means to it: looked up once for a batch."""

    @cache
    def choose(own: bool, name: str) -> Chosen:
        if own:
            row = get_agent(c, parent.version)
            return Chosen(row, row.offered(name))
        # A child is as isolated as its parent, where it can be.
        return choose_current(c, name, Preference(rather=parent.engine, near=parent.version))

    return choose


def _begin(request: Mapping[str, Any], child: RunId | None) -> NewEntry:
    named = {key: request[key] for key in IDENTITY if key in request}
    data = _shown(request) | {"due_at": None, "child": child}
    if "start" in request["data"]:
        start = request["data"]["start"]
        names = {"env": sorted(start["env"])} if "env" in start else {}  # as in the child's log
        data["start"] = start | names
    return NewEntry(BEGIN, request["op"], named | data)


def _shown(request: Mapping[str, Any]) -> dict[str, Any]:
    return {"prompt": request["data"]["agent"], "data": None, "schema": None, "approve": False}


def _depth(c: Connection, run: RunRow) -> int:
    """How many ancestors it has; no more than DEPTH_MAX are counted."""
    depth, parent = 0, run.parent
    of = schema.runs.c
    while parent is not None and depth < DEPTH_MAX:
        depth, parent = depth + 1, c.scalar(select(of.parent).where(of.id == parent))
    return depth
