"""The agent's process: imports the agent's file, waits for a run, runs it, says how it ended.

    python3 -P -m torpor.sdk.process CONTROL_FD HOLD_FD APP_DIR [DEPS_DIR]

The supervisor starts it with stdout and stderr on pipes, JSON lines on the socket CONTROL_FD, and
the socket HOLD_FD for `freezing.hold`. `load` says which file that is; before that it may
be told to `import` some of what the file imports first (`torpor.sdk.ahead`). The agent's own code
runs in the main thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import inspect
import io
import json
import os
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from torpor.core.errors import Invalid
from torpor.core.limits import NAME_MAX
from torpor.sdk import (
    agents,
    ahead,
    current,
    files,
    importing,
    libraries,
    notes,
    values,
    warming,
)
from torpor.sdk.entry import NotImported, find_modules, import_entry
from torpor.sdk.errors import (
    Cancelled,
    Divergence,
    NonRetryable,
    RetryAfter,
    StepError,
    text_of,
    type_name,
)
from torpor.sdk.freezing import flush_output, spare_heap
from torpor.sdk.generators import generators
from torpor.sdk.leftovers import Leftovers
from torpor.sdk.looptime import move_loops_with_sleep
from torpor.sdk.runtime import Runtime
from torpor.wire import messages, names

_TOO_LARGE = (
    "the agent's result has {:,} characters of JSON; at most "
    f"{messages.ENTRY_CHARS_MAX:,} are kept. Return less, or return what is large from a step: "
    "`torpor result RUN OPERATION` gives that, up to 1 GiB"
)


def main(arguments: list[str]) -> int:
    control_fd, hold_fd, app, *deps = arguments
    for fd in (control_fd, hold_fd):
        os.set_inheritable(int(fd), False)
    generators.watch()
    move_loops_with_sleep()
    runtime = Runtime(socket.socket(fileno=int(control_fd)), int(hold_fd))
    watched = (os.path.expanduser("~"), tempfile.gettempdir())  # noqa: PTH111
    runtime.app = os.path.join(app, "")  # noqa: PTH118
    return live(runtime, deps, lambda _: (app, ""), watched=watched)


# Goes to where the agent's files are for what a message wants imported. That directory; and, if it
# is so for now only, what tells its path from all others.
Move: TypeAlias = Callable[[dict[str, Any]], tuple[str, str]]


def live(runtime: Runtime, deps: list[str], move: Move, *, watched: Iterable[str]) -> int:
    """All that an agent's process does, with `runtime` as its way to the log. What steps write is
    `watched` from the moment it is loaded: a template does already."""
    runtime.deps = tuple(os.path.join(each, "") for each in deps)  # noqa: PTH118
    current.install(runtime)
    current.mark()
    os.register_at_fork(after_in_child=runtime.forked)
    runtime.listen()
    # Started unbuffered, so that not a byte is kept below; but each piece that `print` writes
    # would be an entry in the log. By the line, as in a terminal.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, write_through=False)
    try:
        app, entry, roots = _entry_given(runtime, deps, move)
        with _importing(runtime), _copies_end():
            _import(Path(app), entry, roots)
            if runtime.machine:
                warming.run()
        files.watch(watched)
        leftovers = Leftovers()
        if runtime.machine:  # a process of its own is only then where its run is
            leftovers.look()
        gc.collect()
        spare_heap()
        found = [each.describe() for each in agents.registered().values()]
        runtime.say(names.LOADED, agents=found, default=agents.default())
    except BaseException as error:
        trace = "" if isinstance(error, NotImported) else notes.trace(error)
        try:
            problem = _load_problem(runtime, error)
        except Exception:  # what it says of itself is the agent's own code
            problem = f"{type(error).__name__}: {text_of(error)}"
        described = messages.error(type(error).__name__, problem, trace)
        runtime.say(names.LOAD_FAILED, error=described["message"], traceback=described["traceback"])
        return 1
    start = runtime.starts.get()
    _set_environment(start.get("env", {}))
    leftovers.look()
    report = _run(runtime, start["agent"], start["input"])
    sys.stdout.flush()
    sys.stderr.flush()
    if "diverged" not in report:
        _keep(leftovers, runtime)
    runtime.say(**report)
    return 0


def _entry_given(runtime: Runtime, deps: list[str], move: Move) -> tuple[str, str, Sequence[Path]]:
    """What is to be loaded, in which directory, and where its modules are; until then, what
    is to be imported ahead is."""
    roots: Sequence[Path] | None = None
    while (message := runtime.starts.get())["t"] != names.LOAD:
        app, passing = move(message)
        if message["entry"] is not None:
            roots = find_modules(Path(app), message["entry"], deps)
        if passing:  # it is found anew, elsewhere
            roots = None
        with _importing(runtime), _copies_end():
            known = message.get("known", False)
            imported = ahead.run(message["modules"], app, passing, known=known)
        runtime.say(names.IMPORTED, **imported)
    importlib.invalidate_caches()  # files have come since
    app, _ = move(message)
    runtime.app = os.path.join(app, "")  # noqa: PTH118
    entry: str = message["entry"]
    return app, entry, find_modules(Path(app), entry, deps) if roots is None else roots


def _importing(runtime: Runtime) -> contextlib.AbstractContextManager[None]:
    """While it lasts, the host hears how far it is."""

    def say(what: str) -> None:
        runtime.say(names.IMPORTING, what=what[:NAME_MAX])

    return importing.watched(say, runtime.app)


def _keep(leftovers: Leftovers, runtime: Runtime) -> None:
    """How the agent ended does not depend on it."""
    try:
        leftovers.keep(runtime)
    except (Cancelled, Divergence):
        return
    except Exception:
        traceback.print_exc()


def _set_environment(env: Mapping[str, str]) -> None:
    """The run's own variables: over the agent's, which were there when it was imported."""
    os.environ.update(env)
    if "TZ" in env:  # read once, else
        time.tzset()


def _import(app: Path, entry: str, roots: Sequence[Path]) -> None:
    import_entry(app, entry, roots)
    if not agents.registered():
        raise NotImported(
            f"{entry} defines no agent: write @torpor.agent above the function that is to run"
        )


def _load_problem(runtime: Runtime, error: BaseException) -> str:
    if text := libraries.advice(error, machine=runtime.machine):
        return f"{type(error).__name__}: {text_of(error)}\n{text}"
    match error:
        case NotImported():
            return text_of(error)
        case SystemExit():
            return (
                f"the file called sys.exit({error.code!r}) while it was imported: put what is to "
                "run only as a script under if __name__ == '__main__'"
            )
        case ModuleNotFoundError():
            return (
                f"{type(error).__name__}: {text_of(error)}; a package of PyPI is named under "
                "`dependencies` (in the file's `# /// script` block, or in pyproject.toml), a file "
                "of one's own under `include`, if nothing imports it by its name"
            )
    return f"{type(error).__name__}: {text_of(error)}"


def _run(runtime: Runtime, name: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """Run the agent; the message that says how it ended."""
    try:
        return {"t": names.DONE, "value": perform(runtime, agents.choose(name), given)}
    except BaseException as error:
        return failure(runtime, error)


class Unrecordable(Exception):
    """The agent has ended, with a result that no log can hold. `type` is how that is called."""

    def __init__(self, type: str, message: str) -> None:
        super().__init__(message)
        self.type = type


def perform(runtime: Runtime, agent: agents.Agent, given: Mapping[str, Any]) -> Any:
    """Run `agent` on this input; its result, as JSON has it. Raises what it raises, Invalid,
    Unrecordable, Divergence."""
    runtime.agent = agent.name
    call = agent.bind(given)
    asynchronous = inspect.iscoroutinefunction(agent.fn)
    with _copies_end():
        value = asyncio.run(_attached(runtime, call)) if asynchronous else call()
    runtime.finish()
    try:
        text = values.written(value)
    except values.NotJson as error:
        text = f"the agent's result cannot be recorded: {error}"
        raise Unrecordable("TypeError", text) from None
    if len(text) > messages.ENTRY_CHARS_MAX:
        raise Unrecordable("ValueError", _TOO_LARGE.format(len(text)))
    packed = json.loads(text)
    messages.encode(names.DONE, value=packed)
    return packed


@contextlib.contextmanager
def _copies_end() -> Iterator[None]:
    """A copy of this process that the agent has forked ends where it leaves the agent's code,
    however it does, as a script would: it is not the run, and says nothing for it."""
    pid, code = os.getpid(), 0
    try:
        yield
    except BaseException as error:
        if os.getpid() == pid:
            raise
        code = _exit_code(error)
    if os.getpid() != pid:
        print(
            f"torpor: a process that the agent forked left the agent's code, and ends (exit {code})"
            "; nothing of it counts for the run. End such a process with os._exit().",
            file=sys.stderr,
        )
        flush_output()
        os._exit(code)


def _exit_code(error: BaseException) -> int:
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return error.code or 0
    print(notes.trace(error), end="", file=sys.stderr)
    return 1


async def _attached(runtime: Runtime, call: Callable[[], Any]) -> Any:
    task = asyncio.current_task()
    assert task is not None
    runtime.attach(asyncio.get_running_loop(), task)
    return await call()


def failure(runtime: Runtime, error: BaseException) -> dict[str, Any]:
    """The message that says how the run failed. What an exception says of itself is the agent's own
    code: where that fails, its class is all there is to tell."""
    try:
        return _explained(runtime, error)
    except Exception:
        return _failed(type(error).__name__, text_of(error), notes.trace(error))


def _explained(runtime: Runtime, error: BaseException) -> dict[str, Any]:
    try:
        runtime.finish()
    except Divergence as divergence:
        # It may have failed for that, or that may be because it failed.
        trace = None if isinstance(error, Divergence) else notes.trace(error)
        failed = _failed("Divergence", f"{divergence.message}\n{divergence.hint}", trace)
        return failed | {"diverged": divergence.recorded["op"]}
    match error:
        case Invalid():
            return _failed("Invalid", f"{error.message}. {error.hint}".strip(), None)
        case Unrecordable():
            return _failed(error.type, text_of(error), None)
        case SystemExit():
            called = f"the agent called sys.exit({error.code!r})"
            return _failed("SystemExit", f"{called}; an agent ends by returning its result", None)
        case Cancelled() | asyncio.CancelledError() if runtime.cancel_reason is not None:
            return _failed("Cancelled", runtime.cancel_reason, None, cancelled=True)
        case StepError():
            type_, message = error.type, error.message
        case _:
            type_, message = type_name(type(error)), text_of(error)
    if text := libraries.advice(error, machine=runtime.machine):
        message = f"{message}\n{text}"
    return _failed(type_, message, notes.trace(error)) | _about_retries(error)


def _about_retries(error: BaseException) -> dict[str, Any]:
    """What the agent says of another attempt. A step's error has its class, but not its fields."""
    if isinstance(error, NonRetryable):
        return {"final": True}
    after_s = vars(error).get("after_s") if isinstance(error, RetryAfter) else None
    return {} if after_s is None else {"after_s": after_s}


def _failed(
    type: str, message: str, traceback: str | None, *, cancelled: bool = False
) -> dict[str, Any]:
    described = messages.error(type, message, traceback)
    return {"t": names.FAILED, "traceback": None, **described, "cancelled": cancelled}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
