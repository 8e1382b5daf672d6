"""A run's life, drawn: when it had a machine and when it slept. Pure.

The strip is as long as the run's life so far, and true to scale; only that no waking is drawn
narrower than can be seen. However long a log is, no more is drawn than that gives room for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torpor.core.states import FINAL

_ENDS = tuple(f"run.{state.value}" for state in FINAL)
_WAKES = ("run.started", "run.resumed", "run.recovered")
_BEGINS = ("run.created", "run.forked")
KINDS = (*_BEGINS, *_WAKES, "run.suspended", *_ENDS)

WIDTH = 1000.0
AWAKE_MIN = 3.0


@dataclass(frozen=True)
class Span:
    """A stretch of the strip. `what` is queued, running or suspended."""

    what: str
    x: float
    width: float


@dataclass(frozen=True)
class Life:
    spans: list[Span]
    began_at: float
    until: float
    sleeps: int
    lost: int  # machines


def read(entries: Iterable[Mapping[str, Any]], now: float) -> Life | None:
    """Of the entries of KINDS that the run wrote itself: what it shares with the run that it was
    forked from, it did not live. None if there are none."""
    moves: list[tuple[float, str]] = []
    sleeps = lost = 0
    ended: float | None = None
    for entry in entries:
        kind, at = entry["kind"], entry["at"]
        if kind in _ENDS:
            ended = at
        elif kind in KINDS:
            what = "queued" if kind in _BEGINS else "running"
            if kind == "run.suspended":
                what, sleeps = "suspended", sleeps + 1
            lost += kind == "run.recovered"
            moves.append((at, what))
    if not moves:
        return None
    began, until = moves[0][0], ended if ended is not None else now
    return Life(list(_spans(moves, began, max(until, began))), began, until, sleeps, lost)


def _spans(moves: list[tuple[float, str]], began: float, until: float) -> Iterable[Span]:
    """Sleeps and queues as they come, wakings over them, none where the one before it is drawn."""
    scale = WIDTH / ((until - began) or 1.0)
    ends = [at for at, _ in moves[1:]] + [until]
    awake: list[Span] = []
    drawn: dict[str, float] = {"queued": -1.0, "suspended": -1.0, "running": -1.0}
    for (at, what), end in zip(moves, ends, strict=True):
        x, right = (at - began) * scale, (end - began) * scale
        if what == "running":
            x = min(x, WIDTH - AWAKE_MIN)
            right = max(right, x + AWAKE_MIN)
        x = max(x, drawn[what])
        if right - x < (0.5 if what != "running" else AWAKE_MIN / 2):
            continue
        drawn[what] = right
        span = Span(what, round(x, 2), round(right - x, 2))
        if what == "running":
            awake.append(span)
        else:
            yield span
    yield from awake
