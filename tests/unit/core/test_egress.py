"""Rules of the way out, and what they say of requests. The attempts are those of docs/egress.md."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.core.egress import (
    ALLOW,
    ASK,
    DENY,
    Request,
    Rule,
    Verdict,
    judge,
    parse_budget,
    parse_egress,
    parse_rule,
)
from torpor.core.errors import Invalid

ALLOWED = [
    {"host": "allowed.com"},
    {"host": "*.one.example"},
    {"host": "**.deep.example"},
    {"host": "db.example.com", "port": 5432, "protocol": "tcp"},
    {"host": "api.example.com", "methods": ["GET"], "paths": ["/v1/**", "/items/*/name"]},
]
RULES = parse_egress(ALLOWED, "egress")


def ask_for(url: str, method: str = "GET", **headers: str) -> Request:
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    host, _, port = place.rpartition(":") if ":" in place else (place, "", "")
    number = int(port) if port else {"https": 443, "http": 80}[scheme]
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return Request(scheme, host, number, method, slash + path, pairs)


def verdict(url: str, method: str = "GET", **headers: str) -> Verdict:
    return judge(RULES, ask_for(url, method, **headers))


def refused(found: Verdict, code: str) -> bool:
    assert found.decision == DENY and found.reason and not found.secret
    return found.code == code


@pytest.mark.parametrize(
    "url",
    [
        "https://allowed.com/",
        "https://ALLOWED.com./x?y=1",
        "https://a.one.example/",
        "https://deep.example/",
        "https://a.b.deep.example/",
        "https://api.example.com/v1/",
        "https://api.example.com/v1/a/b?c=%2e%2e",
        "https://api.example.com/items/3/n%61me",
    ],
)
def test_what_a_rule_names_is_allowed(url: str) -> None:
    assert verdict(url).decision == ALLOW


def test_attempt_01_a_host_that_no_rule_names_is_refused_with_what_to_do() -> None:
    found = verdict("https://unlisted.example.org/")
    assert refused(found, "no_rule")
    assert found.message == (
        "no rule allows unlisted.example.org. Add [[tool.torpor.egress]] "
        'host = "unlisted.example.org" to the agent\'s file, and deploy it.'
    )
    database = judge(RULES, Request("tcp", "unlisted.example.org", 5432))
    assert refused(database, "no_rule")
    assert 'host = "unlisted.example.org", protocol = "tcp", port = 5432' in database.message
    plain = verdict("http://unlisted.example.org:8080/")
    assert 'host = "unlisted.example.org", protocol = "http", port = 8080' in plain.message
    assert "[[host]] in egress.toml" in verdict("http://localhost:8080/").message
    assert judge(RULES, Request("tcp", "db.example.com", 5432)).decision == ALLOW


@pytest.mark.parametrize("host", ["evil.com\0.allowed.com", "allowed.com\0.evil.com", "a\r\n.b"])
def test_attempt_02_a_host_with_nul_or_line_breaks_is_none(host: str) -> None:
    assert refused(judge(RULES, Request("https", host, 443, "GET", "/")), "bad_host")


@pytest.mark.parametrize(
    "host",
    [
        *("allowed.com.evil.com", "evilallowed.com", "xallowed.com", "a.allowed.com"),
        *("a.b.one.example", "one.example", "xdeep.example", "deep.example.org", "com"),
    ],
)
def test_attempt_03_names_that_only_look_alike_are_others(host: str) -> None:
    assert refused(verdict(f"https://{host}/"), "no_rule")


@pytest.mark.parametrize(
    "host",
    [
        *(" allowed.com", "allowed.com ", "allowed.com..", ".allowed.com", "allowed..com"),
        *("allоwed.com", "ALLOWED。com", "allowed.com%00", "user@allowed.com"),
        *(
            "allowed.com:443",
            "allowed.com/",
            "*.one.example",
            "",
            "-allowed.com",
            "a" * 64 + ".com",
        ),
    ],
)
def test_attempt_04_a_host_in_another_spelling_is_the_same_or_none(host: str) -> None:
    assert verdict("https://AlLoWeD.cOm./").decision == ALLOW
    assert refused(judge(RULES, Request("https", host, 443, "GET", "/")), "bad_host")
    with pytest.raises(Invalid):
        parse_rule({"host": f"x{host}" if host.startswith("*") else host}, "rule")


def test_attempt_04_a_rule_names_a_host_in_punycode() -> None:
    with pytest.raises(Invalid, match="not in ASCII") as refusal:
        parse_rule({"host": "bücher.example"}, "rule")
    assert "xn--" in refusal.value.hint
    assert parse_rule({"host": "XN--bcher-kva.example."}, "rule").host == "xn--bcher-kva.example"


def test_attempt_07_another_port_of_an_allowed_host_is_refused() -> None:
    found = verdict("https://allowed.com:8443/")
    assert refused(found, "port") and found.rule == "host allowed.com"
    assert refused(judge(RULES, Request("tcp", "db.example.com", 22)), "port")
    assert refused(judge(RULES, Request("tcp", "allowed.com", 443)), "protocol")


def test_attempt_08_plain_http_to_a_host_that_is_allowed_over_https_is_refused() -> None:
    assert refused(verdict("http://allowed.com/"), "plain_http")
    assert refused(verdict("http://allowed.com:443/"), "plain_http")


@pytest.mark.parametrize(
    "entry",
    [
        *(
            {},
            {"host": ""},
            {"host": 3},
            {"hosts": "a.example"},
            {"host": "a.example", "path": "/"},
        ),
        *(
            "a.example",
            None,
            {"host": "a.example", "port": 0},
            {"host": "a.example", "port": "443"},
        ),
        *({"host": "a.example", "port": True}, {"host": "a.example", "protocol": "ftp"}),
        *({"host": "a.example", "methods": []}, {"host": "a.example", "methods": ["TRACE"]}),
        *({"host": "a.example", "methods": "GET"}, {"host": "a.example", "paths": []}),
        *({"host": "a.example", "paths": ["x"]}, {"host": "a.example", "paths": ["/a/../b"]}),
        *({"host": "a.example", "paths": ["/a**"]}, {"host": "a.example", "paths": ["/a?b"]}),
        *({"host": "a.example", "secret": True}, {"host": "a.example", "secret": "a b"}),
        *({"host": "a.example", "ask": "yes"}, {"host": "a.example", "record": "model"}),
        *({"host": "a.example", "protocol": "http", "secret": "KEY"}, {"host": "**"}),
        {"host": "a.example", "protocol": "tcp"},
        {"host": "a.example", "protocol": "tcp", "port": 5432, "secret": "KEY"},
        {"host": "a.example", "protocol": "tcp", "port": 5432, "paths": ["/"]},
        {"host": "a.example", "deny": True, "secret": "KEY"},
        *({"preset": "nobody"}, {"preset": 3}, {"preset": "openai", "host": "evil.example"}),
        *({"preset": "azure"}, {"preset": "pypi", "methods": ["POST"]}, {"preset": "pypi", "x": 1}),
        {"preset": "ollama", "secret": "KEY"},
        *({"host": "*"}, {"host": "a*.example.com"}, {"host": "a.*.example.com"}),
        *({"host": "localhost"}, {"host": "a.localhost"}, {"host": "model.torpor"}),
        *({"host": "127.0.0.1"}, {"host": "2130706433"}, {"host": "0x7f.1"}, {"host": "[::1]"}),
        *({"host": "https://a.example"}, {"host": "a.example/x"}, {"host": "a.example:443"}),
    ],
)
def test_attempt_11_a_rule_that_cannot_be_read_is_refused(entry: Any) -> None:
    with pytest.raises(Invalid) as refusal:
        parse_egress([entry], "egress")
    assert refusal.value.message.startswith("egress[0]")


def test_attempt_11_no_rules_allow_nothing() -> None:
    assert refused(judge((), ask_for("https://allowed.com/")), "no_rule")
    nothing: list[Any] = [None, {}, "x", [[]] * 201]
    for entries in nothing:
        with pytest.raises(Invalid):
            parse_egress(entries, "egress")


@pytest.mark.parametrize(
    "target",
    [
        *("/v1/../admin", "/v1/..", "/v1/./x", "/v1/%2e%2e/admin", "/v1/%2E./admin", "/v1//admin"),
        *("/v1/%2Fadmin", "/v1/a%5c..%5cadmin", "/v1/a\\..\\admin", "/v1/a;/../admin", "/v1/a;x=1"),
        *("/v1/%3Bx", "/v1/%00", "/v1/%252e%252e/admin", "/v1/%", "/v1/%zz", "/v1/%0a", "/v1/%7f"),
        *("/v1/x%3fy", "/v1/x%23y", "//api.example.com/v1/x"),
    ],
)
def test_attempt_12_paths_that_servers_read_differently_are_refused(target: str) -> None:
    request = Request("https", "api.example.com", 443, "GET", target)
    assert refused(judge(RULES, request), "ambiguous_target")
    # A rule that does not look at paths has nothing to be deceived about.
    assert judge(parse_egress([{"host": "api.example.com"}], ""), request).decision == ALLOW
    # Neither is a way around what is denied.
    denying = [
        {"host": "api.example.com"},
        {"host": "api.example.com", "paths": ["/x"], "deny": True},
    ]
    assert judge(parse_egress(denying, ""), request).decision == DENY


@pytest.mark.parametrize("target", ["*", "", "x", "https://evil.com/", "/a b", "/ä", "/a#b", "/\n"])
def test_attempt_06_what_is_no_target_is_refused_whatever_the_rules(target: str) -> None:
    assert refused(judge(RULES, Request("https", "allowed.com", 443, "GET", target)), "bad_target")


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "get", "PRI", "", "G ET", "PROPFIND"])
def test_attempt_13_methods_that_are_not_known_are_refused(method: str) -> None:
    assert refused(verdict("https://allowed.com/", method), "bad_method")


def test_attempt_13_a_header_that_replaces_the_method_is_refused_where_methods_are() -> None:
    url = "https://api.example.com/v1/x"
    for name in ("x_http_method_override", "x_http_method", "x_method_override"):
        assert refused(verdict(url, **{name: "DELETE"}), "method_override")
        assert verdict("https://allowed.com/", **{name: "DELETE"}).decision == ALLOW
    for query in ("_method=DELETE", "a=1&_method=DELETE", "%5fmethod=DELETE", "a=1;_METHOD=x"):
        assert refused(verdict(f"{url}?{query}"), "method_override")
    assert verdict(f"{url}?the_method=x").decision == ALLOW
    assert refused(verdict(url, x_original_url="/admin"), "path_override")


def test_a_method_or_a_path_that_no_rule_names_is_refused_with_those_that_are() -> None:
    found = verdict("https://api.example.com/v1/x", "POST")
    assert refused(found, "method") and "GET" in found.reason and '"POST"' in found.hint
    found = verdict("https://api.example.com/v2/x")
    assert refused(found, "path") and "/v1/**" in found.reason


def test_attempt_38_a_path_keeps_an_agent_to_one_repository_of_a_forge() -> None:
    """Without one, whatever the token may do is done, also to an attacker's repository."""
    entry = {"host": "api.github.com", "methods": ["POST"], "paths": ["/repos/acme/*/issues"]}
    rules = parse_egress([entry], "")
    ours = "https://api.github.com/repos/acme/site/issues"
    assert judge(rules, ask_for(ours, "POST")).decision == ALLOW
    for url in ("https://api.github.com/gists", "https://api.github.com/repos/evil/x/issues"):
        assert refused(judge(rules, ask_for(url, "POST")), "path")
    assert refused(judge(rules, ask_for("https://github.com/evil/x/git-receive-pack")), "no_rule")


def test_attempt_39_a_path_keeps_an_agent_to_its_own_bucket() -> None:
    """A signed URL of an attacker's bucket needs no secret of ours: an object store that all share
    is as open as its rule."""
    host = "s3.eu-west-1.amazonaws.com"
    signed = f"https://{host}/evil-bucket/loot?X-Amz-Signature=abc"
    assert judge(parse_egress([{"host": host}], ""), ask_for(signed, "PUT")).decision == ALLOW
    rules = parse_egress([{"host": host, "paths": ["/our-bucket/**"]}], "")
    assert refused(judge(rules, ask_for(signed, "PUT")), "path")
    # By the bucket's own name, the rule is narrow by itself.
    rules = parse_egress([{"host": f"our-bucket.{host}"}], "")
    other = f"https://evil-bucket.{host}/loot?X-Amz-Signature=abc"
    assert refused(judge(rules, ask_for(other, "PUT")), "no_rule")
    with pytest.raises(Invalid, match="anybody"):
        parse_egress([{"host": f"*.{host}"}], "")


def test_attempt_37_a_host_that_is_only_read_gets_what_is_in_queries_and_headers() -> None:
    """What is not stopped: a GET carries data in its query. Methods keep bodies in, paths keep
    requests to what is named, `bytes_out` bounds the rest (test_budgets)."""
    rules = parse_egress([{"host": "a.example", "methods": ["GET"]}], "")
    assert judge(rules, ask_for("https://a.example/?q=data", user_agent="data")).decision == ALLOW
    assert refused(judge(rules, ask_for("https://a.example/", "POST")), "method")


def test_denying_wins_then_asking_then_allowing_in_any_order() -> None:
    entries = [
        {"host": "a.example", "paths": ["/**"]},
        {"host": "a.example", "methods": ["DELETE"], "ask": True},
        {"host": "**.example.org"},
        {"host": "a.example", "paths": ["/secret/**"], "deny": True},
    ]
    for order in (entries, entries[::-1]):
        rules = parse_egress(order, "")

        def decision(target: str, method: str = "GET", rules: Any = rules) -> tuple[str, str]:
            found = judge(rules, Request("https", "a.example", 443, method, target))
            return found.decision, found.record

        assert decision("/x") == (ALLOW, "")
        assert decision("/x", "DELETE") == (ASK, "http")
        assert decision("/secret/x", "DELETE") == (DENY, "")
        # What a server may take for the same.
        assert decision("/SECRET/x")[0] == decision("/s%65cret")[0] == DENY


def test_what_is_recorded_is_so_in_the_spelling_that_a_server_may_take_for_the_same() -> None:
    rules = parse_egress([{"preset": "openai"}], "")
    for path in ("/v1/chat/completions", "/v1/Chat/Completions/", "/v1/chat%2Dcompletions"):
        found = judge(rules, Request("https", "api.openai.com", 443, "POST", path))
        assert (found.decision, found.secret) == (ALLOW, "OPENAI_API_KEY")
        assert found.record == ("model" if "-" not in path and "%" not in path else "")
    assert refused(judge(rules, ask_for("https://api.openai.com/V1/chat/completions")), "path")


def test_two_secrets_for_one_request_are_refused() -> None:
    rules = parse_egress(
        [
            {"host": "a.example", "secret": "ONE", "paths": ["/one/**"]},
            {"host": "*.example", "secret": "TWO"} | {"host": "**.a.example"},
            {"host": "a.example"},
        ],
        "",
    )
    rules = (*rules[:1], parse_rule({"host": "a.example", "secret": "TWO"}, ""), *rules[2:])
    found = judge(rules, ask_for("https://a.example/one/x"))
    assert refused(found, "two_secrets") and "ONE and TWO" in found.reason
    assert judge(rules, ask_for("https://a.example/two")).secret == "TWO"


def test_the_hosts_ceilings_deny_and_ask_and_allow_nothing() -> None:
    ceilings = [
        parse_rule({"host": "**.example.net", "deny": True}, ""),
        parse_rule({"host": "allowed.com", "methods": ["DELETE"], "ask": True}, "", limiting=True),
        parse_rule({"host": "elsewhere.example", "ask": True}, "", limiting=True),
        Rule("more.example"),
    ]
    rules = (*RULES, *parse_egress([{"host": "x.example.net"}, {"host": "example.net"}], ""))
    assert judge(rules, ask_for("https://allowed.com/"), ceilings).decision == ALLOW
    assert judge(rules, ask_for("https://allowed.com/", "DELETE"), ceilings).decision == ASK
    for host in ("x.example.net", "example.net"):
        assert refused(judge(rules, ask_for(f"https://{host}/"), ceilings), "denied")
    for host in ("elsewhere.example", "more.example"):
        assert refused(judge(rules, ask_for(f"https://{host}/"), ceilings), "no_rule")


def test_the_guest_gets_all_of_a_rule_but_the_name_of_its_secret() -> None:
    everything = [*ALLOWED, {"preset": "openai"}, {"preset": "ollama", "ask": True}]
    for rule in parse_egress(everything, ""):
        sent = rule.to_guest()
        assert sent.get("secret", False) is bool(rule.secret)
        assert Rule.from_guest(sent).to_guest() == sent
        assert Rule.from_guest(sent).paths == rule.paths


@pytest.mark.parametrize(
    ("budget", "amounts"),
    [
        ({}, (None, None, None, None, None, False)),
        (
            {"cost": "2 USD", "tokens": "1.5M", "requests": 1000, "bytes_out": "20M", "ask": True},
            (2.0, 1_500_000, 1000, 20 << 20, None, True),
        ),
        (
            {"cost": "$0.50", "bytes_in": 1024, "tokens": "10K"},
            (0.5, 10_000, None, None, 1024, False),
        ),
    ],
)
def test_a_budget(budget: Any, amounts: tuple[Any, ...]) -> None:
    read = parse_budget(budget, "budget")
    found = (read.cost, read.tokens, read.requests, read.bytes_out, read.bytes_in, read.ask)
    assert found == amounts


@pytest.mark.parametrize(
    "budget",
    [
        *({"cost": 2}, {"cost": "2 EUR"}, {"cost": "-1 USD"}, {"cost": "nan USD"}, {"x": 1}, []),
        *({"tokens": -1}, {"tokens": True}, {"tokens": 1.5}, {"bytes_out": "20 parsecs"}),
        *({"requests": "lots"}, {"ask": 1}, {"cost": "99999999 USD"}, {"bytes_in": "9999999T"}),
    ],
)
def test_a_budget_that_cannot_be_read_is_refused(budget: Any) -> None:
    with pytest.raises(Invalid, match=r"^budget"):
        parse_budget(budget, "budget")


SOME = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
KEYS = ("host", "port", "protocol", "methods", "paths", "secret", "ask", "record", "preset", "deny")


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), SOME, max_size=4), max_size=3))
def test_anything_is_read_or_refused(entries: list[dict[str, Any]]) -> None:
    try:
        rules = parse_egress(entries, "egress")
    except Invalid as refusal:
        assert refusal.message.startswith("egress")
    else:
        assert len(rules) <= len(entries) * 10


NAMES = st.text(string.ascii_letters + string.digits + ".-_*:[]% \0é", max_size=30)


@given(NAMES, st.integers(-1, 70_000), st.text(max_size=10), st.text(max_size=40))
def test_any_request_gets_a_verdict_and_only_a_named_host_is_allowed(
    host: str, port: int, method: str, target: str
) -> None:
    for scheme in ("https", "tcp", "x"):
        found = judge(RULES, Request(scheme, host, port, method, target))
        if found.decision != DENY:
            assert host.lower().removesuffix(".").endswith((".example", "example.com", "wed.com"))


PIECES = st.sampled_from(["a", "b", "..", ".", "%2e", "%2F", "/", ";", "\\", "%61", "v1", "%"])


@given(st.lists(PIECES, max_size=8).map(lambda pieces: "/v1/" + "/".join(pieces)))
def test_what_is_allowed_below_a_path_stays_below_it_however_it_is_unescaped(target: str) -> None:
    from posixpath import normpath
    from urllib.parse import unquote

    request = Request("https", "api.example.com", 443, "GET", target)
    if judge(RULES, request).decision == ALLOW:
        read = unquote(unquote(target)).replace("\\", "/")
        assert normpath(read).startswith("/v1")
        assert normpath(read) == read.rstrip("/")
