"""`torpor mcp`, spoken to by the official client."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TextIO

import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import TextContent

from torpor.cli.mcp import _content
from torpor.client import Client
from torpor.core.agentfile import AgentSource
from torpor.core.home import Home
from torpor.testing.fakes.service import SCHEMA, VERSION

pytestmark = pytest.mark.anyio

READING = {"list_agents", "list_runs", "show_run", "read_log", "list_waits", "query"}
READING |= {"list_artifacts", "read_artifact"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def session(
    home: Home, *options: str, err: TextIO = sys.stderr
) -> AsyncIterator[ClientSession]:
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "torpor.cli.main", "mcp", *options],
        env={"TORPOR_HOME": str(home.root)},
    )
    async with (
        stdio_client(server, errlog=err) as (read, write),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        yield session


async def call(session: ClientSession, tool: str, **arguments: Any) -> Any:
    result = await session.call_tool(tool, arguments)
    [content] = result.content
    assert isinstance(content, TextContent)
    assert not result.is_error, content.text
    return json.loads(content.text)


async def refused(session: ClientSession, tool: str, **arguments: Any) -> str:
    result = await session.call_tool(tool, arguments)
    [content] = result.content
    assert isinstance(content, TextContent) and result.is_error
    return content.text


async def test_nothing_is_said_beside_the_protocol(
    home: Home, client: Client, tmp_path: Path
) -> None:
    """Its client shows people what is on stderr: no requests, none of HTTP's."""
    path = tmp_path / "stderr"
    with path.open("w") as err:
        async with session(home, err=err) as mcp:
            await call(mcp, "list_runs")
            assert "no run" in await refused(mcp, "show_run", run="run_none")
    assert path.read_text() == ""


async def test_a_run_is_started_asked_about_and_answered(home: Home, client: Client) -> None:
    async with session(home) as mcp:
        offered = {tool.name: tool for tool in (await mcp.list_tools()).tools}
        # Beside these there is a tool for each agent that is deployed.
        ours = {name for name in offered if not name.startswith("start_player")}
        assert ours == READING | {"start_run", "answer_wait", "cancel_run"}
        for name, each in offered.items():
            assert each.description and each.annotations is not None
            assert each.annotations.read_only_hint is (name in READING)
        script = {"script": [["approve", "Go?", {"n": 1}], ["return", "went"]]}
        asked = {"version": VERSION, "input": script, "idempotency_key": "mcp-1"}
        run = (await call(mcp, "start_run", **asked))["id"]
        assert (await call(mcp, "start_run", **asked))["id"] == run
        assert run in [each["id"] for each in await call(mcp, "list_runs", limit=200)]
        [wait] = await call(mcp, "list_waits", run=run)
        assert wait["prompt"] == "Go?" and wait["data"] == {"n": 1}
        answered = await call(mcp, "answer_wait", wait=wait["id"], approved=True, note="fine")
        assert answered["by"] == "mcp" and answered["state"] == "completed"
        assert "answered" in await refused(mcp, "answer_wait", wait=wait["id"], approved=False)
        asking = {"script": [["permission", "POST x", None]]}
        other = (await call(mcp, "start_run", version=VERSION, input=asking))["id"]
        [permission] = await call(mcp, "list_waits", run=other)
        why = await refused(mcp, "answer_wait", wait=permission["id"], approved=True)
        assert "asks a person for permission" in why
        list(client.follow(run))
        assert (await call(mcp, "show_run", run=run))["result"] == "went"
        log = await call(mcp, "read_log", run=run)
        assert [entry["seq"] for entry in log["entries"]] == [1, 2, 3] and log["more"]
        log = await call(mcp, "read_log", run=run, after=3)
        assert log["entries"][0]["seq"] == 4
        assert "report.csv" in [each["name"] for each in await call(mcp, "list_artifacts", run=run)]
        told = await call(mcp, "read_artifact", run=run, name="report.csv", version=1)
        assert told == {"encoding": "utf-8", "content": "a,b\n", "more": False}
        told = await call(mcp, "read_artifact", run=run, name="out/left.bin")
        assert told == {"encoding": "utf-8", "content": "\0\0\0", "more": False}
        rows = await call(mcp, "query", sql="select * from runs")
        assert run in [row[0] for row in rows["rows"]]
        failing: list[tuple[str, dict[str, Any], str]] = [
            ("show_run", {"run": "run_nothing"}, "run_nothing"),
            ("query", {"sql": "nonsense"}, "syntax error"),
            ("list_runs", {"state": "asleep"}, "unknown state"),
        ]
        for asked_of, arguments, said in failing:
            assert said in await refused(mcp, asked_of, **arguments)


async def test_who_may_only_read_has_only_tools_that_read(home: Home, client: Client) -> None:
    async with session(home, "--readonly") as mcp:
        assert {tool.name for tool in (await mcp.list_tools()).tools} == READING
        gone = await refused(mcp, "start_run", version=VERSION, input={})
        assert "start_run" in gone


async def test_an_agent_has_a_tool_with_the_schema_of_its_input(home: Home, client: Client) -> None:
    source = AgentSource(entry="player.py", files={"player.py": b""})
    client.deploy(source, lambda *told: None)
    async with session(home) as mcp:
        offered = {tool.name: tool for tool in (await mcp.list_tools()).tools}
        schema = offered["start_player_player"].input_schema
        wanted = {key: value for key, value in SCHEMA.items() if key != "$defs"}
        assert schema["properties"]["input"] == wanted
        assert schema["$defs"] == SCHEMA["$defs"]
        started = await call(mcp, "start_player_player", input={"script": []})
        assert (started["agent"], started["version"]) == ("player", VERSION)
    async with session(home, "--readonly") as mcp:
        assert {tool.name for tool in (await mcp.list_tools()).tools} == READING


def test_a_long_text_is_cut_between_characters_and_bytes_are_encoded() -> None:
    told = _content(iter([b"x" * 99_999, "ü".encode() * 10]))
    assert told == {"encoding": "utf-8", "content": "x" * 99_999, "more": True}
    assert _content(iter([b"\xff\x00"])) == {"encoding": "base64", "content": "/wA=", "more": False}
    assert _content(iter([])) == {"encoding": "utf-8", "content": "", "more": False}
