"""Cancelling: a sleeping run is not woken for it, a running one may clean up."""

from __future__ import annotations

import pytest
from tests.e2e.conftest import Start
from tests.e2e.stage import Stage, wait_gone

from torpor.core.errors import Conflict


def test_a_sleeping_run_is_cancelled_unwoken(stage: Stage, start: Start) -> None:
    watch = start("sleeper")
    watch.until("run.suspended")
    wait = stage.open_wait(watch.run)
    assert stage.client.cancel(watch.run)["state"] == "cancelled"
    ended = watch.ended()
    assert (ended["state"], ended["machine"], ended["epoch"]) == ("cancelled", None, 1)
    assert watch.count("run.resumed") == 0
    assert stage.client.wait(wait["id"])["state"] == "cancelled"
    with pytest.raises(Conflict):
        stage.client.complete(wait["id"], approved=True)
    with pytest.raises(Conflict):
        stage.client.cancel(watch.run)


def test_a_running_run_cleans_up_and_ends(stage: Stage, start: Start) -> None:
    watch = start("tidy", name="tidy")
    stage.model.wait_asked("hold tidy")
    pid = stage.machine(watch.run)
    assert stage.client.cancel(watch.run)["state"] == "cancelled"
    wait_gone(pid)
    ended = watch.ended()
    assert ended["state"] == "cancelled"
    assert ended["error"]["type"] == "Cancelled"
    assert watch.output() == "tidied up\ndoubling 21\n"
    assert stage.client.run(watch.run)["machine"] is None
    stage.model.let("hold tidy")
