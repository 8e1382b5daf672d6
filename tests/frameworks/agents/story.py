"""What the agents of all frameworks do, beside their framework: pay, ask, pay again.

A run's input is a plan: `{"script": "7", "holds": {"3": {"in pay 6": 3600}}}` holds its third epoch
at that place for an hour, in which somebody kills it. A payment is an effect that must not be
repeated: each time its body runs it logs a line that no other run of it logs, with the key by which
a payment service would know a repetition.
"""

import json
import time
import uuid
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torpor

P = ParamSpec("P")
R = TypeVar("R")

MODEL = "gpt-fake"
PAY_5 = {"call": [["pay", {"amount": 5}]]}
ASK = {"call": [["ask", {"question": "pay 6?"}]]}
PAY_6 = {"call": [["pay", {"amount": 6}]]}
TURNS: list[dict[str, Any]] = [PAY_5, ASK, PAY_6, {"text": "done: $LAST"}]


def prompt(turns: list[dict[str, Any]] = TURNS, **more: str) -> str:
    """What the fake model is told, which is what it will say."""
    script = {"id": torpor.run.input["plan"]["script"], "turns": turns} | more
    return f"Pay what is due. [[SCRIPT {json.dumps(script)}]]"


def at(place: str) -> None:
    """The agent is here. If its run is to be held here, it is."""
    holds = torpor.run.input["plan"]["holds"].get(str(torpor.run.epoch), {})
    if place in holds:
        torpor.log("at", place=place)
        time.sleep(holds[place])


def paid(amount: int) -> str:
    """The body of a payment."""
    torpor.log("paid", key=torpor.run.idempotency_key, once=uuid.uuid4().hex)
    at(f"in pay {amount}")
    return f"paid {amount}"


def verdict(question: str) -> str:
    """A tool that asks a person."""
    at("before ask")
    answer = torpor.approve(question)
    at("after ask")
    return f"approved: {answer.approved}"


def watched(pay: Callable[P, R]) -> Callable[P, R]:
    """A tool that pays, held before and after."""

    @wraps(pay)
    def watched_pay(*args: P.args, **kwargs: P.kwargs) -> R:
        amount = kwargs["amount"] if "amount" in kwargs else args[-1]
        at(f"before pay {amount}")
        receipt = pay(*args, **kwargs)
        at(f"after pay {amount}")
        return receipt

    return watched_pay
