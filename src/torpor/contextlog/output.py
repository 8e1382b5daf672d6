"""What an agent prints, appended to its run's log as far as that takes it."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, select, update

from torpor.contextlog import schema
from torpor.contextlog.entries import NewEntry, advance, append
from torpor.model.errors import Invalid
from torpor.model.ids import Epoch, RunId, Seq

# From here on, of each stream, what the agent prints is not in the log but beside it.
BESIDE = "output.beside"
_OFFSETS = {"stdout": "out_offset", "stderr": "err_offset"}

_runs = schema.runs


def append_output(
    c: Connection,
    run: RunId,
    epoch: Epoch,
    stream: str,
    offset: int,
    text: str,
    now: float,
    *,
    limit: int | None = None,
    beside: Callable[[int, bytes], object] = lambda offset, data: None,
) -> Seq | None:
    """Append what the agent printed, unless the log has it: a recovered machine repeats itself.

    `stream` is stdout or stderr; `offset` says where in it `text` begins, counted in bytes of
    the text as UTF-8. Appended is what lies beyond all output appended before; None if nothing
    does. Raises as `append` does.

    Once both streams together have reached `limit`, an entry says so, and what comes then is given
    to `beside`, with where it stands in the stream; the log only counts it.
    """
    if stream not in _OFFSETS:
        raise Invalid(f"there is no output stream {stream!r}: it is stdout or stderr")
    column = _runs.c[_OFFSETS[stream]]
    known = select(_runs.c.out_offset, _runs.c.err_offset).where(_runs.c.id == run)
    had = dict(zip(_OFFSETS, c.execute(known).first() or (0, 0), strict=True))
    have: int = had[stream]
    encoded = text.encode(errors="surrogatepass")
    if offset + len(encoded) <= have:
        advance(c, run, epoch, 0, wakes=False)
        return None
    start = max(offset, have)
    rest = encoded[start - offset :]
    before, end = sum(had.values()), offset + len(encoded)
    seq = None
    if limit is not None and before >= limit:
        advance(c, run, epoch, 0, wakes=False)
        beside(start, rest)
    else:
        text = rest.decode(errors="replace")
        some = [NewEntry("output", None, {"stream": stream, "text": text, "offset": start})]
        if limit is not None and before - have + end >= limit:
            some.append(NewEntry(BESIDE, None, {"limit": limit, **had, stream: end}))
        seq = append(c, run, epoch, some, now)[0]
    c.execute(update(_runs).where(_runs.c.id == run).values({column: offset + len(encoded)}))
    return seq
