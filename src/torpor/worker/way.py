"""The way out of one run's agent, as its driver has it: from its guest to the broker and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torpor.contextlog.agents import AgentRow
from torpor.contextlog.runs import RunRow
from torpor.core.clock import Clock
from torpor.core.home import Home
from torpor.core.ids import RunId
from torpor.core.prices import Prices
from torpor.egress.client import BrokerClient
from torpor.egress.hostfile import HostFile
from torpor.logstore.protocol import Store
from torpor.machines.channel import Channel
from torpor.wire import streams
from torpor.worker.pen import Pen


def policy_of(
    agent: AgentRow, run: RunRow | None = None, used: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """What the broker is to know of a run, before its agent does anything: also what the log has
    of what was used (`contextlog.spent.known`)."""
    return {
        "agent": agent.name,
        "egress": list(agent.spec.get("egress", ())),
        "budget": agent.spec.get("rules", {}).get("budget", {}),
        "key": (run and run.api_key) or "",
        "used": dict(used),
    }


def prices_of(home: Home) -> Prices:
    """What models cost, as this host's files have it. Blocks."""
    return Prices.load_whole(home.prices, price_unknown(home))


def price_unknown(home: Home) -> float:
    """What a call counts whose price nobody knows. Blocks."""
    return HostFile(home.egress).current().price_unknown


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

    def prices(self) -> Prices:
        """Of this host. Blocks."""
        return prices_of(Home(self.store.path.parent))
