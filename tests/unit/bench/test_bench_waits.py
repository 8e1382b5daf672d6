"""When a hearing is late."""

from __future__ import annotations

import pytest

from torpor.bench.waits import hearings
from torpor.contextlog.entries import EntryRow
from torpor.core.ids import Epoch, OpId, RunId, Seq


@pytest.mark.parametrize(
    ("log", "found"),
    [
        ([("wait.completed", 1.0), ("op.begin", 1.25), ("run.suspended", 2.0)], [250.0]),
        ([("wait.completed", 1.0), ("run.suspended", 2.0), ("op.begin", 3.0)], [None]),
        ([("run.suspended", 1.0), ("op.begin", 2.0)], []),
        ([("wait.completed", 1.0)], []),
    ],
)
def test_it_is_late_after_a_suspension(
    log: list[tuple[str, float]], found: list[float | None]
) -> None:
    entries = [
        EntryRow(RunId("r"), Seq(seq), at, Epoch(1), kind, OpId("step:heard#1"), {})
        for seq, (kind, at) in enumerate(log, 1)
    ]
    assert list(hearings(entries)) == found
