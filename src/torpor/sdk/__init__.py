"""What agents import as `torpor`. Standard library only, Python 3.11.

agents         which functions a run can start
steps          what happens once
waits          what a machine sleeps for
permissions    what a person is asked to allow
toolbox        functions that models call, each a step with a permission
children       other runs that a run starts
reads          time and chance, recorded
notes          log lines and emitted values
conversation   what is said, and what of it a model is sent
artifacts      files that a run publishes
leftovers      what it wrote and did not publish
identity       which run this is
warming        what is done before the first run
freezing       before and after a freeze, and standing still in between
errors         what operations raise
parameters     an agent's annotations: the schema of its input, and values of those types
results        a step's result, as its return annotation says
values         values on their way out: JSON, and bytes
arguments      what names a call: the digest of its arguments
places         places in the agent's source, for the log
operations     an operation, from its beginning to its outcome
runtime        the agent's side of every operation
current        where there is a run, and where none
lines          the agent's threads and tasks: which is running, and whether it is alone
holding        how long an operation that comes early is held
critical       the runtime's lock, and how a cancellation reaches the main thread
rest           whether the agent's process rests, and what in it goes on by itself
answers        whether a thread waits for the answer of a recorded call
looptime       event loops' time, and how it goes on over a sleep
stillness      how that process answers when it is to stand still
generators     random generators that the agent made, to be seeded anew
files          whether a step wrote files
stepfiles      what steps left in the directory, where there is no machine
process        the agent's process: its `main`
control        the channel between that process and the supervisor
entry          importing the agent's file
ahead          importing beforehand what that imports first
importing      saying what is being imported
compiled       the code of the agent's files, compiled once
libraries      which Debian package has a shared library that is missing
alone          the agent's process where there is no machine
routes         Python's own sockets, led to the gateway, where there is no machine
endpoint       the gateway where there is no machine: a thread

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
    PermissionDenied,
    RetryAfter,
    StepError,
)
from torpor.sdk.freezing import on_freeze, on_thaw
from torpor.sdk.identity import run
from torpor.sdk.notes import emit, log
from torpor.sdk.permissions import Permission, ask_permission
from torpor.sdk.reads import now, random, uuid4
from torpor.sdk.steps import step
from torpor.sdk.toolbox import Tools, tool, tools
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
    "Permission",
    "PermissionDenied",
    "RetryAfter",
    "StepError",
    "Tools",
    "Verdict",
    "WaitResult",
    "Waitpoint",
    "agent",
    "approve",
    "artifact",
    "ask_permission",
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
    "tool",
    "tools",
    "uuid4",
    "wait_all",
    "wait_any",
    "waitpoint",
    "warm",
]
