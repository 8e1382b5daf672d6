"""What agents import as `torpor`. Standard library only, Python 3.11.

    agents      which functions a run can start        steps      what happens once
    waits       what a machine sleeps for              notes      what goes into the context log
    children    other runs that a run starts           reads      the time and chance, recorded
    conversation   what is said, and what of it a model is sent
    artifacts   files that a run publishes             leftovers  what it wrote and did not
    identity    which run this is                      freezing   before and after a freeze
    warming     what is done before the first run
    operations  one of them, from its beginning to its outcome
    runtime     the agent's side of every operation    process    the agent's process: its `main`
    current     where there is a run, and where none   endpoint   model calls, without a supervisor
    alone       that process where there is no machine

Importing it works anywhere, so that an agent's parts can be tried and tested as ordinary Python;
operations need a run and say so.
"""

from torpor.sdk.agents import agent
from torpor.sdk.artifacts import Artifact, artifact
from torpor.sdk.children import Child, Children, spawn, spawn_many
from torpor.sdk.conversation import context
from torpor.sdk.errors import (
    Cancelled,
    ChildFailed,
    Divergence,
    NonRetryable,
    OutsideRun,
    RetryAfter,
    StepError,
)
from torpor.sdk.freezing import on_freeze, on_thaw
from torpor.sdk.identity import run
from torpor.sdk.notes import emit, log
from torpor.sdk.reads import now, random, uuid4
from torpor.sdk.steps import step
from torpor.sdk.waits import (
    Verdict,
    Waitpoint,
    WaitResult,
    approve,
    checkpoint,
    event,
    sleep,
    sleep_until,
    wait_all,
    wait_any,
    waitpoint,
)
from torpor.sdk.warming import warm

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
