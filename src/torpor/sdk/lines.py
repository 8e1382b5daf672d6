"""The lines of the agent (`torpor.replay.journal`): which is running, and whether it is alone."""

from __future__ import annotations

import asyncio
import threading
from typing import Any


class Lines:
    """`own` are the threads that are torpor's and none of the agent's."""

    def __init__(self, *own: threading.Thread) -> None:
        self.own = set(own)
        self.main_thread = threading.main_thread()  # which runs the agent
        self.main_task: asyncio.Task[Any] | None = None  # of an async agent

    def is_side(self) -> bool:
        """Whether another than the main line is running."""
        task = _current_task()
        if self.main_task is not None:
            return task is not self.main_task
        return task is not None or threading.current_thread() is not self.main_thread

    def is_alone(self) -> bool:
        """Whether no other line is alive than that which is running."""
        if not {threading.current_thread(), *self.own}.issuperset(threading.enumerate()):
            return False
        task = _current_task()
        return task is None or asyncio.all_tasks() == {task}


def in_event_loop() -> bool:
    """Whether this thread runs an event loop just now."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
