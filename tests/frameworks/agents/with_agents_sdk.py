# /// script
# requires-python = ">=3.11"
# dependencies = ["openai-agents==0.24.0"]
# [tool.torpor]
# include = ["story.py"]
# ///
"""The OpenAI Agents SDK: function tools, run by its own loop."""

import story
from agents import Agent, Runner, function_tool, set_tracing_disabled

import torpor

set_tracing_disabled(True)  # traces would go to OpenAI: no machine has that way


@function_tool
@story.watched
@torpor.step
def pay(amount: int) -> str:
    """Pay an amount."""
    return story.paid(amount)


@function_tool
def ask(question: str) -> str:
    """Ask a person."""
    return story.verdict(question)


agent = Agent(name="payer", model=story.MODEL, tools=[pay, ask])


@torpor.agent
def payer(plan: dict[str, object]) -> str:
    story.at("start")
    result = Runner.run_sync(agent, story.prompt())
    story.at("end")
    return str(result.final_output)
