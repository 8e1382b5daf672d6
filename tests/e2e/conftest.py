"""One image, one server, one template for all tests on real machines.

`$TORPOR_TEST_HOME` (by default `.cache/test-home` in the checkout) keeps the image from one
session to the next; runs, snapshots and processes are in a directory of the session's own, which
is gone afterwards, with everything that ran on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.stage import Model, Stage, Watch, base_home, command_of, own_home

from torpor.core.errors import TorporError
from torpor.engine.qemu.probe import find_qemu
from torpor.image.build import ensure_image
from torpor.pager.launch import require_fuse
from torpor.project.reading import read_agent

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.vm)


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    model = Model()
    yield model
    model.close()


@pytest.fixture(scope="session")
def session_stage(model: Model) -> Iterator[Stage]:
    try:
        find_qemu()
        require_fuse()
    except TorporError as error:
        pytest.skip(f"no machine can run here: {error.message}")
    base = base_home().create()
    ensure_image(base, lambda stage, message, fraction: None)
    with own_home(base) as home:
        stage = Stage(home, model)
        try:
            stage.start()
            yield stage
            stage.stop()
            assert not stage.processes(), list(map(command_of, stage.processes()))
            assert not stage.mounts()
            left = [(p.name, [q.name for q in p.iterdir()]) for p in stage.home.machines.glob("*")]
            assert not left, f"{left}\n{stage.log_end('server')}"
        finally:
            stage.clear()


@pytest.fixture(scope="session")
def version(session_stage: Stage) -> str:
    """The deployed agents."""
    source = read_agent(HERE / "agents.py")
    try:
        deployed = session_stage.client.deploy(source, lambda stage, message, fraction: None)
    except TorporError as error:
        raise AssertionError(f"{error}\n{session_stage.log_end('server')}") from error
    return str(deployed["version"])


@pytest.fixture
def stage(session_stage: Stage, version: str) -> Iterator[Stage]:
    log = session_stage.home.run / "server.log"
    began = log.stat().st_size
    yield session_stage
    # Shown if the test failed.
    print(log.read_bytes()[began:].decode(errors="replace")[-8000:])
    # What a failed test left behind is not the next one's.
    for run in session_stage.client.runs(["queued", "running", "suspended"]):
        session_stage.client.cancel(run["id"])


class Start:
    """Start a run of one of the agents and watch it."""

    def __init__(self, stage: Stage, version: str) -> None:
        self._stage, self._version = stage, version

    def __call__(
        self, agent: str, /, *, files: Mapping[str, bytes] | None = None, **given: Any
    ) -> Watch:
        run = self._stage.client.start(self._version, agent, given, None, files=files)
        return Watch(self._stage.client, run["id"])


@pytest.fixture
def start(stage: Stage, version: str) -> Start:
    return Start(stage, version)
