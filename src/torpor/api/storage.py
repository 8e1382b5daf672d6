"""What is kept, over HTTP: snapshots, garbage, backups, ended runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from torpor.api.routing import Router, Uses
from torpor.core.retention import Retention
from torpor.service.storage import Backup, Collected, Kept, Snapshot, Verified
from torpor.web.requests import Strict


class PinRequest(Strict):
    pinned: bool


class GcRequest(Strict):
    dry_run: bool = Field(default=False, description="only report what would be done")


class BackupRequest(Strict):
    directory: Annotated[str, Field(min_length=1, max_length=4096)] = Field(
        description="an absolute path on the server's host that does not exist yet"
    )
    key: bool = Field(default=False, description=("include host.key, which opens the snapshots"))


class RetentionRequest(Strict):
    """Null means no limit."""

    age_s: float | None = Field(
        default=None, description="delete runs that ended longer ago than this"
    )
    log_bytes: int | None = Field(
        default=None,
        le=2**60,
        description=("while the database is larger than this, delete the runs that ended first"),
    )


router = Router()


@router.get("/runs/{ref}/snapshots")
async def snapshots(ref: str, service: Uses) -> Sequence[Snapshot]:
    """List the run's snapshots."""
    return await service.snapshots.list(ref)


@router.get("/runs/{ref}/verify")
async def verify(ref: str, service: Uses) -> Verified:
    """Read every byte that the run's snapshots and its template need."""
    return await service.snapshots.verify(ref)


@router.patch("/runs/{ref}/snapshots/{snapshot}")
async def pin(ref: str, snapshot: str, body: PinRequest, service: Uses) -> Snapshot:
    """Pin or unpin a snapshot. A pinned one is kept."""
    return await service.snapshots.pin(ref, snapshot, body.pinned)


@router.post("/gc")
async def gc(body: GcRequest, service: Uses) -> Collected:
    """Remove snapshots that are no longer kept, and files that nothing needs."""
    return await service.storage.collect(body.dry_run)


@router.post("/backups", status_code=201)
async def backup(body: BackupRequest, service: Uses) -> Backup:
    """Copy runs, logs and snapshots to a new directory on the server's host."""
    return await service.storage.back_up(body.directory, body.key)


@router.get("/retention")
async def retention(service: Uses) -> Kept:
    """How long ended runs are kept."""
    return await service.storage.retention()


@router.put("/retention")
async def keep(body: RetentionRequest, service: Uses) -> Kept:
    """Set for how long ended runs are kept. Without limits, none is deleted automatically."""
    return await service.storage.retain(Retention(body.age_s, body.log_bytes))
