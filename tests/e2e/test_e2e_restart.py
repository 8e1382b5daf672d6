"""`torpor down` and `torpor up` in the middle of work: no agent notices."""

from __future__ import annotations

from tests.e2e.conftest import Start
from tests.e2e.stage import Stage


def test_a_run_goes_on_in_the_middle_of_its_work(stage: Stage, start: Start) -> None:
    watch = start("handed_over", name="restart")
    watch.until("note.emit")
    stage.model.wait_asked("hold restart")
    machine = stage.machine(watch.run)
    served = stage.client.run(watch.run)["machine"]["pager"]
    assert served["bytes"] >= served["reads"] and served["misses"] == served["frames"]
    told: list[str] = []

    def hear(stage_: str, message: str, fraction: float | None) -> None:
        told.append(message)
        if message.endswith("waiting for the model's answer"):
            stage.model.let("hold restart")

    stage.down(hear)
    assert [words.partition(", in")[0] for words in told] == [
        f"{watch.run}: frozen where it was",
        f"{watch.run}: waiting for the model's answer",
    ]
    assert not stage.processes("qemu") and machine not in stage.processes()
    stage.start()
    ended = watch.ended()
    assert ended["state"] == "completed", watch
    assert ended["result"]["epoch"] == 1 and ended["epoch"] == 2
    assert ended["result"]["rounds"] > 0 and ended["result"]["echo"] == 0
    assert ended["result"]["answers"] == ["answer 1 to hold restart"]
    # The body of the step ran once, and so did the model.
    assert watch.output() == "before\nbody\nafter\n"
    assert stage.model.requests["hold restart"] == 1
    assert watch.count("run.recovered") == 0 and watch.count("run.resumed") == 1
    # One of the hand-over; and one with the step's end, since its body wrote a file.
    snapshots = stage.client.snapshots(watch.run)
    assert len(snapshots) == 2 and all(each["parent"] for each in snapshots)
