"""A run's timeline as it grows: server-sent events of rendered items.

`item` has the items that new entries made or changed, as HTML, and for its id the seq of the last
entry: a browser that comes back sends that, and goes on from there. `state` says that what is above
the timeline has changed; `end`, that nothing more comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from torpor.core.states import FINAL
from torpor.dashboard import render
from torpor.dashboard.pages import ENTRIES, place, service_of
from torpor.dashboard.timeline import Item, Timeline
from torpor.service.logs import Entry
from torpor.web import stream

# So far back may begin what new entries change.
KNOWN_MAX = 4 * ENTRIES
_CHANGES_STATE = ("run.", "op.", "wait.", "snapshot")


async def live(request: Request) -> Response:
    """Past `after`, or past what the browser saw last; the page's timeline begins at `start`."""
    service = service_of(request)
    found = await service.runs.get(request.path_params["ref"])
    run = found["id"]
    start = place(request, "start", 0)
    seen = stream.seen(request.headers.get("last-event-id"))
    after = max(seen, place(request, "after", start))
    # What began before is changed by what comes: the page's own beginning is read again.
    begin = max(start, after - KNOWN_MAX)
    timeline = Timeline(await service.prices())
    while begin < after:
        known, _ = await service.logs.read(run, begin, after - begin, None)
        for entry in known:
            timeline.take(entry)
        begin = known[-1]["seq"] if known else after
    csrf = request.scope["torpor.session"].csrf

    def render_page(page: Sequence[Entry]) -> Iterator[str]:
        changed: dict[int, Item] = {}
        for entry in page:
            if (item := timeline.take(entry)) is not None:
                changed[item.seq] = item
        if changed:
            html = render.fill("items.html", items=changed.values(), run=found, csrf=csrf)
            yield stream.event("item", html, id=page[-1]["seq"])
        if any(entry["kind"].startswith(_CHANGES_STATE) for entry in page):
            yield stream.event("state", None)

    lines = stream.follow(
        partial(service.logs.read, run),
        partial(service.logs.changed, run),
        after=after,
        kinds=None,
        ended=found["state"] if found["state"] in FINAL else None,
        closing=request.app.state.closing,
        render=render_page,
    )
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(lines, headers=headers, media_type="text/event-stream")
