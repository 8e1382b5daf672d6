"""Waitpoints by their public URLs. To be mounted at /w.

Browsers get pages, programs JSON: the same answers, and errors as problem details. What an answer
means is not decided here. The URL is all that one needs, so it must not leak: no page names it to
others (`referrer-policy`), keeps it in a cache, or is listed by a search engine.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from torpor.core import jsonvalues
from torpor.core.errors import Conflict, Invalid, NotFound, TorporError
from torpor.core.limits import POSTED_FIELDS_MAX
from torpor.service.waits import Answer, Links, PublicWait
from torpor.web import download, forms, problems, verdicts, words
from torpor.web.problems import Json
from torpor.web.requests import AnyJson, Note, Strict

BY = "its link"

_FOLDER = Path(__file__).parent
_STYLE = (_FOLDER / "static" / "public.css").read_bytes()
_STYLE_DIGEST = blake2b(_STYLE, digest_size=8).hexdigest()
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-robots-tag": "noindex, nofollow",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class PublicAnswer(Strict):
    """An answer at a public link."""

    data: AnyJson = None
    approved: bool | None = None
    note: Note | None = None


def pages(links: Links) -> Starlette:
    app = Starlette(
        routes=[
            Route("/static/public.css", _style),
            Route("/{token}", _show),
            Route("/{token}", _answer, methods=["POST"]),
            Route("/{token}/action", _action),
        ],
        middleware=[Middleware(_Dressed)],
        exception_handlers={
            TorporError: _on_error,
            HTTPException: _on_http,
            Exception: _on_unexpected,
        },
    )
    app.state.links = links
    return app


class _Dressed:
    """ASGI middleware: what browsers are told to allow."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                if "cache-control" not in headers:
                    headers["cache-control"] = "no-store"
            await send(message)

        await self._app(scope, receive, dressed)


async def _style(request: Request) -> Response:
    fresh = request.url.query == _STYLE_DIGEST
    kept = "max-age=31536000, immutable" if fresh else "no-cache"
    return Response(_STYLE, media_type="text/css", headers={"cache-control": kept})


async def _show(request: Request) -> Response:
    wait = await _links(request).get(request.path_params["token"])
    if not _by_browser(request):
        return Json(wait)
    if wait["state"] != "open":
        return _page("ended.html", wait=wait)
    return _question(request, wait, forms.typed_first(forms.form(wait["schema"])))


async def _action(request: Request) -> Response:
    """All of what a permission is asked for."""
    content = await _links(request).action(request.path_params["token"])
    return download.text("action.txt", content)


async def _answer(request: Request) -> Response:
    token, links = request.path_params["token"], _links(request)
    if _type(request) == "application/json":
        given = _answer_of(await request.body())
        return Json(await links.answer(token, replace(given, origin=_origin(request))))
    wait = await links.get(token)
    typed = await _typed(request)
    try:
        answer = replace(_read(wait, typed), origin=_origin(request))
        ended = await links.answer(token, answer)
    except Invalid as error:
        if not _by_browser(request):
            raise
        return _question(request, wait, typed, error)
    except Conflict:
        if not _by_browser(request):
            raise
        return _page("ended.html", 409, wait=await links.get(token), late=True)
    if not _by_browser(request):
        return Json(ended)
    # So that a reload asks nothing again.
    return RedirectResponse(request.url.path, 303)


def _read(wait: PublicWait, typed: Mapping[str, list[str]]) -> Answer:
    """What a form says. Raises Invalid."""
    if wait["approve"]:
        data, approved = verdicts.read(wait["kind"], typed.get("verdict", [""])[0])
        note = typed.get("note", [""])[0].strip()
        return Answer(data, approved, note or None, BY)
    data, wrong = forms.answer(forms.form(wait["schema"]), typed, free=wait["schema"] is None)
    if wrong:
        raise Invalid("; ".join(map(str, wrong)), parts=wrong)
    return Answer(data, by=BY)


def _origin(request: Request) -> str:
    return f"{BY}, from {request.client.host}" if request.client else BY


def _answer_of(body: bytes) -> Answer:
    try:
        given = PublicAnswer.model_validate(jsonvalues.read(body))
    except ValidationError as error:
        raise Invalid(problems.sentence(error.errors())) from error
    except jsonvalues.Refused as error:
        raise Invalid(f"the body {error}") from error
    except ValueError as error:
        raise Invalid(f"the body is not valid JSON: {error}") from error
    return Answer(given.data, given.approved, given.note, BY)


async def _typed(request: Request) -> dict[str, list[str]]:
    if _type(request) != "application/x-www-form-urlencoded":
        raise HTTPException(415, "an answer is JSON, or what a form sends")
    try:
        return parse_qs(
            (await request.body()).decode(),
            keep_blank_values=True,
            max_num_fields=POSTED_FIELDS_MAX,
        )
    except ValueError as error:
        raise Invalid(f"the form cannot be read: {error}") from error


# -- pages ----------------------------------------------------------------------------------------


def _question(
    request: Request,
    wait: PublicWait,
    typed: Mapping[str, list[str]],
    error: Invalid | None = None,
) -> HTMLResponse:
    form = None if wait["approve"] else forms.form(wait["schema"])
    at: dict[str, list[str]] = {}
    trouble: list[str] = []
    if error is not None and form is not None and error.parts:
        at, trouble = forms.by_field(form, error.parts)
    elif error is not None:
        trouble = [error.message]
    status = 200 if error is None else 422
    more: dict[str, Any] = {"failed": error is not None, "free": wait["schema"] is None}
    more["whole"] = f"{request.url.path}/action"
    return _page(
        "asked.html", status, wait=wait, form=form, typed=typed, at=at, trouble=trouble, **more
    )


def _page(name: str, status: int = 200, **values: Any) -> HTMLResponse:
    text = _templates.get_template(name).render(**values)
    # Halves of surrogate pairs, which JSON can say, are no text of a page.
    return HTMLResponse(text.encode(errors="replace"), status)


def _moment(at: float) -> Markup:
    when = datetime.fromtimestamp(at).astimezone()
    return Markup('<time datetime="{}">{}</time>').format(
        when.isoformat(), when.strftime("%-d %B %Y, %H:%M %Z")
    )


def _in_time(at: float) -> str:
    return words.duration(max(0.0, at - time.time()))


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(style=f"/w/static/public.css?{_STYLE_DIGEST}")
    environment.filters.update(
        moment=_moment,
        in_time=_in_time,
        plain=words.plain,
        pretty=lambda v: words.plain(words.pretty(v)),
    )
    return environment


_templates = _environment()


# -- what went wrong ------------------------------------------------------------------------------


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, TorporError)
    return _wrong(request, problems.problem(error))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = NotFound if error.status_code == 404 else Invalid
    return _wrong(request, problems.problem(kind(error.detail), error.status_code))


async def _on_unexpected(request: Request, error: Exception) -> Response:
    return _wrong(request, problems.problem(problems.unexpected()))


def _wrong(request: Request, problem: Mapping[str, Any]) -> Response:
    if _by_browser(request):
        return _page("wrong.html", problem["status"], problem=problem)
    return Json(problem, problem["status"], media_type=problems.MEDIA_TYPE)


def _links(request: Request) -> Links:
    links: Links = request.app.state.links
    return links


def _by_browser(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
