"""Waits over HTTP: found and answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, Query, Response
from pydantic import Field

from torpor.api import access
from torpor.api.routing import Responses, Router, Uses
from torpor.service.waits import Answer, Wait, WaitFilter
from torpor.web.download import text
from torpor.web.requests import AnyJson, Note, ShortText, Strict, split


class CompleteRequest(Strict):
    data: AnyJson = None
    approved: bool | None = None
    note: Note | None = None
    by: ShortText | None = None


class WaitsQuery(Strict):
    run: ShortText | None = None
    agent: ShortText | None = None
    text: ShortText | None = Field(default=None, description=("text in its prompt, data or ids"))
    tag: ShortText | None = None
    all: bool = Field(default=False, description="include those that have ended")
    limit: int | None = Field(default=None, ge=1, le=1000)
    after: ShortText | None = Field(default=None, description=("only waits newer than this one"))
    kinds: ShortText | None = Field(
        default=None, description="comma separated: wait, permission, event, sleep, doubt, child"
    )


router = Router()
TEXT: Responses = {200: {"content": {"text/plain": {}}}}


@router.get("/waits")
async def waits(query: Annotated[WaitsQuery, Query()], service: Uses) -> Sequence[Wait]:
    """List waits, oldest first."""
    return await service.waits.list(
        WaitFilter(
            query.run,
            query.all,
            query.limit,
            query.after,
            query.tag,
            split(query.kinds),
            agent=query.agent,
            text=query.text,
        )
    )


@router.get("/waits/{ref}")
async def wait(ref: str, service: Uses) -> Wait:
    """One wait."""
    return await service.waits.get(ref)


@router.get("/waits/{ref}/action", responses=TEXT)
async def action(ref: str, service: Uses) -> Response:
    """All of what a permission is asked for, as text. 409 for a wait that is none."""
    return text(f"{ref}.txt", await service.waits.action(ref))


@router.post("/waits/{ref}/complete")
async def complete(
    ref: str, body: CompleteRequest, service: Uses, origin: Annotated[str, Depends(access.origin)]
) -> Wait:
    """Answer a wait. 409 if it was answered before, or has ended in another way; 422 if the answer
    does not fit. About a permission `data` is `{"decision": "once" | "run" | "deny", "reason"}`;
    or `approved` says yes, for once, or no, with the `note` as the reason.
    """
    answer = Answer(body.data, body.approved, body.note, body.by, origin)
    return await service.waits.complete(ref, answer)
