"""How long an agent's snapshots are kept, as its file says: `keep = "last 3" | "7d" | "all"`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from torpor.core.durations import UNIT_S
from torpor.core.errors import Invalid

LAST_MAX = 100_000
_LAST = re.compile(r"last ([1-9][0-9]{0,5})")
_FOR = re.compile(r"([1-9][0-9]{0,5})([mhd])")


@dataclass(frozen=True)
class Keep:
    """`last`: so many of the newest, None for the default; `for_s`: all that are younger."""

    last: int | None = None
    for_s: float = 0.0


def parse_keep(text: str, what: str) -> Keep:
    """`text` as a rule; "" is the default. `what` begins the message of the Invalid it raises."""
    if not text:
        return Keep()
    if text == "all":
        return Keep(for_s=math.inf)
    if (last := _LAST.fullmatch(text)) and int(last[1]) <= LAST_MAX:
        return Keep(last=int(last[1]))
    if span := _FOR.fullmatch(text):
        return Keep(for_s=int(span[1]) * UNIT_S[span[2]])
    raise Invalid(
        f"{what}: {text!r} is not a time to keep snapshots",
        hint='Use "last 3", a time such as "12h" or "7d", or "all".',
    )
