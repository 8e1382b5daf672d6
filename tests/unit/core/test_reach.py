"""What a version may do on the network beyond another."""

from __future__ import annotations

from typing import Any

import pytest

from torpor.core.egress import Budget, Rule, judge, parse_egress
from torpor.core.egress import Request as Asked
from torpor.core.reach import Beyond, Raised, beyond

Entries = list[dict[str, Any]]
GITHUB = {"host": "api.github.com", "methods": ["POST"], "paths": ["/repos/acme/*/issues"]}


def rules(*entries: dict[str, Any]) -> tuple[Rule, ...]:
    return parse_egress(list(entries), "egress")


@pytest.mark.parametrize(
    ("now", "before"),
    [
        ([], []),
        ([], [{"preset": "openai"}]),
        ([{"preset": "openai"}], [{"preset": "openai"}]),
        ([GITHUB], [{"host": "api.github.com"}]),
        ([GITHUB | {"ask": True}], [GITHUB]),
        ([{"host": "a.x.example"}], [{"host": "*.x.example"}]),
        ([{"host": "*.x.example"}], [{"host": "**.x.example"}]),
        ([{"host": "**.y.x.example"}], [{"host": "**.x.example"}]),
        ([{"host": "a.example", "paths": ["/v1/a"]}], [{"host": "a.example", "paths": ["/v1/**"]}]),
        (
            [{"host": "a.example", "methods": ["GET", "PUT"]}],
            [{"host": "a.example", "methods": [each]} for each in ("PUT", "GET")],
        ),
        ([{"host": "a.example"}, {"host": "a.example", "deny": True}], [{"host": "a.example"}]),
        # What asked before and is not allowed at all now
        ([{"host": "b.example"}], [{"host": "b.example"}, GITHUB | {"ask": True}]),
    ],
)
def test_nothing_new(now: Entries, before: Entries) -> None:
    assert not beyond(rules(*now), rules(*before))


@pytest.mark.parametrize(
    ("now", "before"),
    [
        ([GITHUB], []),
        ([{"host": "a.example"}], [{"host": "a.example", "methods": ["GET"]}]),
        ([{"host": "a.example", "port": 8443}], [{"host": "a.example"}]),
        ([{"host": "a.example", "protocol": "http"}], [{"host": "a.example"}]),
        ([GITHUB | {"secret": "TOKEN"}], [GITHUB]),
        ([GITHUB | {"secret": "TOKEN"}], [GITHUB | {"secret": "OTHER"}]),
        ([{"host": "**.x.example"}], [{"host": "*.x.example"}]),
        ([{"host": "*.x.example"}], [{"host": "a.x.example"}]),
    ],
)
def test_a_rule_that_allows_more_is_new_as_a_whole(now: Entries, before: Entries) -> None:
    assert beyond(rules(*now), rules(*before)) == Beyond(rules=rules(*now))


def test_of_a_rule_that_grew_only_what_it_gained_is_new() -> None:
    had = {"host": "a.example", "methods": ["GET"], "paths": ["/a", "/b"]}
    has = {"host": "a.example", "methods": ["GET", "PUT"], "paths": ["/a", "/b", "/c"]}
    found = beyond(rules(has), rules(had))
    assert [(rule.methods, rule.paths) for rule in found.rules] == [
        (("PUT",), ("/a", "/b")),
        (("GET", "PUT"), ("/c",)),
    ]


def test_a_path_more_for_all_methods() -> None:
    had = rules({"host": "a.example", "paths": ["/a"]})
    has = rules({"host": "a.example", "paths": ["/a", "/b"]})
    assert beyond(has, had) == Beyond(rules=rules({"host": "a.example", "paths": ["/b"]}))


def test_what_does_not_ask_or_deny_any_more() -> None:
    asking, all_of_it = GITHUB | {"ask": True}, {"host": "api.github.com"}
    denying = {"host": "**.github.com", "paths": ["/admin/**"], "deny": True}
    before = rules(all_of_it, asking, denying)
    assert beyond(rules(all_of_it, asking, denying), before) == Beyond()
    assert beyond(rules(all_of_it, denying), before) == Beyond(dropped=rules(asking))
    assert beyond(rules(all_of_it, asking), before) == Beyond(dropped=rules(denying))
    assert beyond(rules(GITHUB), rules(asking)) == Beyond(dropped=rules(asking))
    every = {"host": "api.github.com", "ask": True}
    assert beyond(rules(every, denying), before) == Beyond()  # asks for more than before


@pytest.mark.parametrize("entry", [GITHUB, GITHUB | {"paths": ["/repos/**"]}, {"preset": "github"}])
def test_what_is_covered_was_allowed(entry: dict[str, Any]) -> None:
    """The comparison agrees with the judge."""
    target = "/repos/acme/site/issues"
    asked = Asked("https", "api.github.com", 443, "POST", target)
    had, has = rules(entry), rules({**GITHUB, "paths": [target]})
    assert judge(had, asked).decision == "allow"
    assert not beyond(has, had)


def test_budgets_that_are_raised_or_given_up() -> None:
    before = Budget(cost=2.0, requests=10, tokens=5)
    now = Budget(cost=3.0, requests=9, bytes_in=7, ask=True)
    found = beyond((), (), now, before)
    assert found.raised == (
        Raised("cost", 2.0, 3.0),
        Raised("tokens", 5, None),
        Raised("ask", False, True),
    )
    assert not beyond((), (), before) and not beyond((), (), now)
