"""A part of the matrix, on plain processes: `scripts/frameworks.py` runs all of it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.frameworks.blows import ASLEEP, Blow, InCall, Place, Victim, faults, sweep
from tests.frameworks.matrix import FRAMEWORKS, Matrix, matrix_of

# One of each kind, for frameworks that take seconds to import.
SOME: tuple[Place, ...] = (
    InCall(1, "asked"),
    "in pay 5",
    InCall(2, "answering"),
    "after ask",
    InCall(3, "asked"),
    "after pay 6",
)


def some(victim: Victim) -> list[Blow]:
    return [Blow(victim, place) for place in SOME]


@pytest.fixture(scope="module")
def matrix() -> Iterator[Matrix]:
    with matrix_of("process") as matrix:
        yield matrix


def test_agents_survive_their_process_dying(matrix: Matrix) -> None:
    """All at once: most of the time each waits until it may sleep."""
    plans = {
        "openai": sweep("agent", "process"),
        "responses": some("agent"),
        "agents-sdk": some("agent"),
        "pydantic-ai": some("agent"),
        "langgraph": some("agent"),
    }
    with ThreadPoolExecutor(len(plans)) as pool:
        runs = {
            name: pool.submit(matrix.run, FRAMEWORKS[name], blows) for name, blows in plans.items()
        }
    assert {name: faults(plans[name], run.result()) for name, run in runs.items()} == {
        name: [] for name in plans
    }


@pytest.mark.parametrize(
    ("framework", "blows"),
    [
        ("responses", [*some("server"), Blow("server", ASLEEP)]),
        ("openai", [*some("broker"), Blow("broker", ASLEEP)]),
    ],
)
def test_agents_survive_what_carries_them_dying(
    matrix: Matrix, framework: str, blows: list[Blow]
) -> None:
    assert faults(blows, matrix.run(FRAMEWORKS[framework], blows)) == []
