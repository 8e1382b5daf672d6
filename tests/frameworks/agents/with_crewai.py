# /// script
# requires-python = ">=3.11"
# dependencies = ["crewai==1.15.30"]
# [tool.torpor]
# memory = "2G"
# include = ["story.py"]
# ///
"""CrewAI: a crew of one."""

import os

os.environ["CREWAI_DISABLE_TELEMETRY"] = "true"  # it would go to CrewAI: no machine has that way
os.environ["CREWAI_DISABLE_VERSION_CHECK"] = "true"
os.environ["CREWAI_TRACING_ENABLED"] = "false"

import story
from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool

import torpor


@tool("pay")
@story.watched
@torpor.step
def pay(amount: int) -> str:
    """Pay an amount."""
    return story.paid(amount)


@tool("ask")
def ask(question: str) -> str:
    """Ask a person."""
    return story.verdict(question)


@torpor.agent
def payer(plan: dict[str, object]) -> str:
    story.at("start")
    agent = Agent(
        role="payer",
        goal="pay",
        backstory="careful",
        llm=LLM(model=f"openai/{story.MODEL}"),
        tools=[pay, ask],
    )
    task = Task(description=story.prompt(), expected_output="what was paid", agent=agent)
    output = Crew(agents=[agent], tasks=[task]).kickoff()
    story.at("end")
    return str(output)
