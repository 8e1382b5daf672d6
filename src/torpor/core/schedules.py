"""The settings of a schedule, beside its times."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

JITTER_S_MAX = 86400
# While the last run has not ended; and of times when no server was there.
Overlap: TypeAlias = Literal["skip", "queue", "cancel-old"]
Missed: TypeAlias = Literal["skip", "once", "all"]
OVERLAPS: tuple[str, ...] = get_args(Overlap)
MISSED: tuple[str, ...] = get_args(Missed)
