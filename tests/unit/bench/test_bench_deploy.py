"""The figures of deployments, and that the agents that are edited are what they should be."""

from __future__ import annotations

from torpor.bench.deploy import AGENTS, CHANGED_MS, DEPENDENCIES, Took, figures
from torpor.core.imports import leading_imports


def test_the_slowest_change_is_held_to_the_bar_and_shown_beside_the_whole() -> None:
    took = Took(full=12_000.0, changed=[1000.0, 2000.0, 5001.0], same=9.0)
    full, middle, slowest, same = figures(AGENTS[0], took)
    assert (full.value, middle.value, slowest.value, same.value) == (12_000.0, 2000.0, 5001.0, 9.0)
    assert (slowest.bar, slowest.met, middle.bar) == (CHANGED_MS, False, None)
    assert slowest.peers == {"in full": 12_000.0}
    assert len({figure.key for agent in AGENTS for figure in figures(agent, took)}) == 8


def test_edits_change_nothing_of_what_comes_first() -> None:
    for agent in AGENTS:
        one, two = agent.edited(1), agent.edited(2)
        assert one.files != two.files
        ahead = leading_imports(one.files, one.entry)
        assert ahead == leading_imports(two.files, two.entry)
        assert {each.module for each in ahead} == {"torpor", *agent.dependencies}
    assert AGENTS[1].dependencies == DEPENDENCIES
