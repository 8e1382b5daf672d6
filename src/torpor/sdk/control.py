"""What of a socket the agent's side of the control channel needs: JSON lines both ways."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol


class Reader(Protocol):
    def __iter__(self) -> Iterator[bytes]: ...
    def readline(self) -> bytes: ...


class Control(Protocol):
    def sendall(self, data: bytes, /) -> object: ...
    def makefile(self, mode: Literal["rb"], /) -> Reader: ...
    def fileno(self) -> int: ...
