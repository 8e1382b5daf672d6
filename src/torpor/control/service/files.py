"""Files that runs are given, and artifacts that they publish."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence

from sqlalchemy import Connection

from torpor.contextlog import runs
from torpor.contextlog.artifacts import ArtifactRow, find_artifact, list_artifacts
from torpor.core.ids import RunId
from torpor.core.runfiles import RunFile
from torpor.logstore.protocol import Store
from torpor.service.files import Artifact, Uploaded
from torpor.service.shapes import reply
from torpor.worker.runfiles import RunFiles
from torpor.worker.values import Values


class Files:
    """See `torpor.service.files.Files`."""

    def __init__(self, files: RunFiles) -> None:
        self._files = files

    async def upload(
        self,
        chunks: AsyncIterator[bytes],
        digest: str | None = None,
        expected_bytes: int | None = None,
    ) -> Uploaded:
        return reply(Uploaded, await self._files.receive(chunks, digest, expected_bytes))

    async def get(self, digest: str) -> Uploaded:
        return reply(Uploaded, await self._files.known(digest))

    async def content(self, ref: str, path: str) -> tuple[RunFile, Iterator[bytes]]:
        return await self._files.content(ref, path)


class Artifacts:
    """See `torpor.service.files.Artifacts`."""

    def __init__(self, store: Store, values: Values) -> None:
        self._store, self._values = store, values

    async def list(self, ref: str) -> Sequence[Artifact]:
        def read(c: Connection) -> Sequence[ArtifactRow]:
            return list_artifacts(c, runs.get_run(c, ref).id)

        return [reply(Artifact, each.to_json()) for each in await self._store.read(read)]

    async def content(
        self, ref: str, name: str, version: int | None = None
    ) -> tuple[Artifact, Iterator[bytes]]:
        """The iterator raises Damaged."""

        def read(c: Connection) -> tuple[RunId, ArtifactRow]:
            run = runs.get_run(c, ref).id
            return run, find_artifact(c, run, name, version)

        run, row = await self._store.read(read)
        return reply(Artifact, row.to_json()), await self._values.content(run, row.digest)
