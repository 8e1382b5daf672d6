"""How an agent stands with the outside: what it has requested and not got yet, and its last status,
which is of how much it waits.

That decides whether its machine may be frozen (`torpor.policy.freeze`), and belongs to a snapshot:
the next machine's driver goes on from it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torpor.contextlog.waits import WAITS
from torpor.core.clock import Clock
from torpor.core.ids import OpId, op_kind
from torpor.core.position import Position
from torpor.policy.freeze import Facts
from torpor.wire.messages import EXCHANGES


@dataclass(frozen=True)
class Result:
    """What came from outside for an operation of this run. It is in the log already."""

    op: str
    outcome: dict[str, Any]  # ok, value | error


class Standing:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Operations the guest has begun that the host answers, and has not answered yet.
        self.unanswered: set[OpId] = set()
        self.arrived: deque[Result] = deque()  # answers that the guest did not get yet
        self.checkpoints: list[OpId] = []  # requested, not taken yet
        # The guest's last status: it sends one when that has changed.
        self.waiting, self.busy = 0, 0
        self.patient = False  # it goes on when all that it waits for has ended, and not before
        self.due: dict[str, float | None] = {}  # when the host ends a wait by itself
        self.call_s: float | None = None  # `policy.freeze.Terms.call_s`
        self._changed_at = self._stirred_at = self._clock.monotonic()
        self._cpu: tuple[float, float] | None = None  # (when, CPU seconds) at the previous look
        self._rested_s = 0.0
        self._rests_since: float | None = None

    def take_up(self, position: Position, answered: Collection[str]) -> None:
        """Continue at a snapshot's position; the log has what was `answered` since."""
        self.unanswered = set(position.unanswered) - set(answered)
        self.waiting, self.busy, self.patient = position.waiting, position.busy, position.patient

    def position(self, unseen: Iterable[OpId]) -> Position:
        """What `take_up` takes. `unseen` are operations whose results are not in the machine."""
        return Position(
            unanswered=frozenset(self.unanswered).union(unseen),
            waiting=self.waiting,
            busy=self.busy,
            patient=self.patient,
        )

    def update(self, waiting: int, busy: int, *, patient: bool = False) -> None:
        """The guest's status is this now."""
        self.waiting, self.busy, self.patient = waiting, busy, patient
        self.changed()

    def changed(self) -> None:
        self._changed_at = self._clock.monotonic()

    def next_answer(self) -> Result | None:
        """One that has arrived and that the guest waits for; it counts as given."""
        while self.arrived:
            result = self.arrived.popleft()
            if result.op in self.unanswered:
                self.unanswered.discard(result.op)
                self.due.pop(result.op, None)
                self.changed()
                return result
        return None

    def of(self, *kinds: str) -> list[OpId]:
        """What of these kinds is unanswered."""
        return [OpId(op) for op in self.unanswered if op_kind(op) in kinds]

    @property
    def calls(self) -> list[OpId]:
        """Recorded exchanges that are unanswered."""
        return self.of(*EXCHANGES)

    def call_stirs(self) -> None:
        """A recorded call begins, or something comes of its answer."""
        self._stirred_at = self._clock.monotonic()

    @property
    def _quiet_s(self) -> float:
        return self._clock.monotonic() - self._stirred_at

    @property
    def sleeps(self) -> bool:
        """`only_waits`, or under calls that have been quiet for long."""
        if not self.calls:
            return self.only_waits
        quiet = self.call_s is not None and self._quiet_s >= self.call_s
        return quiet and not self.arrived and not self.checkpoints

    @property
    def only_waits(self) -> bool:
        """Whether a machine that stands still, and all of whose messages were received, has nothing
        to go on with. Since a freeze was decided it may have begun something, or been answered."""
        idle = self.waiting and not self.busy and not self.checkpoints
        in_flight = self.arrived or self.calls
        return bool(idle and self.of(*WAITS)) and not in_flight

    @contextmanager
    def resting(self) -> Iterator[None]:
        """While nothing is sent or received: if the agent only waits, it rests for as long."""
        began = self._clock.monotonic()
        self._rests_since = began if self.only_waits else None
        try:
            yield
        finally:
            self._rested_s, self._rests_since = self.rested_s, None

    @property
    def rested_s(self) -> float:
        """How long the agent has rested until now, of this driver's time."""
        since = self._rests_since
        return self._rested_s + (0.0 if since is None else self._clock.monotonic() - since)

    @property
    def _ends_in_s(self) -> float | None:
        ends = [at for op in self.unanswered if (at := self.due.get(op)) is not None]
        return min(ends) - self._clock.now() if ends else None

    def facts(self, cpu_s: float) -> Facts:
        """At this moment; `cpu_s` is what the machine has used, from which its share is learned."""
        now, share = self._clock.monotonic(), 0.0
        if self._cpu is not None and now > self._cpu[0]:
            share = (cpu_s - self._cpu[1]) / (now - self._cpu[0])
        self._cpu = (now, cpu_s)
        return Facts(
            # Each knows first of what it ends: the agent of a wait that it gave up, the host of
            # one that was answered.
            waiting=min(self.waiting, len(self.of(*WAITS))),
            busy=self.busy,
            in_flight=len(self.arrived),
            waited_s=now - self._changed_at,
            cpu_share=share,
            ends_in_s=self._ends_in_s,
            calls=len(self.calls),
            quiet_s=self._quiet_s,
        )
