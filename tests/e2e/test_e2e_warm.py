"""Machines that were got ready with the template's code translated become snapshots of runs."""

from __future__ import annotations

from tests.e2e.conftest import Start
from tests.e2e.stage import Stage

ROUNDS = 4


def test_code_that_was_rewritten_since_the_template(stage: Stage, start: Start) -> None:
    """What a warm machine has translated of a page that is another one now is not run again."""
    watch = start("rewrites_itself", rounds=ROUNDS)
    for _ in range(ROUNDS):
        watch.until("run.suspended")
        stage.client.complete(stage.open_wait(watch.run)["id"], approved=True)
    ended = watch.ended()
    assert (ended["state"], ended["result"]) == ("completed", list(range(ROUNDS))), watch
    assert watch.count("run.recovered") == 0
    woken = [entry["data"]["warm"] for entry in watch.entries if entry["kind"] == "machine.up"]
    assert sum(woken) >= 1, woken
