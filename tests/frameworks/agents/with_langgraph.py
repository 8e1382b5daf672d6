# /// script
# requires-python = ">=3.11"
# dependencies = ["langchain==1.5.2", "langgraph==1.2.24", "langchain-openai==1.7.4"]
# [tool.torpor]
# include = ["story.py"]
# ///
"""LangGraph: LangChain's agent, a tool with its runtime, and a checkpointer in memory."""

import story
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt import ToolRuntime

import torpor


@tool
@story.watched
@torpor.step
def pay(amount: int, runtime: ToolRuntime) -> str:
    """Pay an amount."""
    assert runtime.tool_call_id
    return story.paid(amount)


@tool
def ask(question: str) -> str:
    """Ask a person."""
    return story.verdict(question)


@torpor.agent
def payer(plan: dict[str, object]) -> str:
    story.at("start")
    agent = create_agent(
        ChatOpenAI(model=story.MODEL), tools=[pay, ask], checkpointer=InMemorySaver()
    )
    thread = {"configurable": {"thread_id": "1"}}
    state = agent.invoke({"messages": [("user", story.prompt())]}, thread)
    story.at("end")
    return str(state["messages"][-1].content)
