"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

An idle stream carries a comment every HEARTBEAT_S, by which each side notices that the other is
gone. A stream ends early, without its last event, when the server stops: the client comes back
and asks for what follows the last `id` it saw.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any

from torpor.core.errors import TorporError
from torpor.core.limits import HEARTBEAT_S
from torpor.core.states import FINAL
from torpor.service.agents import Report
from torpor.service.logs import Entry, LogPage
from torpor.web.problems import problem, reported

log = logging.getLogger("torpor.api")

_HEARTBEAT = ": heartbeat\n\n"
_PAGE = 500
_FINAL_KINDS = tuple(f"run.{state.value}" for state in FINAL)

Entries = Callable[[int, int, list[str] | None], Coroutine[Any, Any, LogPage]]
Changed = Callable[[], Awaitable[None]]
Render = Callable[[Sequence[Entry]], Iterator[str]]
Work = Callable[[Report], Coroutine[Any, Any, Mapping[str, Any]]]


def event(name: str, data: Any, *, id: int | None = None) -> str:
    """One event. The JSON is ASCII: some readers break lines at U+2028 and its like."""
    head = f"id: {id}\n" if id is not None else ""
    return f"{head}event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"


async def progress(work: Work, done: str, closing: asyncio.Event) -> AsyncIterator[str]:
    """Do `work`: events of its progress, then `done` or `error`.

    A client that leaves does not stop it: a template is shared, and the next request finds it.
    """
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue()

    def report(stage: str, message: str, fraction: float | None) -> None:
        line = event("progress", {"stage": stage, "message": message, "fraction": fraction})
        loop.call_soon_threadsafe(lines.put_nowait, line)  # work may report from a thread

    task = asyncio.ensure_future(work(report))
    # After the work's last report, which came through the loop as well.
    task.add_done_callback(lambda _: loop.call_soon(lines.put_nowait, None))
    _unfinished.add(task)
    task.add_done_callback(_finished)
    while (line := await _next(lines, closing)) is not None:
        yield line
    if not task.done():
        return
    try:
        yield event(done, task.result())
    except Exception as error:
        yield _failure(error)


# The loop itself keeps only weak references to tasks.
_unfinished: set[asyncio.Future[Mapping[str, Any]]] = set()


def _finished(task: asyncio.Future[Mapping[str, Any]]) -> None:
    _unfinished.discard(task)
    if not task.cancelled():
        task.exception()  # seen: nobody may be left to read it


async def _next(lines: asyncio.Queue[str | None], closing: asyncio.Event) -> str | None:
    got = asyncio.ensure_future(lines.get())
    stop = asyncio.ensure_future(closing.wait())
    try:
        await asyncio.wait({got, stop}, timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
        if got.done():
            return got.result()
        return None if stop.done() else _HEARTBEAT
    finally:
        got.cancel()
        stop.cancel()


def seen(last_event_id: str | None) -> int:
    """The id of the last event that a client saw, as it says."""
    text = last_event_id or ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else 0


def as_entries(page: Sequence[Entry]) -> Iterator[str]:
    return (event("entry", entry, id=entry["seq"]) for entry in page)


async def follow(
    entries: Entries,
    changed: Changed,
    *,
    after: int,
    kinds: list[str] | None,
    ended: str | None,
    closing: asyncio.Event,
    render: Render = as_entries,
) -> AsyncIterator[str]:
    """A run's entries past `after`, as events that `render` makes of them, then, when it has ended,
    `end` with its state.

    `ended`: the run's final state if it had one before this was called; later ones are learned
    from the log, which holds a final entry exactly if the run has ended.
    """
    wanted = None if kinds is None else [*kinds, *_FINAL_KINDS]
    stop = asyncio.ensure_future(closing.wait())
    try:
        while True:
            # Asked before reading: what is appended in between is not missed.
            change = asyncio.ensure_future(changed())
            try:
                page, more = await entries(after, _PAGE, wanted)
                for entry in page:
                    after = entry["seq"]
                    if entry["kind"] in _FINAL_KINDS:
                        ended = entry["kind"].removeprefix("run.")
                for line in render([e for e in page if kinds is None or e["kind"] in kinds]):
                    yield line
                if more:
                    continue
                if ended is not None:
                    yield event("end", {"state": ended})
                    return
                while not change.done():
                    await asyncio.wait(
                        {change, stop},
                        timeout=HEARTBEAT_S,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    if stop.done():
                        return
                    if not change.done():
                        yield _HEARTBEAT
            finally:
                change.cancel()
    except Exception as error:
        yield _failure(error)
    finally:
        stop.cancel()


def _failure(error: Exception) -> str:
    """The event that ends a stream whose status, 200, has been sent long ago."""
    if not isinstance(error, TorporError):
        log.error("a stream failed", exc_info=error)
    return event("error", problem(reported(error)))
