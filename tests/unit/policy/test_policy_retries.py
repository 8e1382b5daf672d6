from __future__ import annotations

import pytest

from torpor.core.ids import OpId
from torpor.core.rules import parse_rules
from torpor.policy.retries import RUN_BACKOFF_S_MAX, Failure, Retry, decide

RULES = parse_rules({"retries": 3, "retry_backoff": "8s", "memory_max": "1G"}, "rules")
ERROR = Failure("ValueError")


def test_it_backs_off_twice_as_long_each_time_with_jitter() -> None:
    assert decide(ERROR, 1, RULES, 512, 1.0) == Retry(8.0)
    assert decide(ERROR, 1, RULES, 512, 0.0) == Retry(4.0)
    assert decide(ERROR, 3, RULES, 512, 1.0) == Retry(32.0)
    assert decide(ERROR, 4, RULES, 512, 1.0) is None
    patient = parse_rules({"retries": 1000, "retry_backoff": "1h"}, "rules")
    assert decide(ERROR, 900, patient, 512, 1.0) == Retry(RUN_BACKOFF_S_MAX)


@pytest.mark.parametrize(
    "failure",
    [
        Failure("CannotRestore"),
        Failure("Overran"),
        Failure("Invalid"),
        Failure("ValueError", final=True),
        Failure("ValueError", diverged=OpId("step:a#1")),
    ],
)
def test_what_would_come_to_the_same_is_not_tried_again(failure: Failure) -> None:
    assert decide(failure, 1, RULES, 512, 1.0) is None


def test_an_agent_may_say_when() -> None:
    assert decide(Failure("ValueError", after_s=60), 1, RULES, 512, 1.0) == Retry(60.0)
    assert decide(Failure("ValueError", after_s=60), 4, RULES, 512, 1.0) is None


@pytest.mark.parametrize("kind", ["OutOfMemory", "MemoryError"])
def test_out_of_memory_it_gets_more_while_there_is(kind: str) -> None:
    full = Failure(kind)
    assert decide(full, 9, RULES, 512, 1.0) == Retry(0.0, 1024, counts=False)
    assert decide(full, 1, RULES, 768, 1.0) == Retry(0.0, 1024, counts=False)
    assert decide(full, 4, RULES, 1024, 1.0) is decide(full, 4, RULES, None, 1.0) is None
    assert decide(full, 1, parse_rules({}, "rules"), 512, 1.0) is None
