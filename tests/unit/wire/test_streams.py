"""Frames: what is none is refused."""

from __future__ import annotations

import pytest

from torpor.core.errors import Invalid
from torpor.wire import streams
from torpor.wire.streams import FROM_GUEST, NOTE


def note(name: bytes) -> bytes:
    return streams.encode(NOTE, 0, {"code": "x", "name": "NAME"}).replace(b"NAME", name)


def test_a_frame_may_have_any_text() -> None:
    for name in (rb"\ud83d\ude00", "😀".encode()):
        assert streams.decode(note(name), FROM_GUEST).fields["name"] == "😀"


@pytest.mark.parametrize("name", [rb"\ud800", rb"\uDFFF", b"\xed\xa0\x80", b"\xff"])
def test_text_that_is_no_unicode_is_refused(name: bytes) -> None:
    with pytest.raises(Invalid, match="frame note is not JSON"):
        streams.decode(note(name), FROM_GUEST)
