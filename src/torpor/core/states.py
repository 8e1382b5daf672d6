"""A run's life, as a table.

                 ┌──────────────────────────────┐
                 ▼                              │ resume: a wait completed, or the run was
    queued ──► running ──► suspended ───────────┘         handed over and a server is back
                 │  ▲          │
                 │  └ recover ─┤
                 ▼             ▼
        completed | failed | cancelled

`queued`: waiting for a machine. `running`: a machine of its newest epoch exists or is being
started. `suspended`: frozen; no process of the run exists; it is claimable again once `ready`:
a wait of it has completed, or it was frozen at work, by a server that stopped (handed over). The
last three are final.
"""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUSPENDED = "suspended"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = frozenset({RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED})
UNFINISHED = tuple(state for state in RunState if state not in FINAL)

# from → what may follow. RUNNING → RUNNING is a recovery: the machine was lost, a new epoch began.
# RUNNING → SUSPENDED is a freeze, while the run waits or when it is handed over.
TRANSITIONS: dict[RunState, frozenset[RunState]] = {
    RunState.QUEUED: frozenset({RunState.RUNNING, RunState.CANCELLED, RunState.FAILED}),
    RunState.RUNNING: frozenset({RunState.RUNNING, RunState.SUSPENDED}) | FINAL,
    RunState.SUSPENDED: frozenset({RunState.RUNNING, RunState.CANCELLED, RunState.FAILED}),
    RunState.COMPLETED: frozenset(),
    RunState.FAILED: frozenset(),
    RunState.CANCELLED: frozenset(),
}


def may_follow(now: RunState, then: RunState) -> bool:
    return then in TRANSITIONS[now]


RELOADED = "Reloaded"  # the error's type of a run that was ended since newer code goes on with it
