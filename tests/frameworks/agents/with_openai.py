# /// script
# requires-python = ">=3.11"
# dependencies = ["openai==3.57.0"]
# [tool.torpor]
# include = ["story.py"]
# ///
"""OpenAI's SDK: chat completions, and Responses as a stream."""

import json
from typing import Any

import story
from openai import OpenAI

import torpor

INTEGER = {"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]}
TEXT = {"type": "object", "properties": {"question": {"type": "string"}}, "required": ["question"]}
FUNCTIONS = [{"name": "pay", "parameters": INTEGER}, {"name": "ask", "parameters": TEXT}]


@story.watched
@torpor.step
def pay(amount: int) -> str:
    return story.paid(amount)


TOOLS = {"pay": pay, "ask": story.verdict}


@torpor.agent
def chat(plan: dict[str, object]) -> str:
    story.at("start")
    messages: list[Any] = [{"role": "user", "content": story.prompt()}]
    tools = [{"type": "function", "function": each} for each in FUNCTIONS]
    client = OpenAI()
    while True:
        completion = client.chat.completions.create(
            model=story.MODEL, messages=messages, tools=tools
        )
        message = completion.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            story.at("end")
            return str(message.content)
        for call in message.tool_calls:
            answer = TOOLS[call.function.name](**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": answer})


@torpor.agent
def responses(plan: dict[str, object]) -> str:
    story.at("start")
    tools = [{"type": "function", **each} for each in FUNCTIONS]
    given: Any = story.prompt()
    earlier: str | None = None
    client = OpenAI()
    while True:
        with client.responses.stream(
            model=story.MODEL, input=given, tools=tools, previous_response_id=earlier
        ) as stream:
            response = stream.get_final_response()
        calls = [item for item in response.output if item.type == "function_call"]
        if not calls:
            story.at("end")
            return str(response.output_text)
        earlier = response.id
        given = [
            {
                "type": "function_call_output",
                "call_id": call.call_id,
                "output": TOOLS[call.name](**json.loads(call.arguments)),
            }
            for call in calls
        ]
