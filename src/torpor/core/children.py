"""What a child that did not complete leaves to its parent, in words: as the parent's agent raises
it, and as a retry of the parent knows it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ERROR = "torpor.sdk.errors.ChildFailed"  # as the log has it


def failure(agent: str, value: Mapping[str, Any]) -> dict[str, str]:
    """The error (type, message) for what the wait for a child of `agent` ended with."""
    outcome, how = value.get("data") or {}, str(value.get("status"))
    why = ": ".join(str(outcome[key]) for key in ("type", "message") if outcome.get(key))
    return {"type": ERROR, "message": f"{agent} {how}{why and f': {why}'}"}
