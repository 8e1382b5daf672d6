"""Places in the agent's source, as they are written in the log."""

from __future__ import annotations

import os
import sys
from types import FrameType

from torpor.wire import messages

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
_STDLIB = os.path.dirname(os.__file__) + os.sep  # noqa: PTH120


def place(app: str, file: str, line: int) -> str:
    """`app` is the directory of the agent's files, ending in a separator."""
    shown = file[len(app) :] if app and file.startswith(app) else file
    return f"{shown}:{line}"[-messages.PLACE_MAX :]


def caller(app: str) -> str:
    """Where in the agent's own source the operation was called that asks; "" if a library calls
    it."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    if frame is None or frame.f_code.co_filename.startswith((_STDLIB, "<frozen ")):
        return ""
    return place(app, frame.f_code.co_filename, frame.f_lineno)
