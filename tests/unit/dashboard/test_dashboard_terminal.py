"""What was written for a terminal, as lines of a page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.dashboard import render
from torpor.dashboard.terminal import PLAIN, Piece, Style, bare, lines


def shown(text: str) -> list[list[tuple[str, str]]]:
    return [[(piece.text, piece.style.classes) for piece in line] for line in lines(text)]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a\x1b[31mb\x1b[0mc", [("a", ""), ("b", "red"), ("c", "")]),
        ("\x1b[1;32mok\x1b[22m so", [("ok", "bold green"), (" so", "green")]),
        ("\x1b[91mbright\x1b[39m none", [("bright", "red"), (" none", "")]),
        ("\x1b[90mgrey", [("grey", "grey")]),
        ("\x1b[37mwhite\x1b[30mblack", [("whiteblack", "")]),
        ("\x1b[38;5;208morange", [("orange", "yellow")]),
        ("\x1b[38;5;21mblue\x1b[38;5;250mpale", [("blue", "blue"), ("pale", "")]),
        ("\x1b[38;2;255;0;255mrgb", [("rgb", "magenta")]),
        ("\x1b[38:2::0:255:255mcolons", [("colons", "cyan")]),
        ("\x1b[31;44mon blue\x1b[49m off", [("on blue", "on-blue"), (" off", "red")]),
        ("\x1b[7mturned\x1b[27m", [("turned", "inverse")]),
        ("\x1b[4:3mcurly\x1b[4:0mnot", [("curly", "underline"), ("not", "")]),
        ("\x1b[mnothing", [("nothing", "")]),
    ],
)
def test_colours_are_styles(text: str, pieces: list[tuple[str, str]]) -> None:
    assert shown(text) == [pieces]


def test_a_style_goes_on_into_the_next_line() -> None:
    assert shown("\x1b[33ma\nb\x1b[0m\nc\n") == [[("a", "yellow")], [("b", "yellow")], [("c", "")]]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("  0 %\r 50 %\r100 %", "100 %"),
        ("a long line\rshort", "shortg line"),
        ("a long line\r\x1b[Kshort", "short"),
        ("a long line\x1b[2K\rshort", "short      "),
        ("abc\b\bX", "aXc"),
        ("over\r\n", "over"),
        ("half\r", "half"),
    ],
)
def test_a_line_that_is_written_over_is_what_it_was_at_the_end(text: str, line: str) -> None:
    assert [bare(each) for each in lines(text)] == [line]


@pytest.mark.parametrize(
    "text",
    [
        "\x1b]0;a title\x07a",
        "\x1b]8;;https://example.com\x1b\\a\x1b]8;;\x1b\\",
        "\x1b[2J\x1b[1;1Ha",
        "\x1b(Ba\x1b=",
        "a\x07",
        "\x9b1ma\x9bm",
        "a\x1b[38;5",
        "a\x1b]never ended",
        "a\x1b",
    ],
)
def test_what_steers_a_terminal_otherwise_is_dropped(text: str) -> None:
    assert [bare(each) for each in lines(text)] == ["a"]


def test_other_controls_can_be_seen() -> None:
    assert lines("a\x00b\tc") == [(Piece("a\N{REPLACEMENT CHARACTER}b\tc"),)]


@given(
    st.text(alphabet=st.sampled_from("\x1b[]0123456789;:mK\r\b\nab\x07\x9b<&é\x00"), max_size=80)
)
def test_whatever_is_printed_no_control_is_left(text: str) -> None:
    for line in lines(text):
        assert not set(bare(line)) & set("\x1b\r\b\n\x07\x9b\x00")


def test_what_is_printed_is_escaped() -> None:
    html = render.terminal("\x1b[31m<script>\x1b[0m&\n")
    assert html == '<span class="red">&lt;script&gt;</span>&amp;'
    assert Style(bold=True, inverse=True, ink="red").classes == "bold inverse"
    assert PLAIN.classes == ""
