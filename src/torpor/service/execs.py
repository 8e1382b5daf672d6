"""Commands that people run beside an agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torpor.core.errors import TorporError
from torpor.core.execs import CommandRequest, Size


class Data(Protocol):
    """What a command wrote, to stdout (1) or stderr (2)."""

    @property
    def stream(self) -> int: ...

    @property
    def data(self) -> bytes: ...


class Ended(Protocol):
    """A code, or the signal that ended it; of one that could not begin, why not."""

    @property
    def code(self) -> int | None: ...

    @property
    def signal(self) -> int | None: ...

    @property
    def problem(self) -> str: ...


class Exec(Protocol):
    """A command, as whoever asked for it has it."""

    @property
    def id(self) -> str: ...

    @property
    def run(self) -> str: ...

    @property
    def begun(self) -> bool: ...

    @property
    def end(self) -> Ended | TorporError | None: ...

    async def changes(self, within_s: float) -> Sequence[Data]:
        """What it wrote since, at most a window; empty after `within_s` without any."""
        ...

    def took(self, size: int) -> None:
        """So many bytes of it were delivered: as many more may come."""
        ...

    async def feed(self, data: bytes, *, last: bool = False) -> None:
        """Its input. Returns when there is room for more, or it has ended."""
        ...

    def resize(self, size: Size) -> None: ...

    def signal(self, name: str) -> None: ...

    def cut_off(self, why: TorporError) -> None: ...


class Execs(Protocol):
    async def start(self, ref: str, command: CommandRequest, who: str) -> Exec:
        """A command that begins as soon as it can; `who` is for the log. Raises NotFound, Invalid,
        Exhausted, Conflict (the run has not begun, or has ended)."""
        ...

    async def get(self, ref: str, id: str) -> Exec:
        """Raises NotFound."""
        ...
