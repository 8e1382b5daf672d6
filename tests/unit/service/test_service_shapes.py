"""Replies have the shape that is declared for them; what does not have it is reported, not lost."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from torpor.service import shapes
from torpor.service.queues import Queue


def test_a_reply_of_another_shape_fails_a_test_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValidationError):
        shapes.reply(Queue, name="q", unknown=1)
    monkeypatch.delenv(shapes.STRICT)
    assert shapes.reply(Queue, name="q", unknown=1) == {"name": "q", "unknown": 1}
    assert "a reply is not a Queue" in caplog.text
