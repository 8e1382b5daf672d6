"""mcp: runs and waits as tools for an agent elsewhere, by the Model Context Protocol over stdio.

`torpor mcp` is started by its client, and speaks to the server as every command does: over the Unix
socket, or to TORPOR_URL with TORPOR_API_KEY, whose scopes then say what its tools can do. With
--readonly it has no tool that starts or answers anything.

Each agent that is deployed has a tool that starts it, whose input is that of its annotations.

What a tool gives is JSON, as the API's. What cannot be done is the tool's error, in words.
"""

from __future__ import annotations

import asyncio
import base64
import codecs
import json
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from torpor.cli.host import connect
from torpor.client import Client
from torpor.core import permissions
from torpor.core.errors import Forbidden, Missing, TorporError

Object = dict[str, Any]

_LOG_MAX = 200
_TOOL_NAME_MAX = 64
_TOOL_ROWS_MAX = 200
_CONTENT_MAX = 100_000
_VIEWS = (
    "runs, log, messages, model_calls, tool_calls, steps, waits, snapshots, egress, output; "
    "SELECT * FROM view LIMIT 1 shows its columns; times are unix seconds"
)


def mcp(
    readonly: Annotated[
        bool, typer.Option("--readonly", help="Only tools that change nothing.")
    ] = False,
) -> None:
    """Serve runs, waits and SQL as tools of the Model Context Protocol."""
    try:
        from mcp.server.mcpserver import MCPServer
    except ImportError as error:
        raise Missing("the package mcp is not installed", hint="Install torpor[mcp].") from error
    client = connect()
    starting = [] if readonly else agent_tools(client)
    server = MCPServer(
        "torpor",
        instructions="Runs of durable agents, and what they wait for.",
        tools=starting,
        log_level="WARNING",  # its client shows what is said on stderr
    )
    offer(server, client, readonly=readonly)
    asyncio.run(server.run_stdio_async())


def offer(server: Any, client: Client, *, readonly: bool) -> None:
    """Add the tools to a server."""
    from mcp.types import ToolAnnotations

    for tool in tools(client, readonly=readonly):
        reads = tool.__name__ not in _CHANGE
        hints = ToolAnnotations(
            read_only_hint=reads, destructive_hint=tool.__name__ == "cancel_run"
        )
        server.add_tool(tool, annotations=hints)


def agent_tools(client: Client) -> list[Any]:
    """A tool for each agent that is deployed now, whose `input` has the schema of the agent's."""
    try:
        found = [
            (f"{one['name']}:{agent['name']}", agent)
            for each in client.agents()
            for one in each["current"]
            for agent in each["agents"]
            if "schema" in agent
        ]
    except TorporError:  # the key may not list them; start_run is there all the same
        return []
    return [_agent_tool(client, ref, agent) for ref, agent in dict(found).items()]


def _agent_tool(client: Client, ref: str, agent: Object) -> Any:
    from mcp.server.mcpserver.tools import Tool
    from mcp.types import ToolAnnotations

    async def start(input: dict[str, Any], idempotency_key: str | None = None) -> str:
        return await reply_of(lambda: client.start(None, ref, input, idempotency_key))

    name = re.sub(r"[^A-Za-z0-9_.-]", "_", f"start_{ref}")[:_TOOL_NAME_MAX]
    about = f"Start a run of the agent {ref}. {agent['doc'] or ''}".strip()
    hints = ToolAnnotations(read_only_hint=False, destructive_hint=False)
    tool = Tool.from_function(start, name=name, description=about, annotations=hints)
    schema = {key: value for key, value in agent["schema"].items() if key != "$schema"}
    parameters = {**tool.parameters, "$defs": schema.pop("$defs", {})}
    parameters["properties"] = {**tool.parameters["properties"], "input": schema}
    return tool.model_copy(update={"parameters": parameters})


_CHANGE = ("start_run", "answer_wait", "cancel_run")


def tools(client: Client, *, readonly: bool) -> list[Callable[..., Any]]:
    """Their names, parameters and docstrings are what a model learns of them."""

    async def list_agents() -> str:
        """List deployed agents: versions, names, the JSON Schemas of their inputs."""
        return await reply_of(client.agents)

    async def list_runs(state: str | None = None, limit: int = 20) -> str:
        """List runs, newest first. `state`: queued, running, suspended, completed, failed,
        cancelled.
        """
        limit = min(max(limit, 1), _TOOL_ROWS_MAX)
        return await reply_of(lambda: client.runs([state] if state else [], limit=limit))

    async def show_run(run: str) -> str:
        """Everything about one run: state, result or error, what it waits for, its cost."""
        return await reply_of(lambda: client.run(run))

    async def read_log(run: str, after: int = 0) -> str:
        """The next entries of a run's context log after position `after`, at most 200. If `more`,
        others follow.
        """
        return await reply_of(lambda: client.page(run, after=after, limit=_LOG_MAX)._asdict())

    async def list_artifacts(run: str) -> str:
        """List the files that a run published, then those that were kept when it ended."""
        return await reply_of(lambda: client.artifacts(run))

    async def read_artifact(run: str, name: str, version: int | None = None) -> str:
        """The text of a run's artifact, cut after 100,000 characters; other bytes as base64
        (`encoding`).
        """
        return await reply_of(lambda: _content(client.artifact(run, name, version=version)))

    async def list_waits(run: str | None = None) -> str:
        """List open questions: prompts, data, and what an answer must look like."""
        return await reply_of(lambda: client.waits(run))

    async def query(sql: str) -> str:
        return await reply_of(lambda: client.query(sql, limit=_TOOL_ROWS_MAX))

    query.__doc__ = f"Ask by SQL (SQLite's, read-only; 200 rows). Views: {_VIEWS}."

    async def start_run(
        input: dict[str, Any],
        agent: str | None = None,
        version: str | None = None,
        idempotency_key: str | None = None,
        env: dict[str, str] | None = None,
    ) -> str:
        """Start a run of an agent (see list_agents) on an input, by its name and by default with
        its current version. The same idempotency key again is the same run. `env` are the run's
        environment variables; do not put secrets there.
        """
        more = {"env": env} if env else {}
        return await reply_of(lambda: client.start(version, agent, input, idempotency_key, **more))

    async def answer_wait(
        wait: str, approved: bool | None = None, data: Any = None, note: str | None = None
    ) -> str:
        """Answer a wait, once: with `approved` if it asks for approval, or else with `data`.
        Permissions are for people: they are not answered here.
        """

        def answer() -> Any:
            if client.wait(wait)["kind"] == permissions.KIND:
                raise Forbidden(
                    f"{wait} asks a person for permission", hint=f"torpor approve {wait}"
                )
            return client.complete(wait, data=data, approved=approved, note=note, by="mcp")

        return await reply_of(answer)

    async def cancel_run(run: str) -> str:
        """Cancel a run."""
        return await reply_of(lambda: client.cancel(run))

    reading: list[Callable[..., Any]] = [list_agents, list_runs, show_run, read_log]
    reading += [list_artifacts, read_artifact, list_waits]
    changing: list[Callable[..., Any]] = [start_run, answer_wait, cancel_run]
    return [*reading, query, *([] if readonly else changing)]


def _content(chunks: Iterator[bytes]) -> Object:
    """As much of it as fits a model: {encoding, content, more}."""
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > _CONTENT_MAX:
            break
    cut, more = bytes(data[:_CONTENT_MAX]), len(data) > _CONTENT_MAX
    try:  # a character that the cut has torn is left out
        text = codecs.getincrementaldecoder("utf-8")().decode(cut, final=not more)
    except UnicodeDecodeError:
        encoded = base64.b64encode(cut).decode()
        return {"encoding": "base64", "content": encoded, "more": more}
    return {"encoding": "utf-8", "content": text, "more": more}


async def reply_of(ask: Callable[[], Any]) -> str:
    """What the server says, as JSON. Raises ToolError, which is the tool's answer then."""
    from mcp.server.mcpserver.exceptions import ToolError

    try:
        return json.dumps(await asyncio.to_thread(ask), ensure_ascii=True)
    except TorporError as error:
        raise ToolError(f"{error.message} {error.hint}".strip()) from error
