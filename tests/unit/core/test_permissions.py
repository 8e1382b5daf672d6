"""What a permission is for."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.core.errors import Invalid
from torpor.core.permissions import digest, place_digest

REQUEST = {
    "scheme": "https",
    "host": "api.github.com",
    "port": 443,
    "method": "POST",
    "target": "/repos/acme/site/issues?draft=1",
    "headers": [["accept", "application/json"]],
    "body": '{"title": "x"}',
}


@pytest.mark.parametrize(
    ("change", "same_place"),
    [
        ({"body": '{"title": "y"}'}, True),
        ({"headers": [["accept", "text/html"]]}, True),
        ({"target": "/repos/acme/site/issues?draft=2"}, True),
        ({"target": "/repos/acme/other/issues"}, False),
        ({"method": "DELETE"}, False),
        ({"host": "evil.example"}, False),
        ({"port": 444}, False),
        ({"scheme": "http"}, False),
    ],
)
def test_attempt_45_what_is_changed_after_a_person_has_seen_it_is_another_action(
    change: dict[str, Any], same_place: bool
) -> None:
    before, after = {"request": REQUEST}, {"request": REQUEST | change}
    assert digest(before) != digest(after)
    assert (place_digest(before) == place_digest(after)) is same_place


def test_an_action_has_one_digest_however_it_is_written() -> None:
    encoded = base64.b64encode(REQUEST["body"].encode()).decode()  # type: ignore[attr-defined]
    again = {k: v for k, v in reversed(REQUEST.items()) if k != "body"} | {"body_b64": encoded}
    assert digest({"request": REQUEST}) == digest({"request": again | {"host": "API.GitHub.com."}})
    one, other = {"a": 1, "b": [2]}, {"b": [2], "a": 1}
    assert digest({"action": {"name": "pay", "arguments": one}}) == digest(
        {"action": {"name": "pay", "arguments": other}}
    )
    assert digest({"action": {"name": "pay", "arguments": one}}) != digest(
        {"action": {"name": "pay", "arguments": {"a": 1, "b": [3]}}}
    )


@given(
    st.dictionaries(
        st.sampled_from(["request", "action", "x"]), st.none() | st.text() | st.lists(st.integers())
    )
    | st.fixed_dictionaries(
        {"request": st.fixed_dictionaries({k: st.text() | st.integers() for k in REQUEST})}
    )
)
def test_what_is_no_action_is_refused(data: dict[str, Any]) -> None:
    for of in (digest, place_digest):
        with suppress(Invalid):
            assert len(of(data)) == 64


def test_infinite_arguments_have_no_digest() -> None:
    with pytest.raises(Invalid):
        digest({"action": {"name": "pay", "arguments": {"amount": float("inf")}}})
