"""The way out of one run's agent, as its driver has it: from its guest to the broker and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torpor.contextlog.agents import AgentRow
from torpor.core.clock import Clock
from torpor.core.ids import RunId
from torpor.egress.client import BrokerClient
from torpor.logstore.protocol import Store
from torpor.machines.channel import Channel
from torpor.wire import streams
from torpor.worker.pen import Pen


def policy_of(agent: AgentRow) -> dict[str, Any]:
    """What the broker is to know of a run, before its agent does anything."""
    return {
        "agent": agent.name,
        "egress": list(agent.spec.get("egress", ())),
        "budget": agent.spec.get("rules", {}).get("budget", {}),
    }


@dataclass(frozen=True)
class Way:
    run: RunId
    broker: BrokerClient
    store: Store
    pen: Pen
    clock: Clock
    guest: Callable[[], Channel | None]  # the channel, while there is one

    def say(self, kind: int, stream: int, fields: Mapping[str, Any]) -> None:
        """A frame for the guest."""
        if (guest := self.guest()) is not None:
            guest.pass_on(streams.encode(kind, stream, fields))

    def say_at(self, kind: int, stream: int, offset: int, data: bytes = b"") -> None:
        if (guest := self.guest()) is not None:
            guest.pass_on(streams.encode_at(kind, stream, offset, data))
