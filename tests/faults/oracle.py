"""What a run's log says about how often something may have happened, and waiting for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from torpor.contextlog.entries import DONE_AGAIN, EntryRow


def times_at_most(log: Iterable[EntryRow]) -> dict[str, int]:
    """By operation: once, and once more for each time that it is marked as done again.

    A body begins when its beginning is on its way to the log, which does not come there if the
    machine or the server is lost just then. So a loss before an operation began in the log may
    have been one in its middle, and nothing tells.
    """
    losses, most = 0, dict[str, int]()
    for entry in log:
        if entry.kind == "run.recovered":
            losses += 1
        elif entry.kind == "op.begin" and entry.data["kind"] in DONE_AGAIN:
            most[str(entry.op)] = 1 + losses
        elif entry.kind == "op.again":
            most[str(entry.op)] += 1
    return most


def payments_at_most(log: Iterable[EntryRow]) -> dict[str, int]:
    """By call of the model's: once, whatever was lost."""
    most = dict[str, int]()
    for entry in log:
        if entry.kind == "op.begin" and entry.data["kind"] == "model":
            most[str(entry.op)] = 1
        assert entry.kind != "op.again" or entry.op not in most, f"{entry.op} was repeated"
    return most


async def first(*waits: Coroutine[Any, Any, Any]) -> None:
    """Until one of them is over."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
