"""What a person is shown of a permission: attempt 44 of the way out."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.policy.permissions import SHOWN_CHARS, laid_out, shown, visible, whole
from torpor.wire.streams import TARGET_CHARS_MAX

REQUEST: dict[str, Any] = {
    "scheme": "https",
    "host": "api.github.com",
    "port": 443,
    "method": "POST",
    "target": "/repos/acme/x/issues?draft=1",
    "headers": {"content-type": "application/json", "host": "api.github.com"},
    "body": '{"title":"Bug","labels":["a","b"],"n":1e400,"empty":{}}',
}


def request(**changes: Any) -> dict[str, Any]:
    return {"request": {**REQUEST, **changes}}


def test_a_request_is_shown_as_what_goes_out() -> None:
    found = shown(request())
    assert found["method"] == "POST"
    assert found["url"] == "https://api.github.com/repos/acme/x/issues?draft=1"
    assert found["headers"] == "content-type: application/json"
    assert found["body"] == (
        '{\n  "title": "Bug",\n  "labels": [\n    "a",\n    "b"\n  ],\n  "n": 1e400,\n'
        '  "empty": {}\n}'
    )
    assert "changes" not in found


def test_an_action_is_shown_with_its_arguments_and_what_the_agent_says() -> None:
    action = {"action": {"name": "refund", "arguments": {"order": 7}}, "reason": "it broke"}
    found = shown(action)
    assert (found["action"], found["the agent says"]) == ("refund", "it broke")
    assert found["arguments"] == '{\n  "order": 7\n}'


def test_a_key_that_comes_twice_is_shown_twice() -> None:
    assert shown(request(body='{"to":"a","to":"b"}'))["body"] == '{\n  "to": "a",\n  "to": "b"\n}'


def test_what_may_be_a_credential_is_not_shown() -> None:
    headers = {"Authorization": "Bearer sk-abc", "X-Api-Key": "sk-abc", "accept": "*/*"}
    found = shown(request(headers=headers))
    assert "sk-abc" not in json.dumps(found) and "sk-abc" not in whole(request(headers=headers))
    assert found["headers"].startswith("accept: */*\nauthorization: (not shown: 13 characters")


def test_what_is_no_text_is_shown_by_size_and_digest() -> None:
    binary = base64.b64encode(b"\x89PNG\xff").decode()
    action = request(body_b64=binary)
    del action["request"]["body"]
    assert shown(action)["body"].startswith("(binary: 5 bytes, SHA-256 ")


def test_what_changed_since_the_last_that_was_allowed_is_shown_by_line() -> None:
    before = request(body='{"title":"Bug","n":1}')
    found = shown(request(body='{"title":"Bug","n":2}'), before)
    assert '-  "n": 1' in found["changes"] and '+  "n": 2' in found["changes"]
    assert '-  "title"' not in found["changes"]
    assert shown(before, before)["changes"] == "none: it is what was allowed last"
    large = request(body="\n".join("abc"[n % 3] for n in range(100_000)))
    assert shown(large, before)["changes"].startswith("too large")


WILD = "<script>alert(1)</script>\x1b[2J\x1b]0;x\x07\u202eevil\u2066\u200b\r\x00\x85\ud800"


def test_attempt_44_nothing_of_it_steers_a_terminal_or_turns_text_around() -> None:
    action = request(
        target=f"/{WILD}", headers={f"x-{WILD}": f"{WILD}\nInjected: yes"}, body=WILD * 2
    )
    action["reason"] = WILD
    for found in (shown(action), shown(action, request())):
        for text in found.values():
            assert all(each in "\n\t" or each.isprintable() for each in text), ascii(text)
    assert r"\u202eevil" in shown(action)["url"]
    posing = request(target="/\nbody: none", method="GET\t")
    assert "\n" not in shown(posing)["url"] and "\t" not in shown(posing)["method"]
    assert "\nInjected" not in shown(action)["headers"], "a header poses as another"
    assert all(each in "\n\t" or each.isprintable() for each in whole(action))


def test_attempt_44_what_is_very_long_is_cut_and_says_so() -> None:
    action = request(target="/" + "a" * (TARGET_CHARS_MAX - 1), body="b" * 1_000_000)
    found = shown(action, request())
    assert sum(map(len, found.values())) < 4 * SHOWN_CHARS
    assert found["body"].endswith("more characters") and "1,000,000 bytes" in found["body_size"]
    assert len(whole(action)) > 1_000_000


def test_what_is_nested_too_deeply_is_shown_as_it_is() -> None:
    deep = "[" * 5000 + "]" * 5000
    assert laid_out(deep) is None
    assert laid_out("[" * 100 + "]" * 100) is None
    assert laid_out("no JSON") is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_that_is_laid_out_says_the_same(value: Any) -> None:
    text = json.dumps(value)
    out = laid_out(text)
    assert out is not None and json.loads(out) == value


@given(st.text())
def test_visible_text_can_be_seen(text: str) -> None:
    seen = visible(text)
    assert all(each in "\n\t" or each.isprintable() for each in seen)
    assert seen == text or not text.isprintable()


@pytest.mark.parametrize("body", ["", None])
def test_without_a_body_none_is_shown(body: str | None) -> None:
    action = request(body="") if body == "" else {"request": {**REQUEST}}
    if body is None:
        del action["request"]["body"]
    assert "body" not in shown(action)
