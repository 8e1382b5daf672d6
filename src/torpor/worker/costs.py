"""What a freeze and a resume take on this host: measured, as they happen."""

from __future__ import annotations

DEFAULT_S = 1.0  # of each, until one was measured
_NEW = 0.2  # what the newest one counts for


class FreezeCost:
    def __init__(self) -> None:
        self._freeze_s = self._resume_s = DEFAULT_S

    @property
    def seconds(self) -> float:
        """Of both together."""
        return self._freeze_s + self._resume_s

    def frozen(self, ms: float) -> None:
        self._freeze_s += _NEW * (ms / 1000 - self._freeze_s)

    def resumed(self, ms: float) -> None:
        self._resume_s += _NEW * (ms / 1000 - self._resume_s)
