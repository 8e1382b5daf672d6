"""What a driver is made of: what its host gives to all drivers, and what it has for its own run and
epoch. Here it is put together; each part's module says what it does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torpor.contextlog.runs import RunRow
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.errors import TorporError
from torpor.core.ids import OpId
from torpor.core.limits import LIMITS, ServerLimits
from torpor.egress.client import BrokerClient
from torpor.logstore.protocol import Store
from torpor.machines.channel import Channel
from torpor.policy.freeze import Stay
from torpor.wire import names
from torpor.wire.streams import ATTACH, Frame
from torpor.worker.authorities import Authorities
from torpor.worker.calls import Calls
from torpor.worker.cancelling import Cancelling
from torpor.worker.carrier import Carrier, Carriers
from torpor.worker.commands import Commands, OfRun
from torpor.worker.computing import Computing
from torpor.worker.costs import FreezeCost
from torpor.worker.handover import HandOver
from torpor.worker.metrics import Metrics
from torpor.worker.network import Network
from torpor.worker.notes import Notes
from torpor.worker.obstacles import Obstacles
from torpor.worker.output import Streams
from torpor.worker.pen import Pen
from torpor.worker.recording import Recording
from torpor.worker.sealing import SealingKeys
from torpor.worker.serving import Serving
from torpor.worker.standing import Result, Standing
from torpor.worker.stillness import Stillness
from torpor.worker.tasks import Tasks
from torpor.worker.values import Results, Values
from torpor.worker.way import Way


@dataclass(frozen=True)
class Shared:
    """What all drivers of a host have."""

    store: Store
    broker: BrokerClient
    keys: SealingKeys
    authorities: Authorities
    values: Values
    metrics: Metrics
    commands: Commands
    clock: Clock = SYSTEM_CLOCK
    limits: ServerLimits = LIMITS
    cost: FreezeCost = field(default_factory=FreezeCost)


class Parts:
    """Of one driver. Its run's `row` is as it was before the claim."""

    def __init__(self, shared: Shared, carriers: Carriers, row: RunRow) -> None:
        self.shared, self.carriers, self.row = shared, carriers, row
        self.changed = asyncio.Event()  # something came, from the agent or from outside
        self.trouble: BaseException | None = None  # what ended one of the driver's tasks
        self.progressed = False  # something durable came of this epoch
        self.carrier: Carrier | None = None
        clock, limits = shared.clock, shared.limits
        self.pen = Pen(shared.store, row.id, row.epoch, clock, limits)
        self.standing = Standing(clock)
        self.hand_over = HandOver()
        self.cancelling = Cancelling(row.cancel_requested, clock, limits.cancel_grace_s)
        calls = Tasks(self.fail)
        way = Way(row.id, shared.broker, shared.store, self.pen, clock, lambda: self.guest)
        self.results = Results(row.id, shared.values, shared.store, self.pen)
        self.calls = Calls(way, self.results, calls, shared.metrics, self.standing.call_stirs)
        self.serving = Serving(way, shared.values, Tasks(self.fail))
        self.network = Network(way, Tasks(self.fail))
        self.learning = Tasks(self.fail)  # what is done for the agent beside it
        self.computing = Computing(
            self.pen, row, self.standing, self.changed, clock, limits.rest_worth_s
        )
        self.commands = OfRun(shared.commands, row.id, self.changed)
        self.notes = Notes()
        self.streams = Streams()
        self.obstacles = Obstacles(self.pen, clock, limits.freeze_retry_s)
        self.stillness = Stillness(self.obstacles, self.hand_over.report, clock, limits.prepare_s)
        self.recording = Recording(
            row, shared.store, self.pen, self.results, self.standing, self.streams, clock
        )

    @property
    def guest(self) -> Channel | None:
        """The channel to the agent, while there is one."""
        return None if self.carrier is None else self.carrier.guest

    @property
    def live(self) -> Carrier:
        """The carrier, where there must be one."""
        assert self.carrier is not None
        return self.carrier

    @property
    def busy_beside(self) -> bool:
        """Something other than the agent needs its carrier."""
        return self.cancelling.wanted or self.commands.any or self.on_its_way is not None

    @property
    def on_its_way(self) -> Stay | None:
        """What of the agent's exchanges keeps its machine awake."""
        return self.network.stay() or self.serving.stay()

    def deliver(self, op: str, outcome: Mapping[str, Any]) -> None:
        """The outcome of `op` was recorded: the agent gets it if it waits for it."""
        self.progressed = True
        self.standing.arrived.append(Result(op, dict(outcome)))
        self.changed.set()

    def confirm(self, *ops: OpId) -> None:
        """The ends of these were recorded: let the agent know."""
        for op in ops:
            self.progressed = True
            self.results.confirm(op, self.live.guest)

    def call(
        self, op: OpId, request: Mapping[str, Any] | None = None, stream: int | None = None
    ) -> None:
        """Make the call that `op` began, unless that is left to the next driver."""
        if not self.hand_over.wanted:
            self.calls.make(op, request, self.deliver, stream)

    def take_frame(self, frame: Frame) -> None:
        """Of a stream of the guest's. Raises GuestError."""
        if frame.kind == ATTACH:
            of = (frame.stream, OpId(frame.fields["op"]), frame.fields["offset"])
            if not self.calls.attach(*of):
                self.serving.attach(*of)
        elif not (self.calls.take(frame) or self.serving.take(frame)):
            self.network.take(frame)

    def certify(self, name: str, authority: str) -> None:
        """Send the guest a certificate, or that there is none."""
        self.learning.spawn(self._certify(name, authority))

    async def _certify(self, name: str, authority: str) -> None:
        try:
            leaf = await self.shared.authorities.leaf_for(name, authority)
            answer = {"chain": leaf.chain, "key": leaf.key}
        except TorporError as error:
            answer = {"problem": error.message}
        if (guest := self.guest) is not None:
            guest.say(names.CERTIFIED, name=name, **answer)

    def fail(self, error: BaseException) -> None:
        """Something beside the channel to the agent has ended badly."""
        self.trouble = error
        self.changed.set()
