"""All that can be asked of a deployment, one resource beside the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Protocol

from prometheus_client.registry import Collector
from pydantic import Field
from typing_extensions import TypedDict

from torpor.core.prices import Prices
from torpor.core.states import RunState
from torpor.service.agents import Agents
from torpor.service.egress import Egress
from torpor.service.events import Events
from torpor.service.execs import Execs
from torpor.service.files import Artifacts, Files
from torpor.service.hooks import Hooks
from torpor.service.keys import ApiKeys
from torpor.service.logs import Logs
from torpor.service.queries import Queries
from torpor.service.queues import Queues
from torpor.service.runs import Runs, Transfers
from torpor.service.schedules import Schedules
from torpor.service.secrets import Secrets
from torpor.service.shapes import closed
from torpor.service.storage import Snapshots, Storage
from torpor.service.waits import Links, Waits


@closed
class Health(TypedDict):
    version: str
    pid: int
    engine: str
    engine_why: str
    accel: str | None
    home: str
    model: str | None
    public_url: str | None
    started_at: float


@closed
class Totals(TypedDict):
    runs: dict[RunState, int]
    waits_open: int
    waits_asking: Annotated[int, Field(description=("those of them that a person may answer"))]
    snapshots: int
    snapshot_bytes: int
    memory_mib: Annotated[
        int | None,
        Field(description="of the host, for runs; null before the first of them needs any"),
    ]
    memory_taken_mib: Annotated[
        int | None, Field(description="what runs take of it now, or may any moment")
    ]


class Service(Protocol):
    """Raises `torpor.core.errors` only."""

    @property
    def agents(self) -> Agents: ...

    @property
    def runs(self) -> Runs: ...

    @property
    def transfers(self) -> Transfers: ...

    @property
    def logs(self) -> Logs: ...

    @property
    def waits(self) -> Waits: ...

    @property
    def links(self) -> Links: ...

    @property
    def events(self) -> Events: ...

    @property
    def hooks(self) -> Hooks: ...

    @property
    def keys(self) -> ApiKeys: ...

    @property
    def secrets(self) -> Secrets: ...

    @property
    def queues(self) -> Queues: ...

    @property
    def schedules(self) -> Schedules: ...

    @property
    def snapshots(self) -> Snapshots: ...

    @property
    def storage(self) -> Storage: ...

    @property
    def files(self) -> Files: ...

    @property
    def artifacts(self) -> Artifacts: ...

    @property
    def execs(self) -> Execs: ...

    @property
    def queries(self) -> Queries: ...

    @property
    def egress(self) -> Egress: ...

    async def health(self) -> Health: ...

    async def totals(self) -> Totals:
        """How much of everything there is."""
        ...

    async def metrics(self) -> Collector:
        """Everything that is measured, as it is now."""
        ...

    async def prices(self) -> Prices:
        """What models cost, as `prices.toml` has it."""
        ...

    def publish(self, base: str) -> None:
        """Others reach this host at `base` from now on: waits get public URLs."""
        ...

    async def hand_over(self, report: Callable[[str], None]) -> None:
        """Leave all runs to the next server as they are now; `report` gets what becomes of
        each."""
        ...

    async def stop(self) -> None: ...
