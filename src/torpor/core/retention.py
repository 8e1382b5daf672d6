"""How long a host keeps ended runs and their logs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from torpor.core.durations import SECONDS_MAX
from torpor.core.errors import Invalid

AGE_S_MIN = 60.0
LOG_BYTES_MIN = 1 << 20


@dataclass(frozen=True)
class Retention:
    """`age_s`: ended runs go when they ended longer ago. `log_bytes`: when the database takes more,
    those that ended first go. None: no limit."""

    age_s: float | None = None
    log_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.age_s is not None and not AGE_S_MIN <= self.age_s <= SECONDS_MAX:
            raise Invalid(
                f"ended runs must be kept for at least {AGE_S_MIN:g} s, not {self.age_s:g} s"
            )
        if self.log_bytes is not None and self.log_bytes < LOG_BYTES_MIN:
            raise Invalid(
                f"the limit for logs must be at least {LOG_BYTES_MIN:,} bytes, not "
                f"{self.log_bytes:,}"
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def to_text(self) -> str:
        return json.dumps(self.to_json())

    @classmethod
    def of_text(cls, text: str) -> Retention:
        return cls(**json.loads(text))


KEEP_ALL = Retention()
