"""Always suspended: with TORPOR_TEST_SUSPEND=always each operation ends its machine, and the agent
goes on in another. Whatever an agent does, it must not notice.

(All tests here pass in that mode but those that look at one machine for longer:
`TORPOR_TEST_SUSPEND=always make test`.)
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.e2e.conftest import HERE
from tests.e2e.stage import Model, Stage, Watch, base_home, own_home

from torpor.project.reading import read_agent


@pytest.fixture
def always(session_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """Another torpor, with the same image, in that mode, and a model that others do not ask."""
    model = Model()
    with own_home(base_home()) as home:
        stage = Stage(home, model)
        monkeypatch.setenv("TORPOR_TEST_SUSPEND", "always")
        try:
            stage.start()
            yield stage
            stage.stop()
        finally:
            stage.clear()
            model.close()


def test_an_agent_that_has_a_machine_for_each_operation(always: Stage) -> None:
    source = read_agent(HERE / "agents.py")
    version = always.client.deploy(source, lambda stage, message, fraction: None)["version"]
    run = always.client.start(version, "main_job", {"number": 5}, None)["id"]
    watch = Watch(always.client, run)
    always.model.let("hold main")
    watch.until("op.begin", lambda entry: entry["op"] == "wait:approve#1")
    always.client.complete(always.open_wait(run)["id"], approved=True, note="fine")
    ended = watch.ended()
    assert ended["state"] == "completed", watch
    result = ended["result"]
    assert (result["doubled"], result["again"], result["note"]) == (10, 20, "fine")
    assert 2 <= result["slept_s"] < 60
    assert watch.output() == "begun\ndoubling 5\napproved: True, fine\ndoubling 10\n"
    assert watch.count("machine.up") >= 5, watch
    assert watch.count("run.recovered") == 0
