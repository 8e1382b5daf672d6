"""Reloads: a run goes on as another version of its agent, as far as what it recorded still holds.

    origin   1 ─ 2 ─ 3 ─ 4 ─ 5 ─ 6 …      step b, whose code has changed, ended at 5
                         └──► reload       shares 1 to 4, and runs b again

A reload is a fork that takes its origin's place: it shares the log up to where the first step ended
that the change touches, so that this step, begun and without a result, is run again (rule 3), and
what it asked a model before is answered from the log. A child whose agent the change touches is
spawned again. What failed a run that has failed is tried again, as in a retry. From then on the new
code goes its own way: where it does something else than the log says, the rest is superseded
(`torpor.worker.verdicts`).

An origin that has not ended does now, in the same write: two runs with the same history would do
the same things twice. Its agent is not asked to clean up, since what it has is the reload's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection

from torpor.contextlog import entries
from torpor.contextlog.forks import Fork, Rewrap, failures, fork_run, forked, shared_end
from torpor.contextlog.news import Replaced, report
from torpor.contextlog.runs import RunRow, transition
from torpor.core.artifacts import FILE
from torpor.core.ids import OpId, RunId, Seq
from torpor.core.states import FINAL, RELOADED, RunState

HOW = "reload"
_CHILD = "child"
# No replay asks for these.
_NO_REQUEST = ("verdict", "doubt", FILE)

# Of steps and agents, by their names, those that the change touches.
Touched = Callable[[Iterable[str]], Collection[str]]


class Kept(NamedTuple):
    """What a reload shares: up to `at`; how many operations have their result there; and the first
    one that is done again, None if none is."""

    at: Seq
    operations: int
    again: OpId | None
    retried: frozenset[OpId] = frozenset()


NOTHING = Kept(Seq(0), 0, None)


def reload_run(
    c: Connection, origin: RunRow, kept: Kept, fork: Callable[..., Fork], rewrap: Rewrap, now: float
) -> RunRow:
    """The run that takes the place of `origin`; `fork` makes what it is to be, given the place and
    the rest of it. Raises as `forks.fork_run`."""
    details = {"kept": kept.operations, "again": kept.again}
    ended = origin.state in FINAL
    parent = None if ended else origin.parent
    wanted = fork(kept.at, how=HOW, retried=kept.retried, parent=parent, details=details)
    successor = fork_run(c, origin, wanted, rewrap, now)
    if not ended:
        words = f"its code changed; {successor.id} goes on as the new version"
        error = {"type": RELOADED, "message": words, "traceback": None}
        # Heard first: its agent is not to go on with the waits that end with it.
        report(c, Replaced(origin.id))
        transition(c, origin.id, None, RunState.CANCELLED, now, error=error, successor=successor.id)
    return successor


def kept_of(c: Connection, origin: RunRow, touched: Touched) -> Kept:
    """What of the run's log a reload shares."""
    end = shared_end(c, origin)
    records = [each for each in entries.journal(c, origin.id, 0) if each.get("seq", 0) <= end]
    named = touched({each["name"] for each in records if each["kind"] in ("step", _CHILD)})
    failed = failures(c, origin) if origin.state is RunState.FAILED else frozenset()
    cuts = [_cut(c, origin.id, each) for each in records if _again(each, named, failed)]
    at, again = min(cuts, key=lambda cut: cut[0], default=(end, None))
    ends = {
        OpId(each["op"]): each["seq"]
        for each in records
        if "ok" in each and each["kind"] not in _NO_REQUEST
    }
    retried = frozenset(op for op in failed if ends.get(op, end + 1) <= at)
    operations = sum(seq <= at and op not in retried for op, seq in ends.items())
    return Kept(Seq(at), operations, again, retried)


def is_reload(c: Connection, run: RunRow) -> bool:
    """Whether the run goes on from what another version of its agent recorded."""
    beginning = forked(c, run)
    return beginning is not None and beginning["how"] == HOW


def _again(record: dict[str, Any], named: Collection[str], failed: Collection[OpId]) -> bool:
    if record["kind"] == _CHILD:  # the same child again would be of the old code
        return record["name"] in named or record["op"] in failed
    return record["kind"] == "step" and "ok" in record and record["name"] in named


def _cut(c: Connection, run: RunId, record: dict[str, Any]) -> tuple[int, OpId]:
    """Up to where the log is shared that is to be without this operation, or its result."""
    op = OpId(record["op"])
    if record["kind"] == _CHILD:
        began = entries.began_at(c, run, op)
        assert began is not None
        return began - 1, op
    return record["seq"] - 1, op
