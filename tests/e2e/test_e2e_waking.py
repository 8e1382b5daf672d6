"""Answers to several waits, one by one, and what agents do by themselves, on real machines."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from tests.e2e.conftest import Start
from tests.e2e.stage import Stage, Watch

LINES = 4


@pytest.mark.parametrize("agent", ["gathered", "threaded", "any_of"])
def test_each_answer_is_acted_on_before_the_run_sleeps_again(
    stage: Stage, start: Start, agent: str
) -> None:
    watch = start(agent, lines=LINES)
    for number in reversed(range(LINES)):
        watch.until("run.suspended")
        _complete(stage, watch, f"wait:w{number}#1")
        # Without anything else that wakes it.
        watch.until("op.end", partial(_is_of, f"step:double#{LINES - number}"))
    assert watch.ended()["result"] == [2 * number for number in range(LINES)], watch
    assert watch.count("run.suspended") == watch.count("run.resumed") == LINES


def _is_of(op: str, entry: dict[str, Any]) -> bool:
    return bool(entry["op"] == op)


def _complete(stage: Stage, watch: Watch, op: str) -> None:
    (wait,) = (wait for wait in stage.client.waits(watch.run) if wait["op"] == op)
    stage.client.complete(wait["id"], data=1)


def test_a_timeout_of_its_own_wakes_it(start: Start) -> None:
    """Nobody answers."""
    watch = start("impatient", timeout_s=4)
    suspended = watch.until("run.suspended")
    assert suspended["data"]["wake_at"] > suspended["at"]
    assert watch.ended()["result"] == "timed out", watch
    assert watch.count("run.resumed") == 1


def test_a_thread_that_sleeps_is_done_before_the_run_sleeps(stage: Stage, start: Start) -> None:
    watch = start("beside", seconds=2.0)
    watch.until("run.suspended")
    assert watch.count("note.log") == 1
    _complete(stage, watch, "wait:w#1")
    assert watch.ended()["result"] == "done", watch
