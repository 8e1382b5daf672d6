"""Machines that are frozen under a model's call: the answer wakes them, and their client, whose
timeout is shorter than that took, has noticed nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.e2e.conftest import Start
from tests.e2e.patient import TIMEOUT_S
from tests.e2e.stage import Stage

from torpor.project.reading import read_agent


@pytest.fixture(scope="module")
def patient(session_stage: Stage) -> str:
    source = read_agent(Path(__file__).parent / "patient.py")
    deployed = session_stage.client.deploy(source, lambda stage, message, fraction: None)
    return str(deployed["version"])


@pytest.mark.parametrize("question", ["hold asleep", "drip asleep"])
def test_a_client_gets_its_answer_whole_after_a_sleep_longer_than_its_patience(
    stage: Stage, start: Start, patient: str, question: str
) -> None:
    watch = Start(stage, patient)("patient", question=question)
    stage.model.wait_asked(question)
    asked_at = time.monotonic()
    watch.until("run.suspended")
    while time.monotonic() < asked_at + TIMEOUT_S:  # others go on meanwhile
        start("chatter", rounds=0, lines=0).ended()
    stage.model.let(question)
    ended = watch.ended()
    assert ended["state"] == "completed", watch
    assert ended["result"] == stage.model.sent[question].decode()
    assert stage.model.requests[question] == 1
    assert watch.count("run.resumed") >= 1 and watch.count("run.recovered") == 0
