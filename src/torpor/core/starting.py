"""How a run is to be started, beside of which agent and with which input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torpor.core.environment import check_env
from torpor.core.errors import Invalid

NAME_MAX = 200
PRIORITY_MAX = 1000
DELAY_S_MAX = 100 * 366 * 86400.0


@dataclass(frozen=True)
class Start:
    """`queue`: by default what the agent's file says, or one of its own. `key`: of runs of the same
    key the queue may let so many run at once. Of those that wait, the higher `priority` is first.
    It does not start before `delay_s`; not started `expires_s` after that, it is cancelled. Its id
    key may make another run after `id_key_for_s`. `env` are environment variables of its own."""

    queue: str | None = None
    key: str | None = None
    priority: int = 0
    delay_s: float = 0.0
    expires_s: float | None = None
    id_key_for_s: float | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> Start:
        """Raises Invalid."""
        for name, value in (("queue", self.queue), ("key", self.key)):
            if value is not None:
                check_name(value, name)
        whole = type(self.priority) is int
        if not whole or not -PRIORITY_MAX <= self.priority <= PRIORITY_MAX:
            raise Invalid(
                f"a priority must be a whole number from {-PRIORITY_MAX} to {PRIORITY_MAX}"
            )
        for span in (self.delay_s, self.expires_s or 0.0, self.id_key_for_s or 0.0):
            if not 0 <= span <= DELAY_S_MAX:
                raise Invalid("a delay or an expiry must be from 0 seconds to a hundred years")
        check_env(self.env, "env")
        return self

    def given(self) -> dict[str, Any]:
        """What is not as it is by default; `Start(**start.given()) == start`."""
        return {
            each.name: value
            for each in fields(self)
            if (value := getattr(self, each.name)) != getattr(AT_ONCE, each.name)
        }


AT_ONCE = Start()


def check_name(value: Any, what: str) -> str:
    """The name of a queue, a key, a schedule."""
    good = isinstance(value, str) and value.isprintable() and 1 <= len(value.strip()) <= NAME_MAX
    if not good or value != value.strip():
        raise Invalid(f"{what}: {value!r} is not a name: give 1 to {NAME_MAX} printable characters")
    return str(value)
