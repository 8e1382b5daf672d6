"""What the dashboard needs of the service: a part of `torpor.api.app.Service`, whose words hold."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Mapping
from typing import Any, Protocol

from torpor.control.service.forking import Wanted
from torpor.core.paging import Page
from torpor.core.prices import Prices
from torpor.core.runfiles import RunFile
from torpor.query.ask import Question

Object = dict[str, Any]


class Queueing(Protocol):
    async def queues(self) -> list[Object]: ...

    async def set(self, name: str, changes: Mapping[str, Any]) -> Object: ...


class Artifacts(Protocol):
    async def list(self, ref: str) -> list[Object]: ...

    async def find(self, ref: str, name: str, version: int | None = None) -> Object: ...

    async def content(self, found: Object) -> Iterator[bytes]: ...


class Files(Protocol):
    async def content(self, ref: str, path: str) -> tuple[RunFile, Iterator[bytes]]:
        """Reading the bytes blocks."""
        ...


class Deleting(Protocol):
    async def delete(self, ref: str) -> Object: ...


class Schedules(Protocol):
    async def list(self) -> list[Object]: ...

    async def add(self, name: str, settings: Mapping[str, Any], *, replace: bool) -> Object: ...

    async def pause(self, name: str, paused: bool) -> Object: ...

    async def remove(self, name: str) -> Object: ...


class Service(Protocol):
    @property
    def schedules(self) -> Schedules: ...

    @property
    def queueing(self) -> Queueing: ...

    @property
    def artifacts(self) -> Artifacts: ...

    @property
    def files(self) -> Files: ...

    @property
    def deleting(self) -> Deleting: ...

    async def health(self) -> Object: ...

    async def prices(self) -> Prices: ...

    async def query(self, question: Question) -> Object: ...

    async def saved_queries(self) -> list[Object]: ...

    async def save_query(self, name: str, sql: str) -> Object: ...

    async def delete_query(self, name: str) -> None: ...

    async def totals(self) -> Object: ...

    async def agents(self) -> list[Object]: ...

    async def agent(self, ref: str | None, version: str | None, engine: str | None) -> Object: ...

    async def start(
        self, version: str, agent: str | None, input: Object, id_key: str | None
    ) -> Object: ...

    async def runs(
        self,
        states: list[str] | None,
        limit: int,
        before: str | None,
        agent: str | None = None,
        text: str | None = None,
    ) -> list[Object]: ...

    async def run(self, ref: str) -> Object: ...

    async def entries(self, ref: str, after: int, limit: int, kinds: list[str] | None) -> Page: ...

    async def begin(
        self, ref: str, kinds: list[str] | None, tail: int | None, since: float | None
    ) -> int: ...

    async def output(self, ref: str, stream: str) -> Iterator[bytes]: ...

    def changed(self, run_id: str) -> Awaitable[None]: ...

    async def cancel(self, ref: str) -> Object: ...

    async def fork(self, ref: str, wanted: Wanted) -> Object: ...

    async def retry(self, ref: str, version: str | None) -> Object: ...

    async def snapshots(self, ref: str) -> list[Object]: ...

    async def gc(self, dry_run: bool) -> Object: ...

    async def waits(
        self,
        run: str | None,
        all: bool,
        limit: int | None = None,
        after: str | None = None,
        tag: str | None = None,
        kinds: list[str] | None = None,
        approve: bool | None = None,
        agent: str | None = None,
        text: str | None = None,
    ) -> list[Object]: ...

    async def wait(self, ref: str) -> Object: ...

    async def send(
        self, ref: str, name: str, data: Any, by: str | None, event: str | None
    ) -> Object: ...

    async def complete(
        self, ref: str, data: Any, approved: bool | None, note: str | None, by: str | None
    ) -> Object: ...
