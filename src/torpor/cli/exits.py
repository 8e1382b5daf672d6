"""Exit codes: one table for all commands, which `torpor --help` and docs/cli.md show."""

from __future__ import annotations

from enum import IntEnum

from torpor.core.errors import CallerError, GuestError, HostError, TorporError


class Exit(IntEnum):
    DONE = 0
    FAILED = 1
    REFUSED = 2
    UNAVAILABLE = 3
    CANCELLED = 4
    BROKEN = 5
    ASKS = 6
    INTERRUPTED = 130  # as shells have it of a program that SIGINT ended
    UNREAD = 141  # and of one that SIGPIPE did


MEANINGS = {
    Exit.DONE: "done; a run that was followed has completed",
    Exit.FAILED: "the run failed, its agent cannot be loaded, or a check found a fault",
    Exit.REFUSED: "bad usage or input: no such option, file, run or agent, or not possible now",
    Exit.UNAVAILABLE: "no server answers, or this host lacks something",
    Exit.CANCELLED: "the run that was followed was cancelled",
    Exit.BROKEN: "data is damaged, or torpor itself is at fault",
    Exit.ASKS: "a person would have to allow it first (torpor egress test)",
    Exit.INTERRUPTED: "Ctrl-C; a run that was followed goes on",
    Exit.UNREAD: "whatever was reading the output has gone",
}

# Who must act decides; the first that fits.
_OF_ERRORS: tuple[tuple[type[TorporError], Exit], ...] = (
    (CallerError, Exit.REFUSED),
    (HostError, Exit.UNAVAILABLE),
    (GuestError, Exit.FAILED),
    (TorporError, Exit.BROKEN),
)


def of_error(error: TorporError) -> Exit:
    return next(code for kind, code in _OF_ERRORS if isinstance(error, kind))


def of_run(state: str) -> Exit:
    """Of a run that was followed to its end."""
    return {"completed": Exit.DONE, "cancelled": Exit.CANCELLED}.get(state, Exit.FAILED)
