"""What a run says without being answered: log lines, emitted values."""

from __future__ import annotations

import json
import logging
import os
import traceback
from pathlib import Path
from typing import Any

from torpor.core.errors import Invalid
from torpor.sdk import values
from torpor.sdk.current import current, outside
from torpor.sdk.errors import refused, text_of, traceback_of
from torpor.sdk.operations import inside
from torpor.wire import messages, names

LEVELS = ("debug", "info", "warning", "error")
_logger = logging.getLogger("torpor")
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
# The machinery between the agent's frames, in tracebacks that people read.
_MACHINERY = ("asyncio", "concurrent", "threading.py", "contextlib.py", "runpy.py")
_STDLIB = os.path.dirname(os.__file__)  # noqa: PTH120


def log(message: str, level: str = "info", **data: Any) -> None:
    """Write a line, with `data` (JSON) beside it, to the run's context log. `level` is "debug",
    "info", "warning" or "error". Outside a run it goes to Python's logger "torpor"."""
    if level not in LEVELS:
        raise ValueError(f"level={level!r}: one of {', '.join(LEVELS)}")
    _note("log", {"message": str(message), "level": level, "data": data})


def emit(value: Any) -> None:
    """Publish `value` (JSON) in the run's context log: an intermediate result. Outside a run it
    goes to Python's logger "torpor"."""
    _note("emit", value)


def _outside(kind: str, data: Any) -> None:
    """As `unittest` and pytest's `caplog` find it."""
    if kind == "emit":
        _logger.info("emit %s", data)
    else:
        level = getattr(logging, data["level"].upper())
        beside = f" {data['data']}" if data["data"] else ""
        _logger.log(level, "%s%s", data["message"], beside, extra={"data": data["data"]})


def _note(kind: str, data: Any) -> None:
    runtime, step = None if outside() else current(kind), inside.get()
    within = {} if step is None else {"op": step.op}
    try:
        text = values.written(data)
        if len(text) > messages.ENTRY_CHARS_MAX:
            raise Invalid(
                f"{len(text):,} characters of JSON; the limit is {messages.ENTRY_CHARS_MAX:,}",
                hint="Write it to a file, or return it from a step, and name that instead.",
            )
        if runtime is None:
            _outside(kind, json.loads(text))
        else:
            runtime.say(names.NOTE, kind=kind, data=json.loads(text), **within)
    except values.NotJson as error:
        raise TypeError(f"torpor.{kind}: {error}") from None
    except Invalid as error:
        raise refused(kind, error) from None


def trace(error: BaseException) -> str:
    """The traceback of `error` without the frames that are not the agent's. What `error` says of
    itself is the agent's own code, and may fail: then where it was raised is all."""
    try:
        return _trace(error)
    except Exception:
        places = "".join(traceback.format_tb(traceback_of(error)))
        last = f"{type(error).__name__}: {text_of(error)}"
        return f"Traceback (most recent call last):\n{places}{last}\n"


def _trace(error: BaseException) -> str:
    shown = traceback.TracebackException.from_exception(error)
    one: traceback.TracebackException | None = shown
    while one is not None:
        kept = [frame for frame in one.stack if not _is_machinery(frame.filename)]
        one.stack = traceback.StackSummary.from_list(kept)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return "".join(shown.format())


def _is_machinery(filename: str) -> bool:
    if filename.startswith((_OURS + os.sep, "<frozen ")):
        return True
    if not filename.startswith(_STDLIB + os.sep):
        return False
    return Path(filename[len(_STDLIB) + 1 :]).parts[0] in _MACHINERY
