"""The buttons under an approval, and under a permission: what each says. Pure."""

from __future__ import annotations

from typing import Any

from torpor.core import permissions
from torpor.core.errors import Invalid

APPROVE, RUN, DENY = "approve", "run", "deny"


def read(kind: str, verdict: str) -> tuple[Any, bool]:
    """`data` and `approved` of the answer. Raises Invalid."""
    if verdict in (APPROVE, DENY):
        return None, verdict == APPROVE
    if verdict == RUN and kind == permissions.KIND:
        return {"decision": permissions.RUN}, True
    choices = f"{APPROVE}, {RUN} or {DENY}" if kind == permissions.KIND else f"{APPROVE} or {DENY}"
    raise Invalid(f"the verdict must be {choices}, not {verdict[:40]!r}")
