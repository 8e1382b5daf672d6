"""The time and chance, read once: `now`, `random` and `uuid4` are operations whose value is in
the log, so that a replay reads the same. In a step's body they are not, since the step
is the operation; nor are they outside a run.
"""

from __future__ import annotations

import random as _random
import secrets
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from torpor.sdk import arguments
from torpor.sdk.current import current, outside
from torpor.sdk.operations import Outcome, inside

_SEED_BITS = 128


def now() -> datetime:
    """The time, with time zone UTC."""
    clock = time.time if outside() else current("now").time
    return datetime.fromtimestamp(_read("now", clock), UTC)


def random() -> _random.Random:
    """A generator of its own, whose seed is recorded: what it draws is the same on replay."""
    # As text: not every reader of JSON keeps so large a number exact.
    return _random.Random(int(_read("random", lambda: f"{secrets.randbits(_SEED_BITS):x}"), 16))


def uuid4() -> uuid.UUID:
    """A random UUID."""
    return uuid.UUID(_read("uuid4", lambda: str(uuid.uuid4())))


def _read(name: str, read: Callable[[], Any]) -> Any:
    if outside():
        return read()
    runtime = current(name)
    if inside.get() is not None:
        return read()
    operation = runtime.begin("read", name, arguments.digest(), {})
    if not operation.future.done():
        runtime.end(operation, Outcome(True, value=read()))
    return operation.block().value
