"""Asking a person for permission, from the agent's code (`core.permissions`).

The wait has the exact action, whose digest is that of the operation: what is asked for again in a
replay with other arguments is another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torpor.core import permissions
from torpor.core.durations import Duration, seconds
from torpor.core.errors import Invalid
from torpor.sdk import values
from torpor.sdk.current import current
from torpor.sdk.errors import PermissionDenied, refused
from torpor.sdk.operations import Operation, Outcome
from torpor.sdk.steps import refuse_inside
from torpor.sdk.waits import Ready, blocking_or_awaitable, value_of

_DIGEST_CHARS = 32


@dataclass(frozen=True)
class Permission(Ready):
    """That a person allowed an action. `decision` is "once", or "run": also whatever is asked under
    the same name later in this run. `by` is who allowed it, `note` what they added."""

    decision: str
    by: str | None = None
    note: str | None = None


def ask_permission(
    action: str,
    arguments: Any = None,
    timeout: Duration | None = None,
    reason: str | None = None,
) -> Permission:
    """Ask a person whether the agent may do `action`, with these `arguments` (JSON), and wait for
    the decision. Raises `PermissionDenied` if they deny it, or nobody decides within `timeout`.
    They see the action and its arguments, and under them the agent's `reason`."""
    what = "ask_permission"
    try:
        given = {"name": action, "arguments": values.pack(arguments)}
    except values.NotJson as error:
        raise TypeError(f"torpor.{what}: arguments cannot be sent: {error}") from None
    operation = begin(what, given, timeout, reason)
    return blocking_or_awaitable(what, operation, _permission)


def begin(
    what: str,
    action: Mapping[str, Any],
    timeout: Duration | None,
    reason: str | None = None,
    *,
    step: bool = False,
) -> Operation:
    """Ask for `action`, {name, arguments}. `step`: a step is to use the permission."""
    refuse_inside(what)
    name = str(action["name"])
    if permissions.is_request(name):
        raise ValueError(f"torpor.{what}: {name!r} is called as requests are: choose another name")
    runtime = current(what)
    fields: dict[str, Any] = {"action": dict(action)}
    fields["timeout_s"] = None if timeout is None else seconds(timeout)
    fields |= {} if reason is None else {"reason": reason}
    fields |= {"step": True} if step else {}
    digest = permissions.digest({"action": action})[:_DIGEST_CHARS]
    try:
        return runtime.begin(permissions.KIND, name, digest, fields)
    except Invalid as error:
        raise refused(what, error) from None


def allow(operation: Operation, outcome: Outcome) -> permissions.Decision:
    """The decision. Raises PermissionDenied."""
    decision = permissions.decision_of(value_of(operation, outcome))
    if not decision.allowed:
        raise PermissionDenied(operation.name, decision)
    return decision


def _permission(operation: Operation, outcome: Outcome) -> Permission:
    decision = allow(operation, outcome)
    return Permission(decision.decision, decision.by, decision.reason or None)
