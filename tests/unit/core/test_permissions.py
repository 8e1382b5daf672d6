"""What binds a decision to an action, and what it is called."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.core import permissions
from torpor.core.errors import Invalid
from torpor.core.limits import NAME_MAX

REQUEST: dict[str, Any] = {
    "scheme": "https",
    "host": "api.github.com",
    "port": 443,
    "method": "POST",
    "target": "/repos/acme/x/issues?a=1",
    "headers": {"content-type": "application/json"},
    "body": '{"title": "a"}',
}


def request(**changes: Any) -> dict[str, Any]:
    return {"request": {**REQUEST, **changes}}


def action(name: str = "refund", arguments: Any = None) -> dict[str, Any]:
    return {"action": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "PUT"},
        {"scheme": "http"},
        {"host": "api.gitlab.com"},
        {"port": 8443},
        {"target": "/repos/acme/x/issues?a=2"},
        {"headers": {"content-type": "text/plain"}},
        {"headers": {"content-type": "application/json", "x": ""}},
        {"body": '{"title": "b"}'},
        {"body": ""},
    ],
)
def test_attempt_45_whatever_of_a_request_changes_changes_its_digest(
    changed: dict[str, Any],
) -> None:
    assert permissions.digest(request(**changed)) != permissions.digest(request())


def test_the_same_request_has_one_digest_however_it_is_written() -> None:
    same = {
        "host": "API.github.com.",
        "headers": {"Content-Type": "application/json", "content-length": "14", "Host": "x"},
    }
    pairs = [["content-type", "application/json"]]
    assert permissions.digest(request(headers=pairs)) == permissions.digest(request())
    other = request(**same)
    other["request"]["body_b64"] = "eyJ0aXRsZSI6ICJhIn0="
    del other["request"]["body"]
    assert permissions.digest(other) == permissions.digest(request())
    assert permissions.digest(request() | {"reason": "please"}) == permissions.digest(request())


def test_for_this_run_covers_one_method_host_port_and_path() -> None:
    scope = permissions.scope(request())
    same = {"target": "/repos/acme/x/issues?b=2", "body": "other", "headers": {}}
    assert permissions.scope(request(**same)) == scope
    for changed in ({"method": "PUT"}, {"target": "/repos/acme"}, {"port": 1}, {"host": "x"}):
        assert permissions.scope(request(**changed)) != scope
    assert permissions.scope(action(arguments=1)) == permissions.scope(action(arguments=2))
    assert permissions.scope(action("a")) != permissions.scope(action("b"))


def test_for_this_run_does_not_cover_what_servers_take_for_another_method_or_path() -> None:
    for name in ("X-HTTP-Method-Override", "x-original-url"):
        other = request(headers={**REQUEST["headers"], name: "DELETE"})
        assert permissions.scope(other) != permissions.scope(request())


@given(
    st.dictionaries(
        st.sampled_from(["request", "action", "x"]), st.none() | st.text() | st.lists(st.integers())
    )
    | st.fixed_dictionaries(
        {"request": st.fixed_dictionaries({key: st.text() | st.integers() for key in REQUEST})}
    )
)
def test_what_is_no_action_is_refused(data: dict[str, Any]) -> None:
    for of in (permissions.digest, permissions.scope):
        with suppress(Invalid):
            assert len(of(data)) == 64


def test_infinite_arguments_have_no_digest() -> None:
    with pytest.raises(Invalid):
        permissions.digest(action(arguments={"amount": float("inf")}))


def test_an_action_is_its_name_and_its_arguments() -> None:
    assert permissions.digest(action(arguments={"a": 1, "b": 2})) == permissions.digest(
        action(arguments={"b": 2, "a": 1})
    )
    assert permissions.digest(action(arguments=[1])) != permissions.digest(action(arguments=[2]))
    assert permissions.digest(action("a")) != permissions.digest(action("b"))


def test_the_operation_is_named_so_that_requests_and_actions_are_told_apart() -> None:
    name = permissions.op_name(request())
    assert name == f"POST api.github.com/repos/acme/x/issues@{permissions.digest(request())[:8]}"
    long = permissions.op_name(request(target="/\x1b[31m " + "x" * 5000))
    assert len(long) <= NAME_MAX
    assert permissions.is_request(name) and permissions.is_request(long)
    assert permissions.op_name(action("refund order")) == "refund order"
    assert not permissions.is_request("refund order")


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ({"decision": "once"}, {"decision": "once"}),
        ({"decision": "run", "reason": None}, {"decision": "run"}),
        ({"decision": "deny", "reason": "no"}, {"decision": "deny", "reason": "no"}),
    ],
)
def test_a_decision_is_one_of_three(answer: Any, kept: Any) -> None:
    assert permissions.decided(answer) == kept


@pytest.mark.parametrize(
    "answer",
    [
        *(None, True, "once", [], {}, {"decision": "always"}, {"decision": ["once"]}),
        *({"decision": "once", "for": "ever"}, {"decision": "deny", "reason": 1}),
        {"decision": "deny", "reason": "x" * 10_001},
    ],
)
def test_nothing_else_is_one(answer: Any) -> None:
    with pytest.raises(Invalid):
        permissions.decided(answer)


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        ({"status": "completed", "data": {"decision": "once"}}, True),
        ({"status": "completed", "data": {"decision": "run"}}, True),
        ({"status": "completed", "data": {"decision": "deny"}}, False),
        ({"status": "completed", "data": None, "approved": True}, False),
        ({"status": "timeout", "data": {"decision": "once"}}, False),
        ({"status": "cancelled"}, False),
        ({"decision": "once"}, False),
        (None, False),
    ],
)
def test_only_a_decision_that_can_be_read_allows(value: Any, allowed: bool) -> None:
    assert permissions.decision_of(value).allowed is allowed


def test_a_denial_says_by_whom_and_why() -> None:
    data = {"decision": "deny", "reason": "not on a Friday"}
    value = {"status": "completed", "data": data, "by": "ana"}
    said = permissions.denial(permissions.decision_of(value), "POST https://x")
    assert said == "POST https://x was denied by ana: not on a Friday"


@pytest.mark.parametrize(
    "wrong",
    [
        *(None, {}, {"request": {}}, {"request": REQUEST, "action": action()["action"]}),
        *(request(headers=None), request(port="443"), request(port=True), request(scheme="ftp")),
        *(request(headers={"a": 1}), request(body=None), {"action": {"name": 1, "arguments": 2}}),
        {"request": {**{k: v for k, v in REQUEST.items() if k != "body"}, "body_b64": "%"}},
    ],
)
def test_what_others_wrote_is_checked(wrong: Any) -> None:
    with pytest.raises(Invalid):
        permissions.check_action(wrong)


def test_a_prompt_is_one_line_of_what_can_be_seen() -> None:
    wild = "/<b>\x1b[2J\u202egnp.exe\u200b\n" + "x" * 1_000_000
    shown = permissions.prompt(request(target=wild))
    assert shown.startswith(r"POST https://api.github.com/<b>\x1b[2J\u202egnp.exe\u200b\x0axxx")
    assert len(shown) <= permissions.PROMPT_CHARS and shown.isprintable()
    assert permissions.prompt(action(arguments={"n": 1})) == 'refund {"n": 1}'
    assert permissions.url({**REQUEST, "host": "::1", "port": 1}).startswith("https://[::1]:1/")
