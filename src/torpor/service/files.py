"""Files that runs are given, and artifacts that they publish."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Annotated, Protocol

from pydantic import Field
from typing_extensions import TypedDict

from torpor.core.runfiles import RunFile
from torpor.service.shapes import closed


@closed
class Uploaded(TypedDict):
    digest: Annotated[str, Field(description="BLAKE3 of the bytes, in hexadecimal digits")]
    bytes: int


@closed
class Artifact(TypedDict):
    op: str
    name: str
    version: Annotated[int, Field(description=("its number among those of its name, from 1"))]
    bytes: int
    digest: Annotated[str, Field(description="BLAKE3 of its content")]
    media_type: str
    at: float
    seq: int
    step: Annotated[str | None, Field(description=("the step in whose body it was published"))]
    kept: Annotated[bool, Field(description=("not published, but kept when the run ended"))]


class Files(Protocol):
    async def upload(
        self,
        chunks: AsyncIterator[bytes],
        digest: str | None = None,
        expected_bytes: int | None = None,
    ) -> Uploaded:
        """Store a content for a run to come. It must have this digest, if one is given. Raises
        Invalid, Exhausted, HostError."""
        ...

    async def get(self, digest: str) -> Uploaded:
        """A content that is here, which is kept for a day from now. Raises NotFound."""
        ...

    async def content(self, ref: str, path: str) -> tuple[RunFile, Iterator[bytes]]:
        """A file of a run, as it was given; reading its bytes blocks. Raises NotFound,
        HostError."""
        ...


class Artifacts(Protocol):
    """Raises NotFound where there is no such run or artifact."""

    async def list(self, ref: str) -> Sequence[Artifact]:
        """What the run published by name, the newest version first; then what was kept of it when
        it ended."""
        ...

    async def content(
        self, ref: str, name: str, version: int | None = None
    ) -> tuple[Artifact, Iterator[bytes]]:
        """One of them, by default the newest of its name, and its bytes; reading these blocks."""
        ...
