"""What a deployment keeps on its disk: snapshots, garbage, backups, ended runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Protocol

from pydantic import Field
from typing_extensions import TypedDict

from torpor.core.retention import Retention
from torpor.service.shapes import Object, closed


@closed
class Snapshot(TypedDict):
    id: str
    run: str | None
    epoch: int
    seq: int
    parent: str | None
    manifest: str
    bytes: int
    pause_ms: float | None
    freeze_ms: float | None
    created_at: float
    detail: Object | None
    pinned: bool
    reclaimed_at: float | None


@closed
class Verified(TypedDict):
    """`snapshots`: what is wrong with each snapshot that the run may be restored from. `problems`:
    each with all runs that it affects, unfinished or with kept snapshots.
    """

    run: str
    snapshots: list[Object]
    problems: list[Object]


@closed
class Collected(TypedDict):
    """`reclaimed`: snapshots and templates that are no longer kept. `bytes`: of the removed files;
    `young_bytes`: of those to be removed later; `kept_bytes`: of all others. Templates are built
    upon bases.
    """

    dry_run: bool
    reclaimed: list[Object]
    manifests: int
    layers: int
    values: int
    bytes: int
    young_bytes: int
    kept_bytes: int
    kept_snapshots: int
    kept_templates: list[Object]
    kept_bases: int
    problems: list[str]


@closed
class Backup(TypedDict):
    """`problems`: files that were missing or damaged, and so are not in the backup."""

    directory: str
    format: str
    version: int
    torpor: str
    made_at: float
    runs: int
    unfinished: int
    snapshots: int
    key: bool
    files: int
    bytes: int
    problems: list[str]


@closed
class Kept(TypedDict):
    """Null means no limit."""

    age_s: Annotated[float | None, Field(description="delete runs that ended longer ago than this")]
    log_bytes: Annotated[
        int | None,
        Field(
            description=("while the database is larger than this, delete the runs that ended first")
        ),
    ]


class Snapshots(Protocol):
    """`ref` is a run's id, or a unique prefix of one; NotFound where there is no such run."""

    async def list(self, ref: str) -> Sequence[Snapshot]: ...

    async def verify(self, ref: str) -> Verified:
        """Read every byte that the run may be restored from."""
        ...

    async def pin(self, ref: str, snapshot: str, pinned: bool) -> Snapshot:
        """Keep a snapshot whatever its agent's file says, or no longer."""
        ...


class Storage(Protocol):
    async def collect(self, dry_run: bool) -> Collected:
        """Remove what nothing needs; or only say what that would be."""
        ...

    async def back_up(self, directory: str, with_key: bool) -> Backup:
        """Copy runs, logs and snapshots to a new directory on the server's host. Raises
        Conflict, Invalid, HostError, Damaged."""
        ...

    async def retention(self) -> Kept:
        """How long ended runs are kept."""
        ...

    async def retain(self, retention: Retention) -> Kept:
        """Keep ended runs so long from now on."""
        ...
