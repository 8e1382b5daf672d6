"""Fifty freezes of one run: memory, disk, sockets, threads, randomness and clocks survive each."""

from __future__ import annotations

from tests.e2e.conftest import Start
from tests.e2e.stage import Stage

CYCLES = 50
BUFFER_MIB = 50
# A machine knows the time to some milliseconds; on a loaded host what it says takes its time.
CLOCK_ERROR_MAX_S = 1.0


def test_fifty_freezes_change_nothing(stage: Stage, start: Start) -> None:
    watch = start("endure", cycles=CYCLES, mib=BUFFER_MIB)
    told = []
    for cycle in range(CYCLES):
        watch.until("run.suspended")
        wait = stage.open_wait(watch.run)
        assert wait["prompt"] == f"cycle {cycle}"
        stage.client.complete(wait["id"], approved=True)
        told.append(watch.until("note.emit"))
    ended = watch.ended()
    assert ended["state"] == "completed", ended["error"]
    assert ended["result"] == CYCLES * 20_000
    # What later ones have replaced may be collected by then: the log has them all.
    assert (ended["cycles"], watch.count("snapshot")) == (CYCLES, CYCLES)
    assert watch.count("freeze.failed") == watch.count("run.recovered") == 0
    assert [entry["data"]["cycle"] for entry in told] == list(range(CYCLES))
    drawn = [each for entry in told for each in entry["data"]["drawn"]]
    assert len(set(drawn)) == len(drawn) == 4 * CYCLES
    for entry in told:
        assert abs(entry["at"] - entry["data"]["wall"]) < CLOCK_ERROR_MAX_S
