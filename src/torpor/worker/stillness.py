"""Having an agent stand still, so that a snapshot of it may be taken. Only its guest can know
whether that is possible.

What the host knows of an agent is its last status, which perhaps came before it received its
answer: a machine that has just been thawed is as it was when it was frozen. So a machine that is to
sleep is only held if its guest finds that everything it received has reached whoever waited for it,
and that these rest again (`torpor.sdk.rest`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torpor.core.clock import Clock
from torpor.machines.channel import Channel
from torpor.wire import names
from torpor.worker.obstacles import Obstacles


class Stillness:
    """Of one driver's run. `report` gets why it cannot be had."""

    def __init__(
        self,
        obstacles: Obstacles,
        report: Callable[[str], None],
        clock: Clock,
        limit_s: float,
    ) -> None:
        self._obstacles, self._report = obstacles, report
        self._clock, self._limit_s = clock, limit_s
        self.rests = True  # what is held; or nothing was to be held yet
        self.wake_at: float | None = None  # something of its agent's own is due then

    async def prepare(
        self,
        guest: Channel,
        rest_s: float | None = None,
        *,
        anyhow: bool = False,
        calls: bool = False,
    ) -> bool:
        """Whether the agent is held now. `rest_s`: only if it rests, and nothing of its own, like
        a timeout, is due within so long; or `anyhow`, and `rests` says whether it does. With
        `calls` recorded calls are under way, as the guest knows."""
        terms: dict[str, Any] = {} if rest_s is None else {"rest_s": rest_s}
        if anyhow:
            terms["anyhow"] = True
        guest.say(names.PREPARE, **terms)
        reply = await guest.hear(names.PREPARED, names.UNPREPARED, within_s=self._limit_s)
        if reply["t"] == names.PREPARED:
            self.rests = not reply.get("at_work", False)
            wake_in = reply.get("wake_in")
            self.wake_at = None if wake_in is None else self._clock.now() + wake_in
            return True
        if "again_s" in reply:
            self._obstacles.put_off(reply["again_s"])
        elif calls:  # it will be over with the answer: nobody need know
            self._obstacles.put_off()
        else:
            await self.failed(reply["reason"])
        return False

    async def failed(self, reason: str) -> None:
        self._report(f"cannot be frozen yet: {reason}")
        await self._obstacles.freeze_failed(reason)
