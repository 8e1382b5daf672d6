"""`torpor.run`: which run this is."""

from __future__ import annotations

from typing import Any

from torpor.sdk.current import current, outside
from torpor.sdk.errors import OutsideRun
from torpor.sdk.operations import inside


class Run:
    """The run that this program is in. Every attribute raises OutsideRun where there is none."""

    @property
    def id(self) -> str:
        """The run's id, as `torpor ps` shows it."""
        return str(current("run.id").identity["run"])

    @property
    def epoch(self) -> int:
        """Counts this run's machines: each start or restore of one is a new epoch."""
        return int(current("run.epoch").identity["epoch"])

    @property
    def agent(self) -> str:
        """The name of the agent that runs."""
        return str(current("run.agent").agent)

    @property
    def input(self) -> dict[str, Any]:
        """What it was started with: its agent's arguments by name."""
        return dict(current("run.input").input)

    @property
    def idempotency_key(self) -> str:
        """In a step's body: a key that is the same whenever this step runs again after a crash.
        Give it to services that take one, and a payment happens once. Outside a run each call of a
        step has one of its own."""
        step = inside.get()
        if step is None:
            raise OutsideRun("torpor.run.idempotency_key exists only inside a step's body")
        return f"outside:{step.digest}" if outside() else f"{self.id}:{step.op}"

    def __repr__(self) -> str:
        try:
            return f"<torpor.run {self.id} epoch {self.epoch}>"
        except OutsideRun:
            return "<torpor.run: no run>"


run: Run = Run()
