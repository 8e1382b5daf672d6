"""Bringing a machine back to its senses (rule 8).

A restored machine has the random numbers and the clock of the moment it was frozen, and its
agent is held. It is given fresh entropy, the time and its new identity, and must confirm them
before anything else; one that does not is killed.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from torpor.core.errors import GuestError
from torpor.core.ids import Epoch, RunId
from torpor.machines.channel import Channel
from torpor.machines.guest import Guest
from torpor.wire import names

THAW_LIMIT_S = 30.0
# An emulated machine takes this long at worst to take in a record of the journal: one of 1 MiB.
THAW_RECORD_S = 1.0
# One message takes no more than `torpor.wire.messages.SIZE_MAX`; a longer journal comes in parts.
JOURNAL_PART_BYTES = 4 << 20
# Beyond this the clock is set a second time: the first answer after a pause is slow to come.
CLOCK_ERROR_MAX_S = 0.01


def say_journal(guest: Guest, journal: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say all of `journal` but its last part, which is returned: it belongs into the message that
    makes use of the journal, `thaw` or `start`. Usually it is all there is."""
    part: list[dict[str, Any]] = []
    size = 0
    for each in journal:
        record = {key: value for key, value in each.items() if key != "printed"}
        record_size = len(json.dumps(record))
        if part and size + record_size > JOURNAL_PART_BYTES:
            guest.say(names.JOURNAL, records=part)
            part, size = [], 0
        part.append(record)
        size += record_size
    return part


async def thaw(
    guest: Guest, run: RunId, epoch: Epoch, *, started: bool, journal: Sequence[dict[str, Any]]
) -> None:
    """Resume a restored machine. When this returns it has confirmed; its agent goes on.

    `journal` are the results that the log holds and the snapshot does not. Raises GuestError;
    the machine is to be discarded then.
    """
    guest.synchronise()
    rest = say_journal(guest, journal)
    guest.say(
        names.THAW,
        epoch=epoch,
        run=run,
        time=time.time(),
        entropy=secrets.token_hex(64),
        started=started,
        journal=rest,
    )
    await guest.machine.resume()
    limit_s = THAW_LIMIT_S + len(journal) * THAW_RECORD_S
    answer = await guest.hear(names.THAWED, within_s=limit_s)
    correct_clock(guest, answer["at"])
    if answer["epoch"] != epoch:
        raise GuestError(f"the machine thawed as epoch {answer['epoch']}, not {epoch}")


def resume(guest: Channel) -> None:
    """An agent that was held goes on, in a machine that may have been paused: its clock has lost
    that. It says `resumed`."""
    guest.say(names.RESUME, time=time.time())


def correct_clock(guest: Channel, at: float) -> None:
    """Its clock was set, and it says that it is `at` now."""
    if abs(at - time.time()) > CLOCK_ERROR_MAX_S:
        guest.say(names.CLOCK, time=time.time())
