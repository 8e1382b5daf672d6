"""Names of hosts, and patterns for them and for paths."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.core.errors import Invalid
from torpor.core.hostnames import check_pattern, matches, normalize_host
from torpor.core.targets import path_matches, segment_matches


@pytest.mark.parametrize(
    "pattern",
    [
        *("*.com", "**.com", "*.co.uk", "**.com.au", "*.ac.jp", "*.github.io", "**.github.io"),
        *("*.herokuapp.com", "*.amazonaws.com", "*.s3.eu-west-1.amazonaws.com", "*.vercel.app"),
        *("*.pages.dev", "*.workers.dev", "*.ngrok-free.app", "*.openai.azure.com", "*.azure.com"),
        *("*.blob.core.windows.net", "*.googleapis.com", "**.a.run.app", "*.hf.space", "*.nip.io"),
    ],
)
def test_a_wildcard_of_what_anybody_can_have_a_name_below_is_refused(pattern: str) -> None:
    with pytest.raises(Invalid, match="anybody") as refusal:
        check_pattern(pattern, "host")
    assert "one by one" in refusal.value.hint
    assert check_pattern(pattern, "host", every=True) == pattern


@pytest.mark.parametrize(
    "pattern", ["*.example.com", "**.acme.co.uk", "*.acme.github.io", "a.github.io", "corp"]
)
def test_a_wildcard_of_somebodys_own_domain_is_none_of_these(pattern: str) -> None:
    assert check_pattern(pattern, "host") == pattern


@pytest.mark.parametrize(
    "host",
    [
        *(
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.0.0.1",
            "017700000001",
            "1.2.3.4.",
        ),
        *(
            "0177.0.0.1",
            "[::1]",
            "::1",
            "[::ffff:127.0.0.1]",
            "::ffff:7f00:1",
            "a.b.0x1",
            "1",
            "0x",
        ),
        *("fe80::1%eth0", "169.254.169.254", "[fd00:ec2::254]", "64:ff9b::a9fe:a9fe"),
    ],
)
def test_attempt_18_an_address_is_no_name_in_any_spelling(host: str) -> None:
    with pytest.raises(Invalid, match=r"is an address|is not the name"):
        normalize_host(host, "host")
    with pytest.raises(Invalid):
        check_pattern(host, "host", every=True)


@given(st.text(max_size=40))
def test_a_name_has_one_spelling_or_is_refused(text: str) -> None:
    try:
        name = normalize_host(text, "host")
    except Invalid:
        return
    assert normalize_host(name, "host") == name == name.lower()
    assert name.isascii() and name.isprintable() and matches(name, name)


SEGMENTS = st.text("ab*", max_size=8)


@given(SEGMENTS, st.text("ab", max_size=12))
def test_a_star_stands_for_anything_within_a_segment(pattern: str, text: str) -> None:
    assert segment_matches(pattern, text) == fnmatchcase(text, pattern)


def matches_slowly(pattern: list[str], path: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(matches_slowly(pattern[1:], path[n:]) for n in range(len(path) + 1))
    return (
        bool(path)
        and segment_matches(pattern[0], path[0])
        and matches_slowly(pattern[1:], path[1:])
    )


@given(
    st.lists(st.sampled_from(["a", "b", "*", "a*", "**"]), max_size=6),
    st.lists(st.sampled_from(["a", "b", "ab", ""]), max_size=8),
)
def test_two_stars_stand_for_any_number_of_segments(pattern: list[str], path: list[str]) -> None:
    found = path_matches("/" + "/".join(pattern), "/" + "/".join(path))
    assert found == matches_slowly(["", *(pattern or [""])], ["", *(path or [""])])


def test_a_hostile_path_takes_no_time_to_compare() -> None:
    path = "/" + "a" * 8000 + "/a" * 4000
    assert not path_matches("/" + "a*" * 300 + "b/**/a/**/b/**/a/b", path)
