"""Templates, filled in. Everything that is put into one is escaped, whoever it is from."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from torpor.core.states import FINAL
from torpor.dashboard import answering, assets, charts, tracebacks
from torpor.dashboard.terminal import Line, lines
from torpor.dashboard.timeline import Item
from torpor.web import words

Object = Mapping[str, Any]

_FOLDER = Path(__file__).parent / "templates"
_PUBLIC = Path(__file__).parents[1] / "public" / "templates"  # a form looks the same there
_CELL_CHARS = 2000
# What an agent shows beside a question: so much at once, but not a few lines less than all.
_FOLDED_LINES, _FEW, _FOLDED_CHARS = 12, 4, 1500
_REST_CHARS = 100_000
# Of an output that is not folded.
_SHORT_LINES, _SHORT_CHARS = 16, 4000


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


def terminal(text: str) -> Markup:
    """What was printed, as its lines, each piece in its style."""
    return Markup("\n").join(map(line_of, lines(text)))


def line_of(line: Line) -> Markup:
    styled = Markup('<span class="{}">{}</span>')
    pieces = [(piece.text, piece.style.classes) for piece in line]
    return Markup("").join(styled.format(how, text) if how else text for text, how in pieces)


@dataclass(frozen=True)
class Folded:
    """A long text: what is shown at once, and the rest behind `more`."""

    first: str
    rest: str = ""
    more: str = ""


def folded(text: str) -> Folded:
    if len(text) <= _FOLDED_CHARS and text.count("\n") <= _FOLDED_LINES + _FEW:
        return Folded(text)
    parts = text.split("\n")
    first = "\n".join(parts[:_FOLDED_LINES])
    if len(first) > _FOLDED_CHARS:
        first, rest = text[:_FOLDED_CHARS], text[_FOLDED_CHARS:]
        return Folded(first, rest[:_REST_CHARS], words.count(len(rest), "more character"))
    rest = "\n".join(parts[_FOLDED_LINES:])
    more = words.count(len(parts) - _FOLDED_LINES, "more line")
    return Folded(first, rest[:_REST_CHARS], more)


def by_state(runs: Sequence[Object]) -> str:
    """`2 completed, 1 failed`"""
    counted = Counter(run["state"] for run in runs)
    return ", ".join(f"{n} {state}" for state, n in counted.most_common())


def unfinished_first(runs: Sequence[Object], most: int) -> list[Object]:
    """Then those that failed."""
    ended = [state.value for state in FINAL]
    return sorted(runs, key=lambda run: (run["state"] in ended, run["state"] != "failed"))[:most]


def short_output(item: Item) -> bool:
    """Whether it is shown without being unfolded."""
    if item.kind != "output":
        return False
    text = item.blocks[0].text
    return len(text) <= _SHORT_CHARS and text.count("\n") <= _SHORT_LINES


def in_time(at: float | None) -> str:
    """How long until a time that is to come."""
    return "" if at is None else words.duration(at - time.time())


def asleep_for(run: Mapping[str, Any]) -> str:
    """The calls under which it is asleep."""
    return words.waiting_for(words.awaited(run, ()), time.time())


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader([_FOLDER, _PUBLIC]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(asset=assets.url, question=words.question, is_today=is_today)
    environment.globals.update(console_url=console_url)
    environment.globals.update(form=answering.form, typed_first=answering.typed_first)
    environment.filters.update(
        moment=moment,
        terminal=terminal,
        line_of=line_of,
        traceback=tracebacks.read,
        folded=folded,
        by_state=by_state,
        unfinished_first=unfinished_first,
        short_output=short_output,
        previewed=previewed,
        clock=clock,
        time_of=time_of,
        in_time=in_time,
        given=given,
        asleep_for=asleep_for,
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
        budget=words.budget,
        rule=words.rule,
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
