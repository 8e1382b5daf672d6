"""Importing ahead: what an agent's file imports first anyway, before that file is here.

The machine is then kept as a base for this and later versions of the agent (`worker.bases`), if
nothing tells the difference. Two things could. An import that *fails*, or opens a file of the
agent's own: in its place is an empty one, as only the names are known yet. The host then begins
again, and the agent's file imports all by itself. And an import that leaves something behind that
is *unfit* to be kept: threads of its own, a child process, sockets, hooks for the freeze. The agent
goes on with that as ever, but no base is made of it.

A plain process does the same before it knows its run (`worker.spares`). Then the empty files, and
its home, are in a place that it leaves for its run's: who remembers that place is unfit, too.
"""

from __future__ import annotations

import gc
import os
import stat
import sys
import threading
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Any

from torpor.core.layout import OURS
from torpor.sdk import files, freezing, rest
from torpor.sdk.entry import forget_modules
from torpor.sdk.errors import text_of

_SHOWN_MAX = 500
_FLAT = frozenset((tuple, list, set, frozenset))


def run(
    modules: Iterable[Mapping[str, Any]], app: str, passing: str = "", *, known: bool = False
) -> dict[str, str]:
    """Import them in order, as the statements `import module` and `from module import names` do.
    `app` has the agent's files; if it is left afterwards, `passing` is what tells its path from all
    others. It takes long to see who remembers that: of what is `known` it was seen before. What is
    to be reported: `failed`, `unfit`."""
    threads, sockets = set(threading.enumerate()), _sockets()
    found_in = list(sys.path)
    opened = files.Changes([app], files.OPENED, besides=[OURS])
    before = opened.mark()
    try:
        for each in modules:
            __import__(each["module"], {}, {}, each["names"], 0)
    except BaseException as error:
        return {"failed": f"{type(error).__name__}: {text_of(error)}"[:_SHOWN_MAX]}
    finally:
        touched = opened.mark() != before or opened.is_partial
        opened.close()
    if touched:
        return {"failed": "a file of the agent's own was opened"}
    freezing.flush_output()  # whether they printed something is the host's to see
    gc.collect()
    found = _left(threads, sockets)
    if passing and not found:
        found = "sys.path was changed" if sys.path != found_in else ""
        forget_modules(app)
        os.environ.pop("HOME", None)  # it gets its run's
        del opened, found_in
        found = found or ("" if known else _remembered(passing))
    freezing.spare_heap()
    return {"unfit": found} if found else {}


def _left(threads: set[threading.Thread], sockets: set[str]) -> str:
    if started := set(threading.enumerate()) - threads:
        return f"a thread was started: {started.pop().name}"[:_SHOWN_MAX]
    if rest.has_children():
        return "a process was started"
    if _sockets() - sockets:
        return "a socket was opened"
    return "hooks were set" if freezing.hooked(thaws=True) else ""


def _remembered(name: str) -> str:
    """Whether anything has `name` as a part of a text; without closures, which would."""
    raw = os.fsencode(name)
    for each in gc.get_objects():
        if type(each) is FrameType:  # ours are among them
            continue
        for one in gc.get_referents(each):
            # What has nothing but texts in it is not among the collector's objects.
            inside = one.values() if type(one) is dict else one if type(one) in _FLAT else (one,)
            for text in inside:
                kind = type(text)
                if (kind is str and name in text) or (kind is bytes and raw in text):
                    return "it remembers the directory where it was imported"
    return ""


def _sockets() -> set[str]:
    """What tells the sockets of this process apart."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            status = os.fstat(int(fd))
        except OSError:
            continue  # the one of the listing
        if stat.S_ISSOCK(status.st_mode):
            found.add(f"{status.st_dev}:{status.st_ino}")
    return found
