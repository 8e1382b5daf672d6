"""Recorded model calls that a replayed agent has not asked for again, while it makes others.

A call that the log does not hold is never a divergence (`torpor.guest.exchanges`). But one that
comes while recorded ones are left may be one of these with another request: the agent sends
something that is not the same again (a time, a random number, what a file from an earlier life
said), and pays for it once more. That is worth a warning; not, however, at once: other threads may
still ask for theirs. So it is looked at when the new call is answered.

Of the calls that were made in the body of a step which has ended, none is missed: the step is not
run again. Nor is one that has been asked for, but more often before, as clients do that try again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torpor.replay.journal import Recorded


class Unasked:
    def __init__(self) -> None:
        self._left: dict[str, str] = {}  # by operation, its name
        self._missed: dict[str, str] = {}  # by the new call, the first that was left when it came

    def extend(self, journal: Iterable[Recorded]) -> None:
        """All of a journal, in order."""
        steps_to = 0  # where the last step ended that began before
        for record in journal:
            if "ok" not in record:
                continue
            seq = record.get("seq", 0)
            if record["kind"] == "step":
                steps_to = max(steps_to, seq)
            elif record["kind"] == "model" and seq > steps_to:
                self._left[record["op"]] = record["name"]

    def used(self, name: str) -> None:
        """A call of this name was answered from the log."""
        if self._left:
            self._left = {op: each for op, each in self._left.items() if each != name}

    def began(self, op: str) -> None:
        """This one is new."""
        if self._left:
            self._missed[op] = next(iter(self._left))

    def ended(self, op: str) -> dict[str, Any] | None:
        """What is to be logged, now that this one has its answer."""
        self._left.pop(op, None)  # one that slept: its answer is in the journal
        missed = self._missed.pop(op, None)
        if missed is None or self._left.pop(missed, None) is None:
            return None
        message = (
            "a model call was made, and paid, while the log holds one that was not asked for "
            "again: what the agent sends is not the same each time it is replayed. Take time and "
            "chance from torpor.now, torpor.random, torpor.uuid4, and do in a step what depends on "
            "anything else outside the run"
        )
        return {
            "message": message,
            "level": "warning",
            "data": {"recorded": missed, "made": op},
        }
