"""Permissions and tools of agents, with the real runtime and the real journal."""

from __future__ import annotations

import json
from typing import Any

import pytest

import torpor
from torpor.testing import TIMEOUT, Answer, Unanswered, run

done: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_done() -> None:
    done.clear()


@torpor.tool(permission="ask", permission_timeout="1h")
def refund(order: int, amount: float = 1.5) -> str:
    """Give the customer the money back."""
    done.append((order, amount))
    return f"refunded {order}"


@torpor.tool(permission="ask")
async def mail(to: str, text: str) -> str:
    done.append(to)
    return f"mailed {to}"


@torpor.tool
def look_up(order: int) -> dict[str, int]:
    """Find an order."""
    return {"order": order}


@torpor.tool(permission="deny")
def drop_table(name: str) -> None:
    done.append(name)


@torpor.tool(permission=lambda amount: "ask" if amount > 100 else "allow")
def pay(amount: int) -> int:
    return amount


@torpor.agent
def refunding(orders: list[int]) -> list[str]:
    got = []
    for order in orders:
        try:
            got.append(refund(order))
        except torpor.PermissionDenied as error:
            got.append(f"{error.action}, {error.by}, {error.reason}: {error}")
    return got


def test_a_tool_is_called_once_a_person_has_allowed_just_this() -> None:
    seen = []

    def answer(wait: Any) -> Any:
        seen.append((wait.key, wait.data, wait.timeout_s))
        return True

    outcome = run(refunding, {"orders": [7]}, answers=answer)
    assert outcome.result == ["refunded 7"]
    assert done == [(7, 1.5)]
    assert seen == [("permission:refund", {"order": 7, "amount": 1.5}, 3600)]
    assert [each.op for each in outcome.operations] == ["permission:refund#1", "step:refund#1"]
    (question,) = outcome.waits
    assert question.value["data"] == {"decision": "once"} and question.value["approved"]
    assert outcome.steps[0].data["permission"] == "permission:refund#1"


def test_each_call_asks_anew_unless_it_was_allowed_for_the_run() -> None:
    once = run(refunding, {"orders": [1, 2]}, answers={"permission:refund": [True, "once"]})
    assert once.result == ["refunded 1", "refunded 2"]
    for_run = run(refunding, {"orders": [1, 2, 3]}, answers={"permission:refund": ["run"]})
    assert for_run.result == ["refunded 1", "refunded 2", "refunded 3"]


def test_a_denial_raises_with_the_person_s_reason() -> None:
    given = {"permission:refund": Answer(approved=False, note="too late", by="ana")}
    outcome = run(refunding, {"orders": [7]}, answers=given)
    assert outcome.result == ["refund, ana, too late: refund was denied by ana: too late"]
    assert done == []


def test_attempt_45_a_timeout_denies_a_tool() -> None:
    outcome = run(refunding, {"orders": [7]}, answers={"permission": TIMEOUT})
    assert outcome.result == [
        "refund, None, nobody decided about it in time: "
        "refund was denied: nobody decided about it in time"
    ]
    assert done == [] and outcome.slept == 3600


def test_nobody_s_answer_is_no_permission() -> None:
    with pytest.raises(Unanswered, match="permission:refund"):
        run(refunding, {"orders": [7]})


@pytest.mark.parametrize("wrong", ["yes", 1, {"decision": "always"}, None])
def test_a_test_s_answer_is_a_decision(wrong: Any) -> None:
    with pytest.raises(TypeError, match="is answered by True, False"):
        run(refunding, {"orders": [7]}, answers={"permission:refund": wrong})


@torpor.agent
async def mailing(to: list[str]) -> list[str]:
    found = []
    for each in to:
        try:
            found.append(await mail(each, text="hello"))
        except torpor.PermissionDenied as error:
            found.append(str(error))
    return found


def test_tools_may_be_async() -> None:
    answers = {"permission:mail": [True, False]}
    outcome = run(mailing, {"to": ["ana", "bob"]}, answers=answers)
    assert outcome.result == ["mailed ana", "mail was denied by test"]
    assert done == ["ana"]


@torpor.agent
def asking(n: int) -> Any:
    allowed = torpor.ask_permission("transfer money", {"n": n}, timeout="1d", reason="it is due")
    return [allowed.decision, allowed.by, allowed.note]


@torpor.agent
async def asking_async(n: int) -> Any:
    try:
        allowed = await torpor.ask_permission("transfer money", {"n": n})
    except torpor.PermissionDenied as error:
        return error.reason
    return allowed.decision


def test_permission_can_be_asked_for_whatever_an_agent_does() -> None:
    given = {"permission:transfer money": Answer(approved=True, note="go on", by="ana")}
    outcome = run(asking, {"n": 1}, answers=given)
    assert outcome.result == ["once", "ana", "go on"]
    (question,) = outcome.operations
    assert question.data["reason"] == "it is due" and "step" not in question.data
    denied = {"permission": Answer("deny", note="no")}
    assert run(asking_async, {"n": 1}, answers=denied).result == "no"


@torpor.agent
def changing() -> str:
    order = [1]

    @torpor.tool(permission="ask")
    def send(what: list[int]) -> str:
        return f"sent {what}"

    def change(wait: Any) -> bool:
        return True

    changing.while_asked = order  # type: ignore[attr-defined]
    return send(order)


def test_attempt_45_arguments_that_are_changed_after_the_decision_are_refused() -> None:
    def answer(wait: Any) -> bool:
        changing.while_asked.append(2)  # type: ignore[attr-defined]
        return True

    failed = run(changing, {}, answers=answer, check=False)
    assert failed.failure is not None
    assert "its arguments were changed after the decision" in failed.failure["message"]


@torpor.agent
def denied() -> str:
    try:
        drop_table("users")
    except torpor.PermissionDenied as error:
        return str(error)
    return "done"


def test_what_is_denied_by_its_author_is_never_asked() -> None:
    outcome = run(denied, {})
    assert outcome.result == "drop_table was denied: its permission is deny"
    assert outcome.operations == [] and done == []
    assert [each.message for each in outcome.log] == [
        "tool drop_table: denied, as its permission says"
    ]


@torpor.agent
def paying() -> list[int]:
    return [pay(10), pay(1000)]


def test_a_permission_may_depend_on_the_arguments() -> None:
    outcome = run(paying, {}, answers={"permission:pay": [True]})
    assert outcome.result == [10, 1000]
    assert [each.kind for each in outcome.operations] == ["step", "permission", "step"]


@torpor.step
def within() -> str:
    return refund(1)


@torpor.agent
def nested() -> str:
    return within()


def test_a_step_s_body_cannot_ask() -> None:
    failed = run(nested, {}, check=False)
    assert failed.failure is not None and "inside the step" in failed.failure["message"]
    assert done == []


def test_outside_a_run_nothing_that_asks_is_done() -> None:
    assert look_up(3) == {"order": 3}
    assert pay(5) == 5
    with pytest.raises(torpor.OutsideRun, match=r"torpor\.testing\.run"):
        refund(1)
    with pytest.raises(torpor.PermissionDenied):
        drop_table("x")
    with pytest.raises(torpor.OutsideRun):
        torpor.ask_permission("x")
    assert done == []


TOOLS = torpor.tools(look_up, refund, drop_table)


def test_models_are_told_of_tools_as_their_annotations_say() -> None:
    look, give, _ = TOOLS.schemas()
    assert look == {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Find an order.",
            "parameters": {
                "type": "object",
                "properties": {"order": {"type": "integer"}},
                "additionalProperties": False,
                "required": ["order"],
            },
        },
    }
    assert give["function"]["parameters"]["properties"]["amount"]["default"] == 1.5
    assert TOOLS.schemas("anthropic")[0]["input_schema"] == look["function"]["parameters"]
    assert TOOLS.schemas("responses")[0]["name"] == "look_up"
    with pytest.raises(ValueError, match="style='x'"):
        TOOLS.schemas("x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is no tool"):
        torpor.tools(print)
    with pytest.raises(ValueError, match="two tools"):
        torpor.tools(look_up, look_up)


@torpor.agent
def answering(calls: list[list[str]]) -> list[str]:
    return [TOOLS.call(name, given) for name, given in calls]


def test_a_model_gets_the_result_or_the_reason_as_text() -> None:
    calls = [
        ["look_up", '{"order": 7}'],
        ["look_up", '{"order": "seven"}'],
        ["look_up", "{"],
        ["look_up", "[]"],
        ["nothing", "{}"],
        ["refund", '{"order": 7}'],
        ["drop_table", '{"name": "users"}'],
    ]
    given = {"permission:refund": Answer(approved=False, note="no")}
    outcome = run(answering, {"calls": calls}, answers=given)
    got = outcome.result
    assert json.loads(got[0]) == {"order": 7}
    assert "order" in got[1] and "is not JSON" not in got[1]
    assert got[2].startswith("the arguments of look_up are not JSON")
    assert got[3] == "the arguments of look_up must be a JSON object"
    assert got[4].startswith("there is no tool nothing")
    assert got[5] == "refund was denied by test: no"
    assert got[6] == "drop_table was denied: its permission is deny"


@torpor.agent
async def answering_async() -> str:
    return await torpor.tools(mail).acall("mail", {"to": "ana", "text": "x"})


def test_a_model_s_call_of_an_async_tool_is_awaited() -> None:
    assert run(answering_async, {}, answers={"permission": True}).result == "mailed ana"


@pytest.mark.parametrize("given", [{"permission": "maybe"}, {"name": "GET x@0123abcd"}])
def test_what_is_no_permission_is_refused_where_it_is_written(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        torpor.tool(**given)(lambda: None)
