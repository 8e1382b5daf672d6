"""What torpor is for: an agent works, waits without a machine, and goes on as if nothing was."""

from __future__ import annotations

import re
import time

from tests.e2e.conftest import Start
from tests.e2e.stage import Stage, command_of, wait_gone


def test_an_agent_works_sleeps_without_a_machine_and_goes_on(stage: Stage, start: Start) -> None:
    watch = start("main_job", number=3)
    stage.model.wait_asked("hold main")
    pid = stage.machine(watch.run)
    slot = re.search(rf"{stage.home.mount}/([^/]+)/disk", command_of(pid))
    assert slot is not None
    stage.model.let("hold main")

    watch.until("run.suspended")
    wait_gone(pid)  # it is killed right after the record
    asleep = stage.client.run(watch.run)
    assert (asleep["state"], asleep["machine"]) == ("suspended", None)
    assert asleep["snapshots_count"] == 1
    assert 0 < asleep["bytes"] < asleep["template_bytes"]
    assert asleep["cycles"] == 0
    wait = stage.open_wait(watch.run)
    assert wait["prompt"] == "go on with 3?"
    assert wait["data"] == {"doubled": 6}

    stage.client.complete(wait["id"], approved=True, note="do", by="me")
    watch.until("run.resumed")
    # Nothing of the machine it had is left: no process, no slot, no files. (Its slot is dropped
    # before the run can be claimed again.)
    assert not stage.processes(f"/{slot[1]}/")
    assert not (stage.home.mount / slot[1]).exists()
    assert not (stage.home.machines / slot[1]).exists()

    watch.until("run.suspended")  # it sleeps by itself now, and wakes by itself
    ended = watch.ended()
    assert ended["state"] == "completed", watch
    result = ended["result"]
    assert result["slept_s"] >= 2
    assert result == {
        "doubled": 6, "again": 12, "note": "do", "slept_s": result["slept_s"]
    }  # fmt: skip
    assert watch.output() == "begun\ndoubling 3\napproved: True, do\ndoubling 6\n"
    assert ended["cycles"] == 2
    assert ended["slept_s"] > 0
    assert ended["ran_s"] > 0
    assert ended["ran_s"] + ended["slept_s"] <= time.time() - ended["created_at"]
    assert [taken["pause_ms"] > 0 for taken in stage.client.snapshots(watch.run)] == [True, True]
    assert [entry["seq"] for entry in watch.entries] == list(range(1, len(watch.entries) + 1))


def test_two_runs_of_one_template_draw_different_numbers(stage: Stage, start: Start) -> None:
    watches = [start("endure", cycles=1, mib=1) for _ in range(2)]
    drawn: list[str] = []
    for watch in watches:
        watch.until("run.suspended")
        stage.client.complete(stage.open_wait(watch.run)["id"], approved=True)
        drawn += watch.until("note.emit")["data"]["drawn"]
        assert watch.ended()["state"] == "completed"
    assert len(set(drawn)) == len(drawn) == 8


def test_what_a_warm_hook_does_is_done_when_a_run_begins(stage: Stage, start: Start) -> None:
    watch = start("is_warm")
    ended = watch.ended()
    # The hook asked the model, too, which was not told: this is its first question.
    assert ended["result"] == ["colorsys", 8, True, "answer 1 to warm"], ended["error"]
    assert "doubling" not in watch.output()
    assert not [each for each in watch.entries if each["op"] == "step:double#1"]
