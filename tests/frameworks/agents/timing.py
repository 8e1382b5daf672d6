"""What the agents of the measurement of first calls share: one call of a framework, timed twice.

With WARM in the environment of the agent, the call is its warm hook, too.
"""

import json
import os
import time
from collections.abc import Callable

import torpor

MODEL = "gpt-fake"


def prompt(script: str) -> str:
    """What the fake model is told, which is what it will say."""
    return f"Say done. [[SCRIPT {json.dumps({'id': script, 'turns': [{'text': 'done'}]})}]]"


def measured(call: Callable[[str], object]) -> Callable[[str], object]:
    """Makes an agent that says how many seconds its first call took, and its second."""

    def main(script: str) -> list[float]:
        took = []
        for _ in range(2):
            began = time.perf_counter()
            assert call(prompt(script)) == "done"
            took.append(time.perf_counter() - began)
        return took

    torpor.agent(main)
    warm(lambda: call(prompt("warm")))
    return call


def warm(hook: Callable[[], object]) -> Callable[[], object]:
    """A warm hook, where there are to be any."""
    return torpor.warm(hook) if "WARM" in os.environ else hook
