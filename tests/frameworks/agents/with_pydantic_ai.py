# /// script
# requires-python = ">=3.11"
# dependencies = ["pydantic-ai-slim[openai]==2.68.0"]
# [tool.torpor]
# include = ["story.py"]
# ///
"""Pydantic AI: a tool with its context, which holds a key that belongs in no log."""

from dataclasses import dataclass

import story
from pydantic_ai import Agent, RunContext

import torpor


@dataclass
class Deps:
    api_key: str


agent = Agent(f"openai:{story.MODEL}", deps_type=Deps)


@agent.tool
@story.watched
@torpor.step
def pay(context: RunContext[Deps], amount: int) -> str:
    """Pay an amount."""
    assert context.deps.api_key
    return story.paid(amount)


@agent.tool_plain
def ask(question: str) -> str:
    """Ask a person."""
    return story.verdict(question)


@torpor.agent
def payer(plan: dict[str, object]) -> str:
    story.at("start")
    result = agent.run_sync(story.prompt(), deps=Deps("sk-of-the-user"))
    story.at("end")
    return result.output
