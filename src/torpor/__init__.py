"""torpor: durable AI agents that sleep for free.

On the host this package is the server, the engines and the command line. Inside a machine the
same name offers what agents import (`torpor.agent`, `torpor.step`, ...): those names live in
`torpor.sdk` and are reached through here, so that an agent is an ordinary program that says
`import torpor`. `torpor.testing` runs agents in tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torpor.sdk import (
        Artifact,
        Cancelled,
        Child,
        ChildFailed,
        Children,
        Divergence,
        NonRetryable,
        OutsideRun,
        RetryAfter,
        StepError,
        Verdict,
        Waitpoint,
        WaitResult,
        agent,
        approve,
        artifact,
        checkpoint,
        context,
        emit,
        event,
        log,
        now,
        on_freeze,
        on_thaw,
        random,
        run,
        sleep,
        sleep_until,
        spawn,
        spawn_many,
        step,
        uuid4,
        wait_all,
        wait_any,
        waitpoint,
        warm,
    )

__version__ = "0.1.0"

# As `torpor.sdk.__all__`, in words that editors and type checkers read without running anything.
__all__ = [
    "Artifact",
    "Cancelled",
    "Child",
    "ChildFailed",
    "Children",
    "Divergence",
    "NonRetryable",
    "OutsideRun",
    "RetryAfter",
    "StepError",
    "Verdict",
    "WaitResult",
    "Waitpoint",
    "agent",
    "approve",
    "artifact",
    "checkpoint",
    "context",
    "emit",
    "event",
    "log",
    "now",
    "on_freeze",
    "on_thaw",
    "random",
    "run",
    "sleep",
    "sleep_until",
    "spawn",
    "spawn_many",
    "step",
    "uuid4",
    "wait_all",
    "wait_any",
    "waitpoint",
    "warm",
]


if not TYPE_CHECKING:  # which would take any name then

    def __getattr__(name: str) -> Any:
        # Late, so that host processes do not load the SDK and the guest loads nothing else.
        # (`from torpor import sdk` would ask this very function for `sdk`.)
        if name in __all__:
            import torpor.sdk as sdk

            return getattr(sdk, name)
        raise AttributeError(f"module 'torpor' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
