"""What a secret may be called, be, and serve."""

from __future__ import annotations

from typing import Any

import pytest

from torpor.core.errors import Invalid
from torpor.core.placements import VALUE_CHARS_MAX
from torpor.core.secrets import (
    BEARER,
    Terms,
    check_secret_name,
    check_value,
    parse_terms,
)

VALUE = "k-5f1c0de9"


@pytest.mark.parametrize("name", ["A", "GITHUB_TOKEN", "_x", "team-key", "a1", "x" * 100])
def test_names(name: str) -> None:
    assert check_secret_name(name) == name


@pytest.mark.parametrize("name", ["", "1A", "-a", "a b", "a.b", "ä", "a\n", "a/b", "x" * 300, None])
def test_what_is_no_name(name: Any) -> None:
    with pytest.raises(Invalid, match="no name of a secret"):
        check_secret_name(name)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_end_of_the_line_is_no_part_of_a_value(end: str) -> None:
    assert check_value(VALUE + end) == VALUE


@pytest.mark.parametrize(
    "value",
    [
        *("", "\n", VALUE + "\n\n", f"{VALUE}\n{VALUE}", f"{VALUE}\r{VALUE}"),
        *(f"{VALUE}{odd}" for odd in ("\0", "\x7f", "\t", "ü", "\u2028", "\ud800", " ")),
        *(f" {VALUE}", "x" * (VALUE_CHARS_MAX + 1)),
    ],
)
def test_what_cannot_be_sent_is_refused_and_not_shown(value: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_value(value)
    assert VALUE not in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"header": "Authorization: Bearer {}"}, None),
        ({"header": "x-api-key:{}"}, {"header": "x-api-key: {}"}),
        ({"header": "Cookie: session={}; theme=dark"}, None),
        ({"query": "key"}, None),
        ({"basic": "api"}, None),
    ],
)
def test_places(given: dict[str, str], kept: dict[str, str] | None) -> None:
    assert parse_terms({"hosts": ["a.example"], "placement": given}, "X").placement == (
        kept or given
    )


@pytest.mark.parametrize(
    "given",
    [
        *("x", {}, {"body": "x"}, {"header": 1}, {"header": "a: {}", "query": "b"}),
        *({"header": text} for text in ("", "Authorization", "X: Bearer", "a b: {}")),
        *({"header": text} for text in (": {}", "a: {} {}", "a: {}\r\nb: c", "a: {}ü", "{}: a")),
        *({"header": text} for text in ("a\nb: {}", "a: b\n{}")),
        *({"header": f"{name}: {{}}"} for name in ("Host", "connection", "TE", "Upgrade")),
        *({"header": f"{name}: {{}}"} for name in ("Content-Length", "Proxy-Authorization")),
        *({"query": text} for text in ("", "a b", "a&b", "a=b", "a#", "ü")),
        *({"basic": text} for text in ("a:b", "a\n")),
    ],
)
def test_what_is_no_place(given: Any) -> None:
    with pytest.raises(Invalid):
        parse_terms({"hosts": ["a.example"], "placement": given}, "X")


def test_terms_are_completed_from_presets() -> None:
    def placed(name: str, *hosts: str) -> Any:
        return parse_terms({"hosts": list(hosts)}, name).placement

    assert placed("X", "api.example.com") == BEARER
    assert placed("X", "api.anthropic.com") == {"header": "x-api-key: {}"}
    assert placed("X", "generativelanguage.googleapis.com") == {"header": "x-goog-api-key: {}"}
    # Not all of the hosts are the preset's: nothing is guessed.
    assert placed("X", "api.anthropic.com", "api.example.com") == BEARER
    assert placed("AZURE_OPENAI_API_KEY", "acme.openai.azure.com") == {"header": "api-key: {}"}
    assert placed("X", "acme.openai.azure.com") == BEARER
    # Git over https wants another place than GitHub's API.
    git = {"basic": "x-access-token"}
    assert (
        placed("GITHUB_TOKEN", "github.com") == placed("X", "api.github.com", "github.com") == git
    )
    assert placed("GITHUB_TOKEN", "api.github.com", "uploads.github.com") == BEARER
    known = parse_terms({}, "ANTHROPIC_API_KEY")
    assert known == Terms(("api.anthropic.com",), {"header": "x-api-key: {}"})
    given = {"hosts": ["API.Example.com.", "api.example.com"], "agents": ["a", "b", "a"]}
    terms = parse_terms(given | {"placement": {"query": "key"}}, "X")
    assert terms == Terms(("api.example.com",), {"query": "key"}, ("a", "b"))
    assert Terms.of_json(terms.to_json()) == terms


@pytest.mark.parametrize(
    "hosts",
    [
        *([], None, [""], ["*.github.io"], ["*.co.uk"], ["*"], ["10.0.0.1"], ["localhost"]),
        *(["https://a.example"], ["a.example:443"], ["a..example"], "a.example", [1]),
        ["a.example"] * 101,
    ],
)
def test_hosts_are_as_in_rules(hosts: Any) -> None:
    with pytest.raises(Invalid):
        parse_terms({"hosts": hosts}, "X")
