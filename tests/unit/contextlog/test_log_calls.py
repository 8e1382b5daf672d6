"""Which broker a call was last begun with: one that was never made is not in doubt."""

from __future__ import annotations

from tests.unit.contextlog.conftest import Commit

from torpor.contextlog.calls import begun_with
from torpor.contextlog.entries import NewEntry, append
from torpor.contextlog.runs import claim
from torpor.core.ids import OpId, op_id

OP: OpId = op_id("model", "/v1/chat/completions@0", 1)


def test_the_last_beginning_counts(commit: Commit) -> None:
    run, epoch = commit.claimed()
    begin = {"kind": "model", "name": "n", "digest": "d", "data": {"path": "/v1/x"}}

    def up(broker: str) -> NewEntry:
        return NewEntry("machine.up", None, {"broker": broker})

    commit(lambda c: append(c, run, epoch, [up("first"), NewEntry("op.begin", OP, begin)], 12.0))
    assert commit(lambda c: begun_with(c, run, OP)) == (run, "first")
    again = commit(lambda c: claim(c, run, 13.0))
    commit(lambda c: append(c, run, again, [up("second")], 14.0))
    assert commit(lambda c: begun_with(c, run, OP)).broker == "first"
    doubt = NewEntry("op.again", OP, {"reason": "its broker died"})
    commit(lambda c: append(c, run, again, [doubt], 15.0))
    assert commit(lambda c: begun_with(c, run, OP)).broker == "second"
