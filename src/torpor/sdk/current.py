"""How operations find the runtime of this run: one exists in an agent's process, none elsewhere.

Elsewhere is plain Python, such as a test: what needs no run works there (`outside`), all else says
where it would. A process that the agent has started as a copy of its own is neither: what is done
in it would not be in the log, so nothing is.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torpor.sdk.errors import OutsideRun

if TYPE_CHECKING:
    from torpor.sdk.runtime import Runtime

_AGENTS = "TORPOR_AGENT_PID"  # in the environment of what an agent's process has started

_runtime: Runtime | None = None
_warming = False
_forked = False


def current(what: str) -> Runtime:
    """The runtime of this run. Raises OutsideRun, saying that `what` needs one."""
    if _runtime is None or not _runtime.running:
        refuse_copies(f"torpor.{what}")
        raise OutsideRun(
            f"torpor.{what} works only inside a run: start the agent with `torpor run FILE.py`, "
            "or in a test with torpor.testing.run(agent)"
            + ("" if _runtime is None else "; it cannot be called while the file is imported")
            + ("; a warm hook is not a run" if _warming else "")
        )
    return _runtime


def outside() -> bool:
    """Whether this is plain Python: no agent's process, nor a copy of one."""
    return _runtime is None and not is_copy()


def is_copy() -> bool:
    """Whether this process was forked from an agent's, or is one of its `multiprocessing`."""
    if _forked:
        return True
    multiprocessing = sys.modules.get("multiprocessing.process")
    return (
        _runtime is None
        and _AGENTS in os.environ
        and multiprocessing is not None
        and multiprocessing.parent_process() is not None
    )


def refuse_copies(what: str) -> None:
    """Raises OutsideRun in a process that is a copy of the agent's."""
    if is_copy():
        raise OutsideRun(
            f"{what} works only in the agent's own process, and this one was started from it as a "
            "copy (os.fork, multiprocessing): return what it finds, and use torpor in the agent"
        )


def install(runtime: Runtime | None) -> None:
    global _runtime
    _runtime = runtime


def swap(runtime: Runtime | None) -> Runtime | None:
    """As `install`; what there was before."""
    before = _runtime
    install(runtime)
    return before


@contextlib.contextmanager
def warming() -> Iterator[None]:
    """While this lasts, an agent's process is plain Python: its warm hooks are run."""
    global _warming
    before, _warming = swap(None), True
    try:
        yield
    finally:
        _warming = False
        install(before)


def mark() -> None:
    """This is an agent's process, and so says the environment of all that it starts."""
    os.environ[_AGENTS] = str(os.getpid())


def forked() -> None:
    """This process is a copy of an agent's."""
    global _forked
    install(None)
    _forked = True
