"""exec, shell: commands beside an agent, and this terminal's part of them.

Their exit code is the command's; one that a signal ended has 128 and the signal's number, as in a
shell. Where torpor itself could not do it, it is 125.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import Annotated, Any

import typer

from torpor.cli.environment import EnvFileOpt, read_env
from torpor.cli.options import RunArg
from torpor.cli.terminal import HERE, raw
from torpor.client import Client
from torpor.client.execs import Exec
from torpor.core.errors import Invalid, TorporError
from torpor.core.home import Home
from torpor.terminal.screen import complain, say

NOT_DONE = 125
_SIGNALLED = 128
_SIGPIPE = 13  # which Windows has no name for
_READ_BYTES = 64 * 1024
_ANYWHERE = "command -v bash >/dev/null && exec bash; exec sh"
# In bash it is made anew for each prompt: what the system sets for all shells does not replace it.
_PROMPT = r"\[\e[1;36m\]{name}\[\e[0m\]:\w\$ "

DirOpt = Annotated[
    str | None,
    typer.Option(
        "-w", "--workdir", metavar="DIR", help="Its working directory; by default the agent's."
    ),
]
UserOpt = Annotated[
    str,
    typer.Option("-u", "--user", metavar="USER", help="agent, or root (only in a machine)."),
]
CommandEnvOpt = Annotated[
    list[str] | None,
    typer.Option(
        "-e",
        "--env",
        metavar="NAME[=VALUE]",
        help="An environment variable of the command; without =VALUE, the one set here.",
    ),
]

Object = dict[str, Any]


def exec_command(
    run: RunArg,
    command: Annotated[list[str], typer.Argument(metavar="COMMAND [ARGS]...", show_default=False)],
    interactive: Annotated[
        bool,
        typer.Option(
            "-i",
            "--interactive",
            help="Pass what you type to the command. Piped input is always passed.",
        ),
    ] = False,
    terminal: Annotated[
        bool, typer.Option("-t", "--tty", help="Give the command a terminal.")
    ] = False,
    workdir: DirOpt = None,
    env: CommandEnvOpt = None,
    env_file: EnvFileOpt = None,
    user: UserOpt = "agent",
) -> None:
    """Run a command beside a run's agent: in its machine, its directory, its environment.

    Options go before RUN; everything after it belongs to the command. A sleeping run gets its
    machine for the command, and sleeps again afterwards. If you leave, the command ends.
    """
    if command[0] == "--":
        command = command[1:]
    if not command or command[0].startswith("-"):
        raise typer.BadParameter("options go before RUN, and a command after it")
    typed = _is_terminal(sys.stdin)
    if terminal:
        _require_terminal(run)
    if terminal and interactive and not typed:
        raise typer.BadParameter("-t needs a terminal, and there is none here; leave it out")
    request = {
        "command": command,
        "dir": workdir,
        "env": read_env(env, env_file),
        "user": _user(user),
        # As for docker: of a terminal that nothing is typed in, a pipe is no part.
        "stdin": interactive or not (typed or terminal or sys.stdin is None),
    }
    raise typer.Exit(_run(Client(Home.find()), run, request, terminal=terminal))


def shell(run: RunArg, workdir: DirOpt = None, user: UserOpt = "agent") -> None:
    """Open a shell beside a run's agent: in its machine, its directory, its environment.

    The agent goes on meanwhile. Ctrl-D leaves.
    """
    client = Client(Home.find())
    found = client.run(run)
    name = re.sub(r"[^A-Za-z0-9_.-]", "", f"{found['agent'] or 'agent'}-{found['id'][-6:]}")
    prompt = _PROMPT.format(name=name)
    typed = _is_terminal(sys.stdin)
    if typed:
        _require_terminal(run)
    request = {
        "command": ["sh", "-c", _ANYWHERE],
        "dir": workdir,
        "env": {"PS1": f"{name}$ ", "PROMPT_COMMAND": f"PS1='{prompt}'"},
        "user": _user(user),
        "stdin": True,
    }
    raise typer.Exit(_run(client, found["id"], request, terminal=typed))


def _user(name: str) -> str:
    if name not in ("agent", "root"):
        raise typer.BadParameter(f"--user {name!r} is neither agent nor root")
    return name


def _require_terminal(run: str) -> None:
    if not HERE:
        raise Invalid(
            "this needs a Unix terminal, which this system lacks",
            hint=f"Run commands one by one: torpor exec {run} ls",
        )


def _is_terminal(stream: Any) -> bool:
    return stream is not None and bool(stream.isatty())


def _run(client: Client, run: str, request: Object, *, terminal: bool) -> int:
    if terminal:
        size = _size()
        request |= {
            "terminal": size,
            "env": {"TERM": os.environ.get("TERM", "xterm")} | request["env"],
        }
    try:
        with client.exec(run, request) as command, ExitStack() as stack:
            return _Attendance(client, command, stack, request, terminal=terminal).code()
    except TorporError as error:
        complain(error.message, error.hint)
        return NOT_DONE


class _Attendance:
    """At a command from here, until it has ended."""

    def __init__(
        self, client: Client, command: Exec, stack: ExitStack, request: Object, *, terminal: bool
    ) -> None:
        self._client, self._command, self._stack = client, command, stack
        self._reads, self._terminal = request["stdin"], terminal
        self._interrupted = False
        self._announced = False

    def code(self) -> int:
        for event in self._command.events():
            if isinstance(event, tuple):
                stream, data = event
                _write(stream, data)
            elif "began" in event:
                self._began()
            elif "code" in event:
                if event["problem"]:
                    self._stack.close()
                    complain(event["problem"])
                number: int | None = event["signal"]
                return int(event["code"]) if number is None else _SIGNALLED + number
            elif "exec" not in event:
                self._say_why()
        return NOT_DONE

    def _began(self) -> None:
        self._announced = True
        if self._terminal and self._reads:
            self._stack.enter_context(raw(sys.stdin.fileno()))
        if self._terminal:
            self._stack.enter_context(_on(signal.SIGWINCH, self._resize))
        else:
            self._stack.enter_context(_on(signal.SIGINT, self._interrupt))
        self._stack.enter_context(_on(signal.SIGTERM, lambda: self._send("TERM")))
        if self._reads:
            threading.Thread(target=self._feed, daemon=True).start()

    def _feed(self) -> None:
        with suppress(TorporError, OSError):  # its end is reported where it is awaited
            self._command.feed(iter(lambda: os.read(sys.stdin.fileno(), _READ_BYTES), b""))

    def _interrupt(self) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        self._send("INT")

    def _resize(self) -> None:
        self._ask(lambda: self._command.resize(**_size()))

    def _send(self, name: str) -> None:
        self._ask(lambda: self._command.signal(name))

    def _ask(self, do: Callable[[], None]) -> None:
        with suppress(TorporError):  # it has just ended, or its end is reported anyway
            do()

    def _say_why(self) -> None:
        """It has not begun for a while."""
        if not self._announced:
            self._announced = True
            why = self._client.run(self._command.run)["queued_because"]
            say(f"waits for the run's machine{f': {why}' if why else ''}", "dim")


def _write(stream: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(stream, data) :]
    except BrokenPipeError as error:  # whoever read us has left, and the command ends for it
        raise typer.Exit(_SIGNALLED + _SIGPIPE) from error


def _size() -> Object:
    for fd in (0, 1, 2):
        try:
            cols, rows = os.get_terminal_size(fd)
        except OSError:
            continue
        if rows and cols:
            return {"rows": rows, "cols": cols}
    return {"rows": 24, "cols": 80}


@contextmanager
def _on(number: int, do: Callable[[], None]) -> Iterator[None]:
    def handle(number: int, frame: FrameType | None) -> None:
        do()

    before = signal.signal(number, handle)
    try:
        yield
    finally:
        signal.signal(number, before)
