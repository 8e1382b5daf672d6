"""A command beside an agent (`torpor exec`), as its client has it.

One response streams what it writes; what it reads, signals and the size of its terminal go in
requests beside that, which any thread may make.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torpor.client.problems import Unreachable, from_problem
from torpor.client.transport import Response
from torpor.core import execs
from torpor.core.execs import Frames
from torpor.core.limits import SILENCE_S

# The server says something more often than that.

Ask = Callable[..., AbstractContextManager[Response]]


class Exec:
    """A command that was asked for."""

    def __init__(self, ask: Ask, frames: Iterator[tuple[int, bytes]]) -> None:
        self._ask, self._frames = ask, frames
        self.run: str = ""  # known with the first event, as are these
        self.id: str = ""
        self._path = ""

    def events(self) -> Iterator[tuple[int, bytes] | dict[str, Any]]:
        """(stream, bytes) as it writes them, and events (`torpor.core.execs`); the last says how
        it ended. Raises what the server says of one that could not go on, and Unreachable."""
        for kind, payload in self._frames:
            if kind != execs.EVENT:
                yield kind, payload
                continue
            event: dict[str, Any] = json.loads(payload)
            if "error" in event:
                raise from_problem(event["error"])
            if "exec" in event:
                self.run, self.id = event["run"], event["exec"]
                self._path = f"/runs/{self.run}/execs/{self.id}"
            yield event
            if "code" in event:
                return
        raise Unreachable("the server went away while the command ran")

    def feed(self, chunks: Iterable[bytes]) -> None:
        """Have it read `chunks`, as fast as it does. Returns when it has, or has ended."""
        with self._ask("PUT", f"{self._path}/stdin", body=chunks, timeout_s=None):
            pass

    def signal(self, name: str) -> None:
        self._change({"signal": name})

    def resize(self, rows: int, cols: int) -> None:
        self._change({"terminal": {"rows": rows, "cols": cols}})

    def _change(self, change: Mapping[str, Any]) -> None:
        with self._ask("PATCH", self._path, json=change, timeout_s=SILENCE_S):
            pass


@contextmanager
def executing(ask: Ask, ref: str, request: Mapping[str, Any]) -> Iterator[Exec]:
    path = f"/runs/{ref}/execs"
    with ask("POST", path, json=request, timeout_s=SILENCE_S) as response:
        yield Exec(ask, _frames(response))


def _frames(response: Response) -> Iterator[tuple[int, bytes]]:
    frames = Frames()
    for chunk in response.chunks():
        yield from frames.take(chunk)
