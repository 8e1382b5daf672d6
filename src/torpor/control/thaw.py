"""Bringing a machine back to its senses (rule 8).

A restored machine has the random numbers and the clock of the moment it was frozen, and its
agent is held. It is given fresh entropy, the time and its new identity, and must confirm them
before anything else; one that does not is killed.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from torpor.control.machines import Live
from torpor.model.errors import GuestError
from torpor.model.ids import Epoch, RunId

THAW_LIMIT_S = 30.0
# Beyond this the clock is set a second time: the first answer after a restore is slow to come.
CLOCK_ERROR_MAX_S = 0.01


async def thaw(
    live: Live, run: RunId, epoch: Epoch, *, started: bool, journal: Sequence[dict[str, Any]]
) -> None:
    """Resume a restored machine. When this returns it has confirmed; its agent goes on.

    `journal` are the results that the log holds and the snapshot does not. Raises GuestError;
    the machine is to be discarded then.
    """
    live.guest.synchronise()
    live.guest.say(
        "thaw",
        epoch=epoch,
        run=run,
        time=time.time(),
        entropy=secrets.token_hex(64),
        started=started,
        journal=list(journal),
    )
    await live.machine.resume()
    answer = await live.guest.hear("thawed", within_s=THAW_LIMIT_S)
    error_s = answer["at"] - time.time()
    if answer["epoch"] != epoch:
        raise GuestError(f"the machine thawed as epoch {answer['epoch']}, not {epoch}")
    if abs(error_s) > CLOCK_ERROR_MAX_S:
        live.guest.say("clock", time=time.time())
