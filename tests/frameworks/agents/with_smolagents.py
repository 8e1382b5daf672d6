# /// script
# requires-python = ">=3.11"
# dependencies = ["smolagents[openai]==1.26.0"]
# [tool.torpor]
# memory = "768M"
# include = ["story.py"]
# ///
"""smolagents: its agent that calls tools, which ends with a tool of its own."""

import story
from smolagents import OpenAIServerModel, ToolCallingAgent, tool

import torpor


@torpor.step
def settle(amount: int) -> str:
    return story.paid(amount)


@tool
def pay(amount: int) -> str:
    """Pay an amount.

    Args:
        amount: how much
    """
    return story.watched(settle)(amount)


@tool
def ask(question: str) -> str:
    """Ask a person.

    Args:
        question: what to ask
    """
    return story.verdict(question)


@torpor.agent
def payer(plan: dict[str, object]) -> str:
    story.at("start")
    agent = ToolCallingAgent(tools=[pay, ask], model=OpenAIServerModel(story.MODEL), max_steps=6)
    final = {"call": [["final_answer", {"answer": "done: paid 6"}]]}
    answer = agent.run(story.prompt([*story.TURNS[:3], final]))
    story.at("end")
    return str(answer)
