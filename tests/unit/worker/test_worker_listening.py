"""What of an answer wakes a run that sleeps under its call."""

from __future__ import annotations

import pytest

from torpor.worker.listening import News

EVENTS = [("Content-Type", "text/event-stream; charset=utf-8")]
PING = b'event: ping\r\ndata: {"type": "ping"}\r\n\r\n'
IDLE = b": still here\n\n" + PING + b"id: 7\nretry: 10\n\n"


def test_what_keeps_a_connection_open_wakes_nobody_however_it_comes() -> None:
    for size in (1, 3, 7, len(IDLE)):
        news = News(EVENTS)
        assert not any(news.feed(IDLE[at : at + size]) for at in range(0, len(IDLE), size))
        assert not news.feed(b"data: {")
        assert news.feed(b'"type": "message_start"}\n')


@pytest.mark.parametrize(
    "data", [b"data: 1\n", b"data: [DONE]\n\n", b'llo"}\n', b"data: " + b"x" * 2000]
)
def test_data_does(data: bytes) -> None:
    assert News(EVENTS).feed(data)


def test_any_byte_of_another_answer_does() -> None:
    assert News([("content-type", "application/json")]).feed(b":")
    assert News().feed(b" ") and not News().feed(b"")
