from __future__ import annotations

import pytest

from torpor.core.divergence import ON_DIVERGENCE, check_on_divergence
from torpor.core.errors import Invalid
from torpor.policy.divergence import FORKS_MAX, Fork, GoOn, Stop, decide


def test_each_word_has_its_decision() -> None:
    assert {word: decide(word, 7, 0) for word in ON_DIVERGENCE} == {
        "stop": Stop(),
        "fork": Fork(6),
        "latest": GoOn(),
    }


@pytest.mark.parametrize("word", [*ON_DIVERGENCE, "other"])
def test_a_run_stops_where_nothing_recorded_was_missed(word: str) -> None:
    assert decide(word, None, 0) == Stop()


def test_forks_do_not_go_on_for_ever() -> None:
    assert decide("fork", 7, FORKS_MAX - 1) == Fork(6)
    assert decide("fork", 7, FORKS_MAX) == Stop()
    assert decide("latest", 7, FORKS_MAX) == GoOn()


@pytest.mark.parametrize("word", ["", "Stop", None, 3, True])
def test_other_words_are_refused(word: object) -> None:
    with pytest.raises(Invalid, match=r"a\.py: on_divergence: .* is not a way to handle"):
        check_on_divergence(word, "a.py: on_divergence")
