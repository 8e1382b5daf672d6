"""The artifacts of runs, for people: listed, and their content."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import runs
from torpor.contextlog.artifacts import ArtifactRow, find_artifact, list_artifacts
from torpor.core.ids import RunId
from torpor.logstore.protocol import Store
from torpor.worker.values import Values


class Artifacts:
    def __init__(self, store: Store, values: Values) -> None:
        self._store, self._values = store, values

    async def list(self, ref: str) -> list[dict[str, Any]]:
        """See `contextlog.artifacts.list_artifacts`. Raises NotFound."""

        def read(c: Connection) -> list[ArtifactRow]:
            return list_artifacts(c, runs.get_run(c, ref).id)

        return [each.to_json() for each in await self._store.read(read)]

    async def find(self, ref: str, name: str, version: int | None = None) -> dict[str, Any]:
        """One of them; and its `run`. Raises NotFound."""

        def read(c: Connection) -> dict[str, Any]:
            run = runs.get_run(c, ref).id
            return {**find_artifact(c, run, name, version).to_json(), "run": run}

        return await self._store.read(read)

    async def content(self, found: dict[str, Any]) -> Iterator[bytes]:
        """Of what `find` gave; reading it blocks. Raises NotFound; the iterator Damaged."""
        return await self._values.content(RunId(found["run"]), found["digest"])
