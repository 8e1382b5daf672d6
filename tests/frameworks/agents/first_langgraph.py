# /// script
# requires-python = ">=3.11"
# dependencies = ["langchain==1.5.2", "langgraph==1.2.24", "langchain-openai==1.7.4"]
# ///
"""LangGraph: one run of LangChain's agent with a tool."""

import timing
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool
def pay(amount: int) -> str:
    """Pay an amount."""
    return f"paid {amount}"


@timing.measured
def call(prompt: str) -> object:
    agent = create_agent(ChatOpenAI(model=timing.MODEL), tools=[pay])
    return agent.invoke({"messages": [("user", prompt)]})["messages"][-1].content
