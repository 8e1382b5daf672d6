"""Samples into figures: p50, p90 and maximum, and the ratio of two sets of figures. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Spread:
    p50: float
    p90: float
    max: float


def spread(samples: Sequence[float]) -> Spread:
    """Raises ValueError if there is no sample."""
    return Spread(*(percentile(samples, share) for share in (0.5, 0.9, 1)))


def percentile(samples: Sequence[float], share: float) -> float:
    """By nearest rank: it is a sample, none is made up. Raises ValueError if there is none."""
    if not samples:
        raise ValueError("no sample was taken")
    return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]


@dataclass
class Samples:
    """What a series of sleeps gave, a value each. Times in ms, sizes in bytes."""

    pause_ms: list[float] = field(default_factory=list)
    freeze_ms: list[float] = field(default_factory=list)
    snapshot_bytes: list[int] = field(default_factory=list)
    resume_warm_ms: list[float] = field(default_factory=list)
    resume_cold_ms: list[float] = field(default_factory=list)

    def fell_asleep(self, pause_ms: float, freeze_ms: float, snapshot_bytes: int) -> None:
        self.pause_ms.append(pause_ms)
        self.freeze_ms.append(freeze_ms)
        self.snapshot_bytes.append(snapshot_bytes)

    def woke(self, resume_ms: float, *, cold: bool) -> None:
        (self.resume_cold_ms if cold else self.resume_warm_ms).append(resume_ms)


@dataclass(frozen=True)
class Figures:
    """All that is said of one side. The field names are the keys of the JSON output."""

    boot_ms: Spread
    template_bytes: int
    pause_ms: Spread
    freeze_ms: Spread
    snapshot_bytes: Spread
    resume_warm_ms: Spread
    resume_cold_ms: Spread

    @classmethod
    def of(cls, samples: Samples, *, boot_ms: float, template_bytes: int) -> Figures:
        """Raises ValueError when there was no sleep, no warm or no cold wake."""
        return cls(
            boot_ms=spread([boot_ms]),
            template_bytes=template_bytes,
            pause_ms=spread(samples.pause_ms),
            freeze_ms=spread(samples.freeze_ms),
            snapshot_bytes=spread(samples.snapshot_bytes),
            resume_warm_ms=spread(samples.resume_warm_ms),
            resume_cold_ms=spread(samples.resume_cold_ms),
        )

    def to_json(self) -> dict[str, Any]:
        return {name: _rounded(value, 1) for name, value in asdict(self).items()}


def ratios(ours: Figures, peer: Figures) -> dict[str, Any]:
    """Ours over the peer's, shaped as figures are: below 1 is less than the peer."""

    def over(mine: Any, theirs: Any) -> Any:
        if isinstance(mine, dict):
            return {key: over(mine[key], theirs[key]) for key in mine}
        return mine / theirs

    mine, theirs = asdict(ours), asdict(peer)
    return {
        each.name: _rounded(over(mine[each.name], theirs[each.name]), 4) for each in fields(ours)
    }


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each, digits) for key, each in value.items()}
    return round(value, digits) if isinstance(value, float) else value
