# /// script
# requires-python = ">=3.11"
# dependencies = ["dspy==3.4.1"]
# [tool.torpor]
# memory = "1G"
# include = ["story.py"]
# ///
"""DSPy: ReAct, in which the model speaks text that DSPy reads."""

import json
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # prices from the package, not the network

import dspy
import story

import torpor


@story.watched
@torpor.step
def pay(amount: int) -> str:
    """Pay an amount."""
    return story.paid(amount)


def ask(question: str) -> str:
    """Ask a person."""
    return story.verdict(question)


def fields(**values: str) -> dict[str, str]:
    """What the model says, in DSPy's form."""
    return {"text": "".join(f"[[ ## {name} ## ]]\n{text}\n\n" for name, text in values.items())}


TURNS = [
    *(
        fields(next_thought="on", next_tool_name=name, next_tool_args=json.dumps(arguments))
        for turn in story.TURNS[:3]
        for name, arguments in turn["call"]
    ),
    fields(reasoning="all is paid", answer="done: paid 6"),
]


@torpor.agent
def payer(plan: dict[str, object]) -> str:
    story.at("start")
    react = dspy.ReAct("task -> answer", tools=[pay, ask], max_iters=3)
    with dspy.context(lm=dspy.LM(f"openai/{story.MODEL}")):
        answer = react(task=story.prompt(TURNS, mark="[[ ## observation_"))
    story.at("end")
    return str(answer.answer)
