"""Templates, filled in. Everything that is put into one is escaped, whoever it is from."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from torpor.cli import words
from torpor.dashboard import answering, assets, charts

_FOLDER = Path(__file__).parent / "templates"
# For the fields of a form: drawn as they are for everyone.
_CELL_CHARS = 2000
_PUBLIC = Path(__file__).parents[1] / "public" / "templates"  # a form looks the same there


def moment(at: float | None) -> Markup:
    """A time as people read it: how long ago, and exactly when one asks."""
    if at is None:
        return Markup("–")
    when = datetime.fromtimestamp(at).astimezone()
    exact = when.isoformat(" ", "milliseconds")
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        when.isoformat(), exact, words.ago(at, time.time())
    )


def time_of(at: float) -> Markup:
    """A time in a list of such: of another day's, with its date, but not the year."""
    when = datetime.fromtimestamp(at).astimezone()
    today = when.date() == datetime.now(when.tzinfo).date()
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        when.isoformat(),
        when.isoformat(" ", "milliseconds"),
        when.strftime("%H:%M:%S" if today else "%m-%d %H:%M:%S"),
    )


def is_today(at: float) -> bool:
    return datetime.fromtimestamp(at).date() == datetime.now().date()


def clock(at: float) -> Markup:
    when = datetime.fromtimestamp(at).astimezone()
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        when.isoformat(),
        when.isoformat(" ", "milliseconds"),
        words.clock(at, time.time()).rsplit(".", 1)[0],
    )


def given(input: object, most: int = 140) -> str:
    """A run's input on one line: `topic: owls, n: 3`."""
    if not isinstance(input, dict):
        return words.compact(input, most)
    return words.line(", ".join(f"{k}: {words.compact(v, most)}" for k, v in input.items()), most)


RUN = re.compile(r"run_[0-9a-z]{16,32}")


def cell(value: object) -> Markup | str:
    """A value that a query found; a run's id leads there."""
    if value is None:
        return Markup('<span class="dim">null</span>')
    if isinstance(value, str) and RUN.fullmatch(value):
        return Markup('<a class="mono" href="/ui/runs/{0}">{0}</a>').format(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return charts.number(value)
    return words.plain(words.pretty(value))[:_CELL_CHARS]


def console_url(sql: str, name: str = "") -> str:
    """Where the SQL console answers this."""
    return "/ui/query?" + urlencode({"sql": sql} | ({"name": name} if name else {}))


# What an <img> may show: no type that can hold a script or load something.
_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_PREVIEW_BYTES_MAX = 4 << 20


def previewed(artifact: Mapping[str, Any]) -> bool:
    return artifact["media_type"] in _IMAGES and artifact["bytes"] <= _PREVIEW_BYTES_MAX


def in_time(at: float | None) -> str:
    """How long until a time that is to come."""
    return "" if at is None else words.duration(at - time.time())


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader([_FOLDER, _PUBLIC]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(asset=assets.url, asked=words.asked, is_today=is_today)
    environment.globals.update(console_url=console_url)
    environment.globals.update(form=answering.form, typed_first=answering.typed_first)
    environment.filters.update(
        moment=moment,
        previewed=previewed,
        clock=clock,
        time_of=time_of,
        in_time=in_time,
        given=given,
        cell=cell,
        duration=words.duration,
        size=words.size,
        compact=words.compact,
        line=words.line,
        plain=words.plain,
        pretty=lambda value: words.plain(words.pretty(value)),
        shown=lambda value: words.plain(words.shown(value)),
        times=words.times,
        conversation=words.conversation,
        dollars=words.dollars,
        used=words.used,
        beyond=words.beyond,
    )
    return environment


_templates = _environment()


def fill(name: str, **values: Any) -> str:
    return _templates.get_template(name).render(**values)


def page(
    request: Request, name: str, *, status: int = 200, at: str = "", **values: Any
) -> HTMLResponse:
    """A page of the session that asks; `at` is its place among the pages."""
    session = request.scope.get("torpor.session")
    text = fill(name, at=at, csrf=session.csrf if session else "", request=request, **values)
    # Halves of surrogate pairs, which JSON can say, are no text of a page.
    return HTMLResponse(text.encode(errors="replace"), status)
