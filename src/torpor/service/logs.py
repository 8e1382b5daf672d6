"""What runs recorded and printed."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Sequence
from typing import NamedTuple, Protocol

from typing_extensions import TypedDict

from torpor.service.shapes import Object, closed


@closed
class Entry(TypedDict):
    run: str
    seq: int
    at: float
    epoch: int | None
    kind: str
    op: str | None
    data: Object


class LogPage(NamedTuple):
    """A part of a log. With `more`, others follow the last entry, however few there are."""

    entries: Sequence[Entry]
    more: bool


class Logs(Protocol):
    """`ref` is a run's id, or a unique prefix of one; NotFound where there is no such run."""

    async def read(
        self, ref: str, after: int, limit: int, kinds: Sequence[str] | None = None
    ) -> LogPage:
        """Entries that follow `after`."""
        ...

    async def begin(
        self,
        ref: str,
        kinds: Sequence[str] | None = None,
        tail: int | None = None,
        since: float | None = None,
    ) -> int:
        """The place in the log after which there are only the last `tail` entries of these kinds,
        and none that is older than `since`."""
        ...

    def changed(self, run: str) -> Awaitable[None]:
        """Resolves at the first append to the run after this call. The caller may cancel it."""
        ...

    async def output(self, ref: str, stream: str, offset: int = 0) -> Iterator[bytes]:
        """What the agent printed from `offset` on; reading it blocks."""
        ...
