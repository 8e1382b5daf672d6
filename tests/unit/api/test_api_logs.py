"""The server's log, for people and for programs."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from torpor.api.serverlog import SETTING, JsonLines, configure
from torpor.core.errors import Invalid


def record(error: bool) -> logging.LogRecord:
    try:
        raise ValueError("inner\nlines")
    except ValueError:
        info = sys.exc_info() if error else None
    return logging.LogRecord("torpor.x", logging.WARNING, "f", 1, "said %s", ("a\nb",), info)


def test_a_line_is_an_object() -> None:
    line = JsonLines().format(record(error=False))
    assert "\n" not in line
    told = json.loads(line)
    assert told["at"].endswith("Z")
    assert {key: told[key] for key in ("level", "logger", "message")} == {
        "level": "warning",
        "logger": "torpor.x",
        "message": "said a\nb",
    }
    line = JsonLines().format(record(error=True))
    assert "\n" not in line and "ValueError: inner" in json.loads(line)["error"]


def test_a_form_that_there_is_not_is_refused() -> None:
    with pytest.raises(Invalid, match="text or json"):
        configure({SETTING: "xml"})
