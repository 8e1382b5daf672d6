"""Errors as RFC 9457 problem details (https://www.rfc-editor.org/rfc/rfc9457).

Beside the standard members a problem has `code`, stable and for machines, and `hint`, what to
do. Nothing unexpected is shown to a client: it gets a pointer to the server's log.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from torpor.core import errors, jsonvalues
from torpor.core.errors import (
    CallerError,
    Conflict,
    Forbidden,
    GuestError,
    HostError,
    InternalError,
    Invalid,
    NotFound,
    StaleEpoch,
    TorporError,
    Unauthorized,
    full_disk,
)

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str


PROBLEMS: dict[int | str, dict[str, Any]] = {
    "default": {"model": Problem, "description": "problem details (RFC 9457)"}
}

# The nearest class in an error's ancestry decides.
_STATUS: dict[type, int] = {
    NotFound: 404,
    Conflict: 409,
    StaleEpoch: 409,
    Unauthorized: 401,
    Forbidden: 403,
    CallerError: 422,
    GuestError: 422,
    HostError: 503,
    TorporError: 500,
}


class Json(JSONResponse):
    """JSON in ASCII: text from a guest may hold half a surrogate pair, which has no UTF-8."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode("ascii")


class _Problem(Json):
    media_type = MEDIA_TYPE


def problem(error: TorporError, status: int | None = None) -> dict[str, Any]:
    """The problem details of `error`; `status` only where HTTP has a more exact one."""
    own = next(_STATUS[cls] for cls in type(error).__mro__ if cls in _STATUS)
    return {**errors.problem(error), "status": status or own}


def reported(error: Exception) -> TorporError:
    """`error` as a client sees it."""
    return error if isinstance(error, TorporError) else full_disk(error) or unexpected()


def unexpected() -> InternalError:
    """What a client sees of an unforeseen error: its details may hold anything (rule 9)."""
    return InternalError(
        "the server failed to handle this request",
        hint="The traceback is in run/server.log of the data directory. Please report it.",
    )


def refuse(error: TorporError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """`error` as a response, where no exception handler sees it."""
    return _respond(error, headers=headers)


def _respond(
    error: TorporError, status: int | None = None, headers: Mapping[str, str] | None = None
) -> _Problem:
    body = problem(error, status)
    return _Problem(body, status_code=body["status"], headers=headers)


def sentence(errors: Iterable[Mapping[str, Any]]) -> str:
    """What the validator found, in words: `input: Input should be a valid dictionary`."""
    lines = []
    for error in errors:
        if error["type"] == "json_invalid":
            at, why = error["loc"][-1], error.get("ctx", {}).get("error", "")
            lines.append(f"the body is not valid JSON: {why} at character {at}")
            continue
        where = ".".join(str(part) for part in error["loc"] if part not in ("body", "query"))
        why = error["msg"].removeprefix("Value error, ")
        lines.append(f"{where}: {why}" if where else why)
    return "; ".join(lines)


def _unreadable(cause: BaseException | None) -> str | None:
    """Why a body could not be parsed, where the framework only says that it could not."""
    match cause:
        case RecursionError():
            return "it is nested too deeply"
        case UnicodeDecodeError():
            return f"it is not UTF-8: {cause.reason} at byte {cause.start}"
        case ValueError() if "integer string conversion" in str(cause):
            return f"it {jsonvalues.TOO_LONG}"
    return None


def install(app: FastAPI) -> None:
    @app.exception_handler(TorporError)
    async def on_torpor_error(request: Request, error: TorporError) -> _Problem:
        return _respond(error)

    @app.exception_handler(ClientDisconnect)
    async def on_gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody is there any more, and nothing here is wrong

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> _Problem:
        return _respond(Invalid(sentence(error.errors()), hint="The API is described at /docs."))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> _Problem:
        if isinstance(error.__cause__, TorporError):
            return _respond(error.__cause__, error.status_code)
        if (wrong := _unreadable(error.__cause__)) is not None:
            return _respond(Invalid(f"the body is not valid JSON: {wrong}"))
        hint = "The API is described at /docs." if error.status_code in (404, 405) else ""
        kind = NotFound if error.status_code == 404 else Invalid
        where = f"{request.method} {request.url.path}: " if hint else ""
        return _respond(kind(f"{where}{error.detail}", hint=hint), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def on_unexpected(request: Request, error: Exception) -> _Problem:
        return _respond(reported(error))
