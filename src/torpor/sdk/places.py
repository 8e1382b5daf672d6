"""Places in the agent's source, as they are written in the log."""

from __future__ import annotations

import os
import sys
from types import FrameType

from torpor.wire import messages

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
_STDLIB = os.path.dirname(os.__file__) + os.sep  # noqa: PTH120
_NOT_THE_AGENTS = (_PACKAGE + os.sep, _STDLIB, "<")
_INSTALLED = f"{os.sep}site-packages{os.sep}"


def place(app: str, file: str, line: int) -> str:
    """`app` is the directory of the agent's files, ending in a separator."""
    shown = file[len(app) :] if app and file.startswith(app) else file
    return f"{shown}:{line}"[-messages.PLACE_MAX :]


def caller(app: str, deps: tuple[str, ...] = ()) -> str:
    """Where in the agent's own source the operation was called that asks, be it by way of a
    library; "" if none of it is below, as in a thread of a library's. `deps` are directories as
    `app`, which may be in it."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_NOT_THE_AGENTS) and _is_own(file, app, deps):
            return place(app, file, frame.f_lineno)
        frame = frame.f_back
    return ""


def _is_own(file: str, app: str, deps: tuple[str, ...]) -> bool:
    return file.startswith(app) and not file.startswith(deps) and _INSTALLED not in file[len(app) :]
