"""Frames as lines, where there is no link."""

from __future__ import annotations

import pytest

from torpor.core.errors import Invalid
from torpor.wire import streams
from torpor.wire.streams import DATA, FROM_GUEST, encode_at, of_line, to_line


def test_a_frame_comes_back_from_its_line() -> None:
    frame = encode_at(DATA, 7, 3, b"\n~\0" * 1000)
    line = to_line(frame)
    assert line.startswith(streams.LINE) and b"\n" not in line
    assert of_line(line) == frame
    assert streams.decode(of_line(line), FROM_GUEST).data == b"\n~\0" * 1000


@pytest.mark.parametrize("line", [b"~$", b"~YQ", b"~YQ==YQ=="])
def test_what_is_no_base64_is_refused(line: bytes) -> None:
    with pytest.raises(Invalid, match="not base64"):
        of_line(line)
