"""An input against an agent's description: refused naming all that is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from torpor.core.errors import Invalid
from torpor.core.inputs import check_input

TWO = [{"name": "to", "required": True}, {"name": "n", "required": False, "default": 1}]


def agent(params: list[dict[str, Any]], *, open: bool = False) -> dict[str, Any]:
    return {"name": "send", "doc": None, "params": params, "open": open}


@pytest.mark.parametrize(
    ("described", "given"),
    [
        (agent(TWO), {"to": "ana"}),
        (agent(TWO), {"to": None, "n": 2}),
        (agent([]), {}),
        (agent(TWO, open=True), {"to": "ana", "more": 1}),
    ],
)
def test_what_fits(described: dict[str, Any], given: dict[str, Any]) -> None:
    check_input(described, given)


@pytest.mark.parametrize(
    ("described", "given", "message", "hint"),
    [
        (agent(TWO), {}, "missing: to", "send takes to, n?."),
        (agent(TWO), {"x": 1, "y": 2}, "missing: to; unknown: x, y", "send takes to, n?."),
        (agent([]), {"x": 1}, "unknown: x", "send takes nothing."),
        (agent(TWO, open=True), {"x": 1}, "missing: to", "send takes to, n?."),
    ],
)
def test_what_does_not_fit_is_named(
    described: dict[str, Any], given: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(Invalid) as refused:
        check_input(described, given)
    assert refused.value.message == f"the input does not fit agent send: {message}"
    assert refused.value.hint == hint
