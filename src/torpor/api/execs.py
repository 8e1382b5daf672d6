"""Commands beside an agent, over HTTP: one response that streams what a command writes, in frames
(`torpor.core.execs`), and requests beside it for what it reads, for signals, for its terminal.

What it reads is the body of a request, taken as it comes and no faster than the command takes it;
what it writes is sent as the client takes it. A client that goes away ends its command.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from pydantic import Field
from starlette.types import Receive, Scope, Send

from torpor.api import access
from torpor.api.routing import Router, Uses
from torpor.core import execs
from torpor.core.errors import TorporError
from torpor.core.execs import COMMAND_CHARS_MAX, DIR_CHARS_MAX, SIDE_MAX, CommandRequest, Size
from torpor.core.limits import HEARTBEAT_S
from torpor.service.execs import Ended, Exec
from torpor.web.problems import problem
from torpor.web.requests import Strict, Text

SOON_S = 2.0  # after which a client may want to know why nothing has begun


class Terminal(Strict):
    rows: int = Field(ge=1, le=SIDE_MAX)
    cols: int = Field(ge=1, le=SIDE_MAX)


class ExecRequest(Strict):
    command: list[Annotated[Text, Field(max_length=COMMAND_CHARS_MAX)]] = Field(
        min_length=1, max_length=execs.ARGUMENTS_MAX, description="a program and its arguments"
    )
    dir: Annotated[Text, Field(min_length=1, max_length=DIR_CHARS_MAX)] | None = Field(
        default=None, description="by default the agent's directory; a relative path is below it"
    )
    env: dict[str, str] = Field(default={}, description="overrides the agent's")
    user: Literal["agent", "root"] = "agent"
    stdin: bool = Field(default=False, description="another request brings its input")
    terminal: Terminal | None = Field(default=None, description="give it a terminal of this size")

    def command_line(self) -> CommandRequest:
        terminal = self.terminal
        size = None if terminal is None else Size(terminal.rows, terminal.cols)
        root = self.user == "root"
        return CommandRequest(tuple(self.command), self.dir, self.env, root, self.stdin, size)


class ExecChange(Strict):
    signal: Literal["HUP", "INT", "QUIT", "KILL", "TERM", "USR1", "USR2"] | None = None
    terminal: Terminal | None = None


router = Router("/v1/runs/{ref}/execs")


@router.post("", response_class=StreamingResponse)
async def execute(
    ref: str, body: ExecRequest, request: Request, service: Uses
) -> StreamingResponse:
    """Run a command beside the run's agent, as its user, in its directory, with its environment. A
    sleeping run gets its machine for that. The response is a stream of frames: one byte for the
    kind (0 an event, which is JSON; 1 stdout; 2 stderr), four for the length, and that many bytes.
    Events are `{exec, run}`, `{began: true}`, `{}` from time to time, and last `{code, signal,
    problem}` or `{error}`. The command ends with this request.
    """
    command = await service.execs.start(ref, body.command_line(), access.who(request))
    return _Frames(command)


@router.put("/{exec}/stdin", status_code=204)
async def stdin(ref: str, exec: str, request: Request, service: Uses) -> Response:
    """Stream the command's input: the body, as it comes. The end of the body ends the input."""
    command = await service.execs.get(ref, exec)
    async for chunk in request.stream():
        await command.feed(chunk)
        if command.end is not None:
            break
    await command.feed(b"", last=True)
    return Response(status_code=204)


@router.patch("/{exec}", status_code=204)
async def change(ref: str, exec: str, body: ExecChange, service: Uses) -> Response:
    """Send a signal to the command's process group, or resize its terminal."""
    command = await service.execs.get(ref, exec)
    if body.terminal is not None:
        command.resize(Size(body.terminal.rows, body.terminal.cols))
    if body.signal is not None:
        command.signal(body.signal)
    return Response(status_code=204)


class _Frames(StreamingResponse):
    """Whatever ends it, even before it begins, ends the command."""

    def __init__(self, command: Exec) -> None:
        super().__init__(_frames(command), media_type=execs.MEDIA_TYPE)
        self._command = command

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._command.cut_off(TorporError("the client went away"))


async def _frames(command: Exec) -> AsyncIterator[bytes]:
    yield execs.event(exec=command.id, run=command.run)
    began = False
    while True:
        written = await command.changes(HEARTBEAT_S if began else SOON_S)
        if command.begun and not began:
            began = True
            yield execs.event(began=True)
        for each in written:
            yield execs.frame(each.stream, each.data)
            command.took(len(each.data))
        if written:
            continue
        if command.end is not None:
            yield _last(command.end)
            return
        yield execs.event()


def _last(end: Ended | TorporError) -> bytes:
    if isinstance(end, TorporError):
        return execs.event(error=problem(end))
    return execs.event(code=end.code, signal=end.signal, problem=end.problem)
