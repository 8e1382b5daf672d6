"""What the main thread is importing, said once a second: an import may take minutes."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator

EVERY_S = 1.0


@contextlib.contextmanager
def watched(say: Callable[[str], object], app: str) -> Iterator[None]:
    """While this lasts, `say` is given what the calling thread is importing: a module, or a line of
    the agent's own files, which are below `app`."""
    thread, ended = threading.get_ident(), threading.Event()

    def watch() -> None:
        while not ended.wait(EVERY_S):
            if what := imported(thread, app):
                say(what)

    watcher = threading.Thread(target=watch, name="torpor-importing", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def imported(thread: int, app: str) -> str:
    """The module whose body `thread` runs, or the line of the agent's own that it is at, be it in a
    function; "" if it has not begun with the agent's file."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        file = frame.f_code.co_filename
        if app and file.startswith(app):
            return f"{os.path.relpath(file, app)}:{frame.f_lineno}"
        if frame.f_code.co_name == "<module>":
            name = str(frame.f_globals.get("__name__"))
            return "" if name == "__main__" else name
        frame = frame.f_back
    return ""
