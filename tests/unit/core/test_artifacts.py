"""What an artifact may be called, and of what type it is."""

from __future__ import annotations

import pytest

from torpor.core.artifacts import guess_media_type, media_type_fault, name_fault

GOOD = ("a", "out/report.csv", "ünï.pdf", "a b:c#1.txt", ".hidden", "..x", "x" * 256)
BAD = ("", "/a", "a/", "a//b", "./a", "a/../b", "..", "a\nb", "a\\b", "\ud800", "x" * 257, "a\x7f")


@pytest.mark.parametrize("name", GOOD)
def test_a_name_is_a_plain_relative_path(name: str) -> None:
    assert name_fault(name) == ""


@pytest.mark.parametrize("name", BAD)
def test_what_is_none_is_refused_in_words(name: str) -> None:
    assert name_fault(name)


def test_a_media_type_cannot_end_a_header() -> None:
    for fine in ("text/csv", "image/svg+xml", "text/plain; charset=utf-8", 'a/b;c="d e"'):
        assert media_type_fault(fine) == ""
    for odd in ("text", "text/csv\r\nx: y", "text/", "a b/c", "x/" + "y" * 200, "a/b;", "é/b"):
        assert media_type_fault(odd)


def test_it_follows_from_the_name() -> None:
    known = {"a.csv": "text/csv", "x/B.PNG": "image/png", "log.md": "text/markdown"}
    known |= {"a.tar.gz": "application/gzip", "Makefile": "application/octet-stream"}
    known |= {"html": "application/octet-stream", "page.html": "text/html"}
    assert {name: guess_media_type(name) for name in known} == known
