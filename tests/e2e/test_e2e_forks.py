"""Forks and retries on real machines: who a copy of a machine is, and what it does not do again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.e2e.conftest import HERE, Start
from tests.e2e.stage import Stage, Watch

from torpor.project.reading import read_agent


def answered(stage: Stage, watch: Watch, note: str) -> dict[str, Any]:
    stage.client.complete(stage.open_wait(watch.run)["id"], approved=True, note=note)
    result: dict[str, Any] = watch.ended()["result"]
    return result


def test_a_copy_of_a_sleeping_machine_is_somebody_else(stage: Stage, start: Start) -> None:
    watch = start("twin")
    watch.until("run.suspended")
    fork = Watch(stage.client, stage.client.fork(watch.run)["id"])
    fork.until("run.forked")
    fork.until("run.suspended")
    again = Watch(stage.client, stage.client.fork(fork.run)["id"])
    again.until("run.forked", lambda entry: entry["data"]["origin"] == fork.run)
    again.until("run.suspended")
    each = {w.run: answered(stage, w, w.run) for w in (again, watch, fork)}
    for run, told in each.items():
        assert (told["id"], told["note"], told["doubled"]) == (run, run, 42)
        assert told["key"] == f"{run}:step:my_key#1"
        assert told["first"] == watch.run, "what it kept in a variable is as it was"
    assert [each[w.run]["epoch"] for w in (watch, fork, again)] == [2, 3, 4]
    drawn = [value for told in each.values() for value in told["drawn"]]
    assert len(set(drawn)) == len(drawn), "nothing is drawn twice"
    for w in (watch, fork, again):
        assert w.output() == "doubling 21\n"
    assert fork.count("run.suspended") == 2
    assert [entry["seq"] for entry in again.entries] == list(range(1, len(again.entries) + 1))
    # The origin's snapshots go; what stands on them stays whole.
    stage.client.gc(dry_run=False)
    assert stage.client.verify(again.run)["problems"] == []


def test_a_fork_replays_where_no_snapshot_serves(stage: Stage, start: Start) -> None:
    watch = start("twin")
    watch.until("run.suspended")
    (doubled,) = [e for e in watch.entries if e["kind"] == "op.end"]
    fork = Watch(stage.client, stage.client.fork(watch.run, set={"step:double#1": 43})["id"])
    fork.until("run.suspended")
    told = answered(stage, fork, "set")
    assert (told["doubled"], told["first"], told["id"]) == (43, fork.run, fork.run)
    shown = stage.client.run(fork.run)
    assert (shown["origin_seq"], shown["forked"]["base"]) == (doubled["seq"], None)
    assert shown["forked"]["set"] == ["step:double#1"]
    assert answered(stage, watch, "")["doubled"] == 42


def test_other_code_replays_the_log_or_says_where_it_cannot(
    stage: Stage, start: Start, version: str
) -> None:
    watch = start("twin")
    watch.until("run.suspended")
    source = read_agent(HERE / "agents.py")
    code = source.files["agents.py"]
    changed = code.replace(b"torpor.run.id, double(21)", b"torpor.run.id, double(22)")
    changed = changed.replace(b'"note": verdict.note, **now', b'"note": "changed by hand", **now')
    assert changed.count(b"changed by hand") == 1
    other = replace(source, files={**source.files, "agents.py": changed})
    newer = stage.client.deploy(other, lambda stage, message, fraction: None)["version"]
    assert newer != version
    diverged = Watch(stage.client, stage.client.fork(watch.run, version=newer)["id"]).ended()
    assert (diverged["state"], diverged["error"]["type"]) == ("failed", "Divergence")
    message = diverged["error"]["message"]
    assert "recorded: step:double#1" in message and "now:      step double" in message
    assert "agents.py:" in message
    # Up to before that operation the two are alike.
    begun = next(e for e in watch.entries if e["kind"] == "op.begin")
    fork = stage.client.fork(watch.run, at=begun["seq"] - 1, version=newer)
    fine = Watch(stage.client, fork["id"])
    fine.until("run.suspended")
    told = answered(stage, fine, "")
    assert (told["doubled"], told["note"]) == (44, "changed by hand")
    # The run keeps its own version and its snapshots, whatever was deployed after it.
    stage.client.gc(dry_run=False)
    assert answered(stage, watch, "old")["note"] == "old"


def test_a_retry_tries_again_what_failed_and_nothing_else(stage: Stage, start: Start) -> None:
    watch = start("stumbles", name="once")
    failed = watch.ended()
    assert (failed["state"], failed["error"]["type"]) == ("failed", "urllib.error.HTTPError")
    question = "refuse once"
    assert stage.model.requests[question] == 1
    stage.model.let(question)
    again = Watch(stage.client, stage.client.retry(watch.run)["id"])
    ended = again.ended()
    assert (ended["state"], ended["result"]) == ("completed", [2, f"answer 2 to {question}"])
    assert "step:asked#1" in stage.client.run(again.run)["forked"]["retried"]
    assert again.ops("op.again") and "step:double#1" not in again.ops("op.again")
    assert stage.client.run(watch.run)["state"] == "failed"
