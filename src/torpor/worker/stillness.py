"""Having an agent stand still, so that a snapshot of it may be taken: whether it can is its guest's
to say.

What the host knows of an agent is what it said last, and that was perhaps before it heard its
answer: a machine that has just been thawed is as it was when it was frozen. So a machine that is to
sleep is only held if its guest finds, when it is asked, that everything it was told has reached
whoever waited for it, and that these rest again (`torpor.sdk.rest`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from torpor.machines.channel import Conversation
from torpor.worker.obstacles import Obstacles

PREPARE_LIMIT_S = 15.0


class Stillness:
    """Of one driver's run. `tell` hears why it cannot be had."""

    def __init__(self, obstacles: Obstacles, tell: Callable[[str], None]) -> None:
        self._obstacles, self._tell = obstacles, tell
        self.rests = True  # what is held; or the guest was not asked
        self.wake_at: float | None = None  # something of its agent's own is due then

    async def prepare(
        self, guest: Conversation, rest_s: float | None = None, *, anyhow: bool = False
    ) -> bool:
        """Whether the agent is held now. `rest_s`: only if it rests, and nothing of its own, like
        a timeout, is due within so long; or `anyhow`, and `rests` says whether it does."""
        asked = {} if rest_s is None else {"rest_s": rest_s}
        guest.say("prepare", **asked, **({"anyhow": True} if anyhow else {}))
        answer = await guest.hear("prepared", "unprepared", within_s=PREPARE_LIMIT_S)
        if answer["t"] == "prepared":
            self.rests = not answer.get("at_work", False)
            wake_in = answer.get("wake_in")
            self.wake_at = None if wake_in is None else time.time() + wake_in
            return True
        if "again_s" in answer:
            self._obstacles.put_off(answer["again_s"])
        else:
            await self.failed(answer["reason"])
        return False

    async def failed(self, reason: str) -> None:
        self._tell(f"cannot be frozen yet: {reason}")
        await self._obstacles.freeze_failed(reason)
