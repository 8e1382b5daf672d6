"""Figures beside a peer's, beside the bar they are held to, and beside what bounds them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torpor.cli import words

Unit = Literal["ms", "bytes", "MB/s", "ratio"]

_SHOW: Mapping[Unit, Callable[[float], str]] = {
    "ms": lambda ms: f"{ms:.1f} ms" if ms < 99.95 else words.duration(ms / 1000),
    "bytes": words.size,
    "MB/s": lambda rate: f"{rate:.0f} MB/s",
    "ratio": lambda ratio: f"{ratio:.2f}",
}
_DIGITS: Mapping[Unit, int] = {"ms": 2, "bytes": 0, "MB/s": 1, "ratio": 4}


@dataclass(frozen=True)
class Figure:
    """One figure; what stands beside it has its unit. `bar` is the most it may be, of a rate the
    least. `bound` says what it cannot be better than, `bound_value` how much that is, where this
    run measured it."""

    key: str
    title: str
    unit: Unit
    value: float
    bound: str
    samples: int = 1
    peers: Mapping[str, float] = field(default_factory=dict)
    bar: float | None = None
    bound_value: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether it meets its bar; None without one."""
        if self.bar is None:
            return None
        return self.value >= self.bar if self.unit == "MB/s" else self.value <= self.bar

    @property
    def distance(self) -> float | None:
        """How many times better it could be, as far as this bound goes."""
        if not self.bound_value or not self.value:
            return None
        ratio = self.value / self.bound_value
        return 1 / ratio if self.unit == "MB/s" else ratio

    def to_json(self) -> dict[str, Any]:
        def rounded(value: float | None) -> float | None:
            if value is None:
                return None
            return round(value, _DIGITS[self.unit]) if _DIGITS[self.unit] else round(value)

        return {
            "value": rounded(self.value),
            "unit": self.unit,
            "samples": self.samples,
            "peers": {name: rounded(value) for name, value in self.peers.items()},
            "bar": rounded(self.bar),
            "met": self.met,
            "bound": self.bound,
            "bound_value": rounded(self.bound_value),
            "distance": None if self.distance is None else round(self.distance, 2),
        }

    def cells(self) -> tuple[str, str, str, str, str]:
        """Title, value, peers, bar and bound, as people read them."""
        show = _SHOW[self.unit]
        bar = ""
        if self.bar is not None:
            sign, mark = "≥" if self.unit == "MB/s" else "≤", "✓" if self.met else "✗"
            bar = f"{mark} {sign} {show(self.bar)}"
        bound = self.bound
        if self.bound_value is not None and self.distance is not None:
            bound += f": {show(self.bound_value)}, {self.distance:.1f} times"
        peers = ", ".join(f"{show(value)} {name}" for name, value in self.peers.items())
        return self.title, show(self.value), peers, bar, bound
