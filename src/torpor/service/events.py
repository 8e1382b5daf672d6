"""Events that others send to runs."""

from __future__ import annotations

from typing import Annotated, Any, Protocol

from pydantic import Field
from typing_extensions import TypedDict

from torpor.service.shapes import closed


@closed
class Sent(TypedDict):
    run: str
    seq: Annotated[
        int | None,
        Field(
            description=("the event's position in the run's log; null if the run was started by it")
        ),
    ]
    name: str | None
    wait: Annotated[
        str | None,
        Field(description=("the wait that it ended; null if the run does not wait for it yet")),
    ]
    again: Annotated[bool, Field(description=("it had been sent before, and nothing was changed"))]


class Events(Protocol):
    async def send(
        self, ref: str, name: str, data: Any, *, by: str | None = None, id: str | None = None
    ) -> Sent:
        """The run's oldest wait for an event of this name takes it; without one it is kept. `id` is
        the sender's: the same twice is one event. Raises NotFound, Conflict, Invalid."""
        ...
