"""What operations raise in an agent.

    BaseException
    ├── Cancelled           the run is being cancelled. Not an `Exception`, so that an agent's
    │                       `except Exception: try again` does not swallow it.
    └── Exception
        ├── StepError       a step failed; also an instance of the class that its body raised
        ├── ChildFailed     a child run did not complete
        ├── PermissionDenied    nobody allowed what a person was to allow
        ├── NonRetryable    raise it to give up without further attempts, of a step or of the run
        ├── RetryAfter      raise it to be tried again after a time
        ├── OutsideRun      an operation was called where there is no run
        └── Divergence      the log and the program disagree (`torpor.replay.journal`)

A failed step must look the same when it happens and when a later replay reads its failure from
the log, or the agent's `except` clauses would take another road the second time. So both raise
the same thing: a `StepError` made from what the log holds (type and message), which is also a
subclass of the original exception's class wherever a class of that name can be found.
`except ValueError` and `except torpor.StepError` both catch a step that raised ValueError.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from torpor.core.children import failure
from torpor.core.durations import Duration, seconds
from torpor.core.errors import Invalid
from torpor.core.permissions import Decision, denial
from torpor.replay.journal import Divergence

__all__ = [
    "Cancelled",
    "ChildFailed",
    "Divergence",
    "NonRetryable",
    "OutsideRun",
    "PermissionDenied",
    "RetryAfter",
    "StepError",
]


class Cancelled(BaseException):
    """The run is being cancelled: clean up and let it pass."""


class NonRetryable(Exception):
    """Raised in a step's body: the step fails at once, whatever its `retries`. If it ends the run,
    that is not tried again either."""


class PermissionDenied(Exception):
    """The agent may not do `action`. `reason` is what the person who denied it gave as theirs, `by`
    who that was; nobody, if it was not decided in time."""

    def __init__(self, action: str, decision: Decision) -> None:
        super().__init__(denial(decision, action))
        self.action = action
        self.reason = decision.reason
        self.by = decision.by


class RetryAfter(Exception):
    """Tried again, if at all, after so long: the step, or the run that it ends. Whether there is
    another attempt is for `retries` to say."""

    def __init__(self, after: Duration, message: str = "") -> None:
        self.after_s: float = seconds(after)
        super().__init__(message or f"to be tried again in {self.after_s:g} s")


class OutsideRun(RuntimeError):
    """An operation was called where there is no run to record it."""


class StepError(Exception):
    """A step failed for good. `step` is its name, `type` and `message` say what its body raised."""

    def __init__(self, step: str, type: str, message: str) -> None:
        # Not super(): a class made by `_both` has the body's class there, with its own signature.
        Exception.__init__(self, message)
        self.step = step
        self.type = type
        self.message = message

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        return f"StepError({self.step!r}, {self.type!r}, {self.message!r})"


class ChildFailed(Exception):
    """A child run of `agent` did not complete: `status` is "failed", "cancelled" or "timeout";
    `run` is its id; `type` and `message` say what ended it."""

    def __init__(self, agent: str, value: Mapping[str, Any]) -> None:
        super().__init__(failure(agent, value)["message"])
        ending = value.get("data") or {}
        self.agent = agent
        self.status: str = value["status"]
        self.run: str | None = value.get("by")
        self.type: str | None = ending.get("type")
        self.message: str = ending.get("message") or ""


def text_of(error: BaseException) -> str:
    """`str(error)`, which is the agent's own code, and may itself fail."""
    try:
        return str(error)
    except Cancelled:
        raise
    except BaseException as failed:
        return f"(its text cannot be shown: {type(failed).__name__})"


def traceback_of(error: BaseException) -> TracebackType | None:
    """Not by the error's own code."""
    found: TracebackType | None = vars(BaseException)["__traceback__"].__get__(error)
    return found


def refused(what: str, error: Invalid) -> ValueError:
    """What the agent gets for something that it asked for and that cannot be sent, so that it can
    handle it: nothing is recorded. The field is named as the agent knows it."""
    problem = _MESSAGE.sub("it", _FIELD.sub("", error.message))
    return ValueError(f"torpor.{what}: {problem}" + (f"; {error.hint}" if error.hint else ""))


_FIELD, _MESSAGE = re.compile(r"^message \w+(?:\.data)?\."), re.compile(r"^message \w+(?= )")


def type_name(cls: type[BaseException]) -> str:
    """How a class is written in the log: builtins by their bare name."""
    if cls.__module__ == "builtins":
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


def step_error(step: str, error: Mapping[str, Any]) -> StepError:
    """The exception for a step whose recorded error is `error`."""
    original = _find(error["type"])
    if original is not None:
        try:
            cls = _both(original)
            rebuilt = cls.__new__(cls)
            StepError.__init__(rebuilt, step, error["type"], error["message"])
            if str(rebuilt) == error["message"]:
                return rebuilt
        except Exception:
            pass  # the class cannot be combined, or made without arguments: a plain one then
    return StepError(step, error["type"], error["message"])


def _both(original: type[Exception]) -> type[StepError]:
    inside = {"__module__": original.__module__, "__getattr__": _lacks}
    return type(original.__name__, (StepError, original), inside)


def _lacks(self: StepError, name: str) -> Any:
    """What the log has not. The class's own way of finding it may need what only its __init__
    makes, and end in anything: of urllib's HTTPError in a KeyError, when it is printed."""
    raise AttributeError(f"{type(self).__name__} has no {name!r}: the log has type and message")


def _find(name: str) -> type[Exception] | None:
    parts = f"builtins.{name}".split(".") if "." not in name else name.split(".")
    for split in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:split]))
        for part in parts[split:] if found is not None else ():
            found = getattr(found, part, None)
        if isinstance(found, type) and issubclass(found, Exception):
            return None if issubclass(found, StepError) else found
    return None
