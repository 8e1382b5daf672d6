# /// script
# requires-python = ">=3.11"
# dependencies = ["litellm==1.110.2"]
# [tool.torpor]
# memory = "768M"
# include = ["story.py"]
# ///
"""LiteLLM: a loop of one's own over its completions."""

import json
import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # prices from the package, not the network

import litellm
import story

import torpor

INTEGER = {"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]}
TEXT = {"type": "object", "properties": {"question": {"type": "string"}}, "required": ["question"]}
TOOLS = [
    {"type": "function", "function": {"name": "pay", "parameters": INTEGER}},
    {"type": "function", "function": {"name": "ask", "parameters": TEXT}},
]


@story.watched
@torpor.step
def pay(amount: int) -> str:
    return story.paid(amount)


@torpor.agent
def payer(plan: dict[str, object]) -> str:
    story.at("start")
    messages: list[Any] = [{"role": "user", "content": story.prompt()}]
    while True:
        completion = litellm.completion(
            model=f"openai/{story.MODEL}", messages=messages, tools=TOOLS
        )
        message = completion.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            story.at("end")
            return str(message.content)
        for call in message.tool_calls:
            arguments = json.loads(call.function.arguments)
            answer = {"pay": pay, "ask": story.verdict}[call.function.name](**arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": answer})
