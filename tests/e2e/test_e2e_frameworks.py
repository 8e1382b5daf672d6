"""A framework in a machine, whose machine, server and broker die in turn: what is paid for is paid
for once. `tests/frameworks` says how that is counted, and has the others on plain processes."""

from __future__ import annotations

import pytest
from tests.frameworks.blows import ASLEEP, Blow, InCall, faults
from tests.frameworks.matrix import FRAMEWORKS, matrix_of

BLOWS = [
    Blow("agent", InCall(1, "asked")),
    Blow("agent", "in pay 5"),
    Blow("server", InCall(2, "answering")),
    Blow("server", ASLEEP),
    Blow("agent", "after ask"),
    Blow("broker", InCall(3, "asked")),
    Blow("server", "in pay 6"),
    Blow("agent", InCall(4, "answering")),
]


@pytest.mark.usefixtures("session_stage")  # where no machine can run, this is skipped
def test_a_framework_pays_once_whatever_dies() -> None:
    with matrix_of("qemu") as matrix:
        outcome = matrix.run(FRAMEWORKS["openai"], BLOWS)
        assert faults(BLOWS, outcome) == []
