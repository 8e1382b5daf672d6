"""Entries of what went out: what they may hold."""

from __future__ import annotations

from typing import Any

import pytest

from torpor.contextlog import codecs, egress
from torpor.core.errors import Invalid
from torpor.core.ids import OpId

ASKED = {"scheme": "https", "host": "api.example.com", "port": 443, "target": "/v1/a?b=c"}


@pytest.mark.parametrize(
    ("given", "url"),
    [
        (ASKED, "https://api.example.com/v1/a?b=c"),
        ({**ASKED, "port": 8443}, "https://api.example.com:8443/v1/a?b=c"),
        ({**ASKED, "scheme": "http", "port": 80}, "http://api.example.com/v1/a?b=c"),
        ({"scheme": "tcp", "host": "db", "port": 5432}, "tcp://db:5432"),
        ({"scheme": "tcp", "host": "::1", "port": 5432}, "tcp://[::1]:5432"),
    ],
)
def test_a_url_as_people_write_it(given: dict[str, Any], url: str) -> None:
    assert egress.url(given) == url


def test_what_is_too_long_is_cut_and_can_be_written() -> None:
    entry = egress.entry(
        egress.REFUSED, url="x" * 1_000_000, code="denied", reason="r" * 10_000, rule=None
    )
    assert codecs.check(entry.kind, entry.op, entry.data)
    assert entry.data["url"].endswith("x…") and len(entry.data["url"]) == egress.URL_CHARS_MAX
    assert "rule" not in entry.data
    part = egress.part(OpId("model:a#1"), "t" * 1_000_000)
    assert codecs.check(part.kind, part.op, part.data)


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        (egress.REQUEST, {"id": "1"}, "lacks rule, url"),
        (egress.ENDED, {"id": "1", "sent": -1, "received": 0, "ms": 0}, "sent must be a count"),
        (egress.ENDED, {"id": "1", "sent": True, "received": 0, "ms": 0}, "sent must be a count"),
        (egress.REFUSED, {"code": "denied", "reason": ["no"]}, "reason must be text"),
        (egress.REFUSED, {"code": "denied", "reason": "", "header": "x"}, "no part of it"),
        (egress.PART, {"text": "x" * 100_000}, "text must be text of at most 65,536"),
        (egress.PART, [], "must be a JSON object"),
    ],
)
def test_what_is_no_such_entry_is_refused(kind: str, data: Any, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        codecs.check(kind, None, data)
