# /// script
# requires-python = ">=3.11"
# dependencies = ["pydantic-ai-slim[openai]==2.68.0"]
# ///
"""Pydantic AI: one run of an agent with a tool."""

import timing
from openai.types.responses import Response
from pydantic_ai import Agent

agent = Agent(f"openai:{timing.MODEL}")


@agent.tool_plain
def pay(amount: int) -> str:
    """Pay an amount."""
    return f"paid {amount}"


@timing.measured
def call(prompt: str) -> object:
    return agent.run_sync(prompt).output


@timing.warm
def reads_answers() -> None:
    Response.model_rebuild()  # else its schema is made when the first answer is read
