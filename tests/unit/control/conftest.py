from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from torpor.core.home import Home
from torpor.core.limits import ServerLimits
from torpor.policy import freeze
from torpor.testing.clock import ManualClock
from torpor.testing.fakes.plain import CALM, HASTY, Plain
from torpor.testing.fakes.world import QUICK, World


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def _limits(request: pytest.FixtureRequest, usual: ServerLimits) -> ServerLimits:
    """As a test wants them: `@pytest.mark.limits(cancel_grace_s=0.05)`."""
    for marked in reversed([*request.node.iter_markers("limits")]):
        usual = replace(usual, **marked.kwargs)
    return usual


@pytest.fixture
async def world(
    tmp_path: Path, request: pytest.FixtureRequest, anyio_backend: str
) -> AsyncIterator[World]:
    async with World(Home(tmp_path), _limits(request, QUICK)) as world:
        yield world


@pytest.fixture
async def timed(tmp_path: Path, anyio_backend: str) -> AsyncIterator[tuple[World, ManualClock]]:
    """A world in which time passes when the test says so."""
    clock = ManualClock(time.time())
    async with World(Home(tmp_path), QUICK, clock) as world:
        yield world, clock


@pytest.fixture
async def plain(
    tmp_path: Path, request: pytest.FixtureRequest, terms: freeze.Terms, anyio_backend: str
) -> AsyncIterator[Plain]:
    hasty = terms is HASTY
    usual = replace(CALM, freeze_retry_s=0.0) if hasty else CALM
    plain = Plain(tmp_path / "home", _limits(request, usual), terms)
    await plain.start()
    yield plain
    await plain.close()


@pytest.fixture
def terms(request: pytest.FixtureRequest) -> freeze.Terms:
    """When a run without a machine that waits is suspended: at once for `hasty` tests."""
    return HASTY if "hasty" in request.fixturenames else freeze.PROCESS


@pytest.fixture
def hasty() -> None:
    """A run without a machine that waits is suspended at once."""
