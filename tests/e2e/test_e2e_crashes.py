"""kill -9 of everything that can be killed: no acknowledged entry is lost, nothing happens twice.

Where an agent is held when the blow falls is sure: it waits for the model's answer.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.e2e.conftest import Start
from tests.e2e.stage import Stage, Watch, end, wait_gone

from torpor.cli.fetching import fetch

Blow = Callable[[Stage, str], None]

BEFORE_THE_WAIT = "one\ndoubling 1\ntwo\nasking hold {0} 1\n"
WHOLE = (
    BEFORE_THE_WAIT + "asked hold {0} 1\nthree\nfour\ndoubling 2\nfive\n"
    "asking hold {0} 2\nasked hold {0} 2\nsix\n"
)


def kill_machine(stage: Stage, run: str) -> None:
    end(stage.machine(run))


def kill_pager(stage: Stage, run: str) -> None:
    machine = stage.machine(run)
    (pager,) = stage.processes("torpor.pager")
    end(pager)
    wait_gone(machine)


def kill_server(stage: Stage, run: str) -> None:
    machine, pagers = stage.machine(run), stage.processes("torpor.pager")
    stage.kill()
    wait_gone(machine)  # none outlives its server, where it could still write
    stage.start()
    # The pager does, and serves the next server's machines too.
    assert len(pagers) == 1 and stage.processes("torpor.pager") == pagers


@pytest.mark.parametrize("blow", [kill_machine, kill_pager, kill_server])
def test_a_run_survives_the_loss_of_its_machine(stage: Stage, start: Start, blow: Blow) -> None:
    name = blow.__name__
    watch = start("crash", name=name)
    for hold in (f"hold {name} 1", f"hold {name} 2"):
        stage.model.wait_asked(hold)
        before = list(stage.client.entries(watch.run))
        blow(stage, watch.run)
        watch.until("run.recovered")
        assert list(stage.client.entries(watch.run))[: len(before)] == before
        stage.model.let(hold)  # the broker was at it all the time
        if hold.endswith("1"):
            watch.until("run.suspended")
            stage.client.complete(stage.open_wait(watch.run)["id"], approved=True)
    ended = watch.ended()
    assert ended["state"] == "completed", watch
    assert ended["result"] == {
        "first": 2,
        "second": 4,
        "held": [f"answer 1 to hold {name} 1", f"answer 1 to hold {name} 2"],
        "approved": True,
    }
    assert watch.output() == WHOLE.format(name)
    # Once from the template, once from the newest snapshot.
    assert watch.count("run.recovered") == 2
    assert len(set(watch.ops("op.begin"))) == len(watch.ops("op.begin"))
    assert sorted(watch.ops("op.end")) == sorted(watch.ops("op.begin"))
    # What was in doubt each time: the step. The model call in it was adopted, and paid once.
    assert sorted(set(watch.ops("op.again"))) == sorted(
        op for op in watch.ops("op.begin") if "asked" in op
    )
    assert [stage.model.requests[f"hold {name} {n}"] for n in (1, 2)] == [1, 1]
    # Both lives after the wait began at the same snapshot, but did not draw the same numbers.
    first, second, again = (e["data"]["drawn"] for e in watch.entries if e["kind"] == "note.emit")
    assert second == again and not set(first) & set(second)


def test_a_call_that_dies_with_its_broker_is_never_sent_again(stage: Stage, start: Start) -> None:
    watch = start("model_once", name="broker")
    stage.model.wait_asked("hold broker")
    (broker,) = stage.processes("torpor.egress ")
    end(broker)
    watch.ended()
    # Whether the model got it nobody knows. Its client hears that, and may make another call.
    (ended,) = (e["data"] for e in watch.entries[-2:] if e["kind"] == "op.end")
    assert ended["value"]["status"] == 503 and "in_doubt" in ended["value"]["body"], watch
    assert watch.count("run.recovered") == 0 and watch.ops("op.again") == []
    assert [stage.model.requests[f"{verb} broker"] for verb in ("say", "hold")] == [2, 1]


def test_a_conversation_loses_no_turn(stage: Stage, start: Start) -> None:
    """Asleep between its turns, and cut off in the middle of one."""
    watch = start("chat", turns=2)
    watch.until("run.suspended")
    stage.client.send(watch.run, "say", data="hello")
    watch.until("run.suspended")
    stage.client.send(watch.run, "say", data="hold chat")
    stage.model.wait_asked("hold chat")
    kill_machine(stage, watch.run)
    watch.until("run.recovered")
    stage.model.let("hold chat")
    ended = watch.ended()
    replies = ["answer 1 to hello", "answer 1 to hold chat"]
    assert ended["result"] == ["Be brief.", "hello", replies[0], "hold chat", replies[1]], watch
    assert [e["data"]["value"] for e in watch.entries if e["kind"] == "note.emit"] == replies
    begun = [op for op in watch.ops("op.begin") if op.startswith("context:append")]
    assert begun == [f"context:append#{n}" for n in range(1, 6)]
    assert stage.model.requests["hello"] == stage.model.requests["hold chat"] == 1


def test_a_server_finds_its_suspended_runs_again(stage: Stage, start: Start) -> None:
    watches = [start("sleeper") for _ in range(3)]
    for watch in watches:
        watch.until("run.suspended")
    before = {watch.run: list(stage.client.entries(watch.run)) for watch in watches}
    stage.kill()
    stage.start()
    for watch in watches:
        assert list(stage.client.entries(watch.run)) == before[watch.run]
        assert stage.client.run(watch.run)["state"] == "suspended"
        stage.client.complete(stage.open_wait(watch.run)["id"], approved=True)
    for watch in watches:
        ended = watch.ended()
        assert (ended["state"], ended["result"]) == ("completed", True), watch
        assert watch.count("run.recovered") == 0


def test_an_answer_acknowledged_just_before_the_crash_counts(stage: Stage, start: Start) -> None:
    watch = start("sleeper")
    watch.until("run.suspended")
    stage.client.complete(stage.open_wait(watch.run)["id"], approved=True)
    stage.kill()
    stage.start()
    assert watch.ended()["result"] is True


def test_killing_the_machine_while_it_freezes_loses_nothing(stage: Stage, start: Start) -> None:
    watch = start("keeper", mib=24)
    killed = _kill_while("freezing", stage, watch)
    watch.until("run.suspended")
    stage.client.complete(stage.open_wait(watch.run)["id"], approved=True)
    ended = watch.ended()
    assert (ended["state"], ended["result"]) == ("completed", 24 << 20), watch
    assert watch.count("run.recovered") == killed


def _kill_while(doing: str, stage: Stage, watch: Watch) -> int:
    """Kill the machine of the run in that moment; 0 if it was over before it was seen."""
    while True:
        run = stage.client.run(watch.run)
        machine = run["machine"]
        if machine is not None and machine["state"] == doing and machine["pid"] is not None:
            end(machine["pid"])
            return 1
        if run["state"] == "suspended":
            return 0


def test_a_result_too_large_for_the_log_survives(stage: Stage, start: Start) -> None:
    values = stage.home.blobs / "values"
    before = {path for path in values.rglob("*") if path.is_file()}  # of other tests' runs
    watch = start("bulky", name="bulky", mib=8)
    stage.model.wait_asked("hold bulky")
    kill_machine(stage, watch.run)
    stage.model.let("hold bulky")
    ended = watch.ended()
    assert (ended["state"], ended["result"]) == ("completed", [8 << 20, True, True]), watch
    bulk = [e for e in watch.entries if e["kind"] == "op.end" and e["op"].startswith("step:bulk#")]
    # Two results, one file.
    assert [each["data"]["blob"]["bytes"] for each in bulk] == [8 << 20] * 2
    assert len({each["data"]["blob"]["digest"] for each in bulk}) == 1
    after = {path for path in values.rglob("*") if path.is_file()}
    assert len(after - before) == 1


def test_the_files_of_a_run_are_there_from_the_template_and_from_a_snapshot(
    stage: Stage, start: Start
) -> None:
    large, small = os.urandom(5 << 20), b"small"
    files = {"data/large.bin": large, "data/d/empty": b"", "inputs/doc.txt": small}
    raw = {"$file": "data/large.bin"}
    watch = start("given", files=files, doc="inputs/doc.txt", raw=raw, name="given")
    stage.model.wait_asked("hold given")
    kill_machine(stage, watch.run)
    watch.until("run.recovered")
    stage.model.let("hold given")
    watch.until("run.suspended")
    kept = [["data/d/empty", True, 0], ["data/large.bin", True, zlib.crc32(large)]]
    first = [[*kept, ["inputs/doc.txt", True, zlib.crc32(small)]], zlib.crc32(large)]
    later = [*kept, ["inputs/doc.txt", True, zlib.crc32(b"its own now")]]
    # A fork begins from the template, with the files as they were given.
    raw = {"$file": "inputs/doc.txt"}
    again = {"doc": "inputs/doc.txt", "raw": raw, "name": "given"}
    fork = Watch(stage.client, stage.client.fork(watch.run, input=again)["id"])
    stage.client.complete(stage.open_wait(watch.run)["id"], approved=True)
    assert watch.ended()["result"] == [first, later], watch
    fork.until("run.suspended")
    stage.client.complete(stage.open_wait(fork.run)["id"], approved=True)
    assert fork.ended()["result"] == [[first[0], zlib.crc32(small)], later], fork


def test_what_was_published_survives_and_what_was_not_is_kept(
    stage: Stage, start: Start, tmp_path: Path
) -> None:
    def copied(path: str) -> bytes:
        (target,) = fetch(stage.client, watch.run, path, str(tmp_path), force=True)
        return target.read_bytes()

    watch = start("publishing", name="publishing")
    stage.model.wait_asked("hold publishing")
    kill_machine(stage, watch.run)
    watch.until("run.recovered")
    watch.until("machine.up")
    assert copied("page.html") == b"<p>"  # at work
    stage.model.let("hold publishing")
    watch.until("run.suspended")
    assert copied("left.txt") == b"left"  # asleep: it is restored for that, and sleeps on
    assert copied("out") == bytes(range(256)) * 8192
    watch.until("run.suspended")
    stage.client.complete(stage.open_wait(watch.run)["id"], data=None)
    ended = watch.ended()
    assert ended["result"] == ["out/report.bin", 2 << 20, 3, 64], watch
    report = bytes(range(256)) * 8192
    assert b"".join(stage.client.artifact(watch.run, "out/report.bin")) == report
    assert b"".join(stage.client.artifact(watch.run, "page.html")) == b"<p>"
    assert b"".join(stage.client.artifact(watch.run, "left.txt")) == b"left"
    found = stage.client.artifacts(watch.run)
    listed = [(each["name"], each["version"], each["kept"]) for each in found]
    assert listed == [
        ("note.txt", 1, False),
        ("out/report.bin", 1, False),
        ("page.html", 1, False),
        ("left.txt", 1, True),
    ]
    # Sent once each, and sealed as all that was in the machine.
    assert watch.ops("op.begin").count("artifact:out/report.bin#1") == 1
    assert "artifact:out/report.bin#1" not in watch.ops("op.again")
    files = [path for path in (stage.home.blobs / "values").rglob("*") if path.is_file()]
    assert not any(b"<p>" in path.read_bytes() for path in files if path.stat().st_size < 100)


def test_a_recorded_model_call_is_made_once(stage: Stage, start: Start) -> None:
    watch = start("model_once", name="once")
    stage.model.wait_asked("hold once")
    for _ in range(2):
        kill_machine(stage, watch.run)
        watch.until("run.recovered")
        watch.until("machine.up")
    stage.model.let("hold once")
    ended = watch.ended()
    assert ended["state"] == "completed", watch
    # Two equal questions are two calls, each made once; the one that was cut off twice as well.
    assert ended["result"] == [
        "answer 1 to say once",
        "answer 2 to say once",
        "answer 1 to hold once",
    ]
    assert (stage.model.requests["say once"], stage.model.requests["hold once"]) == (2, 1)
    assert "sk-e2e-1" not in json.dumps(watch.entries)


def test_what_a_step_wrote_outlives_the_machine(stage: Stage, start: Start) -> None:
    watch = start("filing", name="filing")
    stage.model.wait_asked("hold filing")
    kill_machine(stage, watch.run)
    watch.until("run.recovered")
    stage.model.let("hold filing")
    assert watch.ended()["result"] == "by a step\n", watch
    assert watch.ops("op.begin").count("step:write_file#1") == 1
    assert "step:write_file#1" not in watch.ops("op.again")
