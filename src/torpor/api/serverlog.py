"""How the server's log is written: lines for people, or with TORPOR_LOG=json a JSON object a line.

    {"at": "2026-11-25T22:09:10.123Z", "level": "info", "logger": "torpor.api", "message": "…"}

and `error`, the traceback, where there is one.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime

from torpor.core.errors import Invalid

SETTING = "TORPOR_LOG"
_PLAIN = "%(asctime)s %(levelname)s %(name)s %(message)s"


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        line = {
            "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(environment: Mapping[str, str] = os.environ) -> None:
    """To stderr. Raises Invalid for a form that there is not."""
    form = environment.get(SETTING) or "text"
    if form not in ("text", "json"):
        raise Invalid(f"{SETTING}={form!r}: use text or json")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter(_PLAIN))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
