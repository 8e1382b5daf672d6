"""Sizes as people write them: "512M", "2G"."""

from __future__ import annotations

import re
from typing import Any

from torpor.core.errors import Invalid

MEMORY_MIB_MIN, MEMORY_MIB_MAX = 192, 16384
_SIZE = re.compile(r"^\s*([0-9]{1,12})\s*([KMG])(?:i?B)?\s*$", re.IGNORECASE)
_MIB = {"K": 1 / 1024, "M": 1, "G": 1024}


def parse_memory(value: Any, what: str) -> int:
    """The memory of a machine, in MiB. Raises Invalid, whose message begins with `what`."""
    return size_mib(str(value), MEMORY_MIB_MIN, MEMORY_MIB_MAX, what)


def size_mib(text: str, low: int, high: int, what: str) -> int:
    """A size such as "512M" in MiB. `what` begins the message of the Invalid that it raises."""
    match = _SIZE.match(text)
    if match is None:
        raise Invalid(f'{what} is not a size like "512M" or "2G"')
    mib = int(match.group(1)) * _MIB[match.group(2).upper()]
    if not low <= mib <= high or mib % 2:
        raise Invalid(f"{what} must be an even number of MiB from {low}M to {high}M")
    return int(mib)
