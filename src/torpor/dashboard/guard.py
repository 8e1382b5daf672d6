"""Who may come in, and what browsers are to allow.

Every request but those for the log-in page and its looks needs a session (`sessions`). What changes
anything is a POST, and must say that it comes from a page of ours: its Origin is the host that it
was sent to, and it has the session's CSRF token. Pages may not be framed, and run, load and ask
nothing that is not this server's.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from torpor.core.limits import POSTED_FIELDS_MAX
from torpor.dashboard import render
from torpor.dashboard.sessions import Session, Sessions

log = logging.getLogger("torpor.dashboard")

COOKIE = "torpor_session"
CSRF = "csrf"
_OPEN = ("/ui/login", "/ui/static/")
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    # Not `no-referrer`: a form's Origin would be null.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, sessions: Sessions) -> None:
        self._app = app
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)  # a download's own policy is stricter
                if "cache-control" not in headers:
                    headers["cache-control"] = "no-store"
            await send(message)

        request = Request(scope, receive)
        session = self._sessions.find(request.cookies.get(COOKIE, ""))
        scope["torpor.session"] = session
        app = self._app
        if not request.url.path.startswith(_OPEN):
            if session is None:
                app = _refused(request, 401)
            elif request.method not in ("GET", "HEAD"):
                form = await self._form(request)
                scope["torpor.form"] = form
                if trouble := _foreign(request, form, session):
                    log.warning("%s %s refused: %s", request.method, request.url.path, trouble)
                    app = _refused(request, 403)
        await app(scope, receive, dressed)

    @staticmethod
    async def _form(request: Request) -> dict[str, list[str]]:
        body = (await request.body()).decode(errors="replace")
        try:
            return parse_qs(body, keep_blank_values=True, max_num_fields=POSTED_FIELDS_MAX)
        except ValueError:  # more fields than that: no token is among them
            return {}


def _foreign(request: Request, form: Mapping[str, list[str]], session: Session) -> str:
    """What shows that the request is not from a page of ours; empty if nothing does."""
    origin = urlsplit(request.headers.get("origin", "")).netloc
    if not origin or origin != request.headers.get("host"):
        return "it is from another origin"
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return "its browser says that it is from another site"
    token = request.headers.get("x-csrf-token") or form.get(CSRF, [""])[0]
    if not hmac.compare_digest(token.encode(errors="replace"), session.csrf.encode()):
        return "it does not have the token of its session"
    return ""


def _refused(request: Request, status: int) -> ASGIApp:
    response = render.page(request, "refused.html", status=status, code=status)
    if "hx-request" in request.headers:
        response.headers["hx-refresh"] = "true"
    return response
