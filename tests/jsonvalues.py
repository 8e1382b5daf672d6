"""JSON values that are taken, for tests that draw some."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from torpor.core.jsonvalues import DEPTH_MAX

# What is easily lost on the way.
ODD: list[Any] = [
    2**80,
    -(2**64),
    -0.0,
    0,
    1e308,
    5e-324,
    10**400,
    True,
    None,
    "",
    "1e5",
    "\x00",
    "🦥",
    {},
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**400), max_value=10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=10,
)


def exact(value: Any) -> str:
    """What tells True from 1, 1 from 1.0, 0.0 from -0.0."""
    return json.dumps(value)


def deep(levels: int = DEPTH_MAX) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value
