"""How operations find the runtime of this run: one exists in an agent's process, none elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torpor.sdk.errors import OutsideRun

if TYPE_CHECKING:
    from torpor.sdk.runtime import Runtime

_runtime: Runtime | None = None


def current(what: str) -> Runtime:
    """The runtime of this run. Raises OutsideRun, saying that `what` needs one."""
    if _runtime is None or not _runtime.running:
        raise OutsideRun(
            f"torpor.{what} works only inside a run: start the agent with `torpor run FILE.py`"
            + ("" if _runtime is None else "; it cannot be called while the file is imported")
        )
    return _runtime


def install(runtime: Runtime | None) -> None:
    global _runtime
    _runtime = runtime
