# /// script
# requires-python = ">=3.11"
# dependencies = ["mcp==2.3.0", "openai==3.57.0"]
# [tool.torpor]
# include = ["story.py", "mcp_server.py"]
# ///
"""MCP: tools of a server that the agent runs as its child, each call of which is a step."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import story
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from openai import AsyncOpenAI

import torpor

SERVER = StdioServerParameters(
    command=sys.executable,
    args=[str(Path(__file__).with_name("mcp_server.py"))],
    env={"PYTHONPATH": os.pathsep.join(sys.path)},
)


@torpor.agent
async def payer(plan: dict[str, object]) -> str:
    story.at("start")
    async with stdio_client(SERVER) as streams, ClientSession(*streams) as session:
        await session.initialize()

        @torpor.step
        async def call_tool(name: str, arguments: dict[str, Any]) -> str:
            story.paid(arguments["amount"])
            answer = await session.call_tool(name, arguments)
            return "".join(part.text for part in answer.content if part.type == "text")

        async def answer(name: str, arguments: dict[str, Any]) -> str:
            if name == "ask":
                story.at("before ask")
                verdict = await torpor.approve(arguments["question"])
                story.at("after ask")
                return f"approved: {verdict.approved}"
            story.at(f"before pay {arguments['amount']}")
            receipt = await call_tool(name, arguments)
            story.at(f"after pay {arguments['amount']}")
            return receipt

        tools = [
            {"type": "function", "function": {"name": each.name, "parameters": each.input_schema}}
            for each in (await session.list_tools()).tools
        ]
        ask = {"type": "object", "properties": {"question": {"type": "string"}}}
        tools.append({"type": "function", "function": {"name": "ask", "parameters": ask}})
        messages: list[Any] = [{"role": "user", "content": story.prompt()}]
        client = AsyncOpenAI()
        while True:
            completion = await client.chat.completions.create(
                model=story.MODEL, messages=messages, tools=tools
            )
            message = completion.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                story.at("end")
                return str(message.content)
            for call in message.tool_calls:
                arguments = json.loads(call.function.arguments)
                text = await answer(call.function.name, arguments)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": text})
