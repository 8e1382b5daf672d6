"""What an agent prints, appended to its run's log as far as that takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, select, update

from torpor.contextlog import schema
from torpor.contextlog.entries import NewEntry, advance, append
from torpor.core.errors import Invalid
from torpor.core.ids import Epoch, RunId, Seq

OUTPUT = "output"
# From here on, of each stream, what the agent prints is not in the log but beside it.
BESIDE = "output.beside"
# A recovered agent prints something else than stands at `instead` of the stream: from `offset` on.
ANEW = "output.anew"
_OFFSETS = {"stdout": "out_offset", "stderr": "err_offset"}

_runs, _log = schema.runs, schema.log


@dataclass(frozen=True)
class Piece:
    """Of what an agent printed. `stream` is stdout or stderr; `offset` says where in it `text`
    begins, counted in bytes of the text as UTF-8; with `instead`, the stream has something else
    from there on."""

    stream: str
    offset: int
    text: str
    instead: int | None = None


def append_output(
    c: Connection,
    run: RunId,
    epoch: Epoch,
    piece: Piece,
    now: float,
    *,
    limit: int | None = None,
    beside: Callable[[int, bytes], object] = lambda offset, data: None,
) -> Seq | None:
    """Append what the agent printed, unless the log has it: a recovered machine repeats itself.

    Appended is what lies beyond all output appended before; None if nothing does. What it stands
    instead of is recorded before it. Raises as `append` does.

    Once both streams together have reached `limit`, an entry records that, and what comes then is
    given to `beside`, with where it stands in the stream; the log only counts it.
    """
    stream, offset, text, instead = piece.stream, piece.offset, piece.text, piece.instead
    if stream not in _OFFSETS:
        raise Invalid(f"there is no output stream {stream!r}: use stdout or stderr")
    column = _runs.c[_OFFSETS[stream]]
    had = ends(c, run)
    have: int = had[stream]
    encoded = text.encode(errors="surrogatepass")
    if offset + len(encoded) <= have:
        advance(c, run, epoch, 0, wakes=False)
        return None
    start = max(offset, have)
    rest = encoded[start - offset :]
    before, end = sum(had.values()), offset + len(encoded)
    seq = None
    some: list[NewEntry] = []
    if instead is not None:
        anew = {"stream": stream, "offset": start, "instead": instead}
        some.append(NewEntry(ANEW, None, anew))
    if limit is not None and before >= limit:
        beside(start, rest)
    else:
        text = rest.decode(errors="replace")
        some.append(NewEntry(OUTPUT, None, {"stream": stream, "text": text, "offset": start}))
        if limit is not None and before - have + end >= limit:
            some.append(NewEntry(BESIDE, None, {"limit": limit, **had, stream: end}))
    if some:
        seq = append(c, run, epoch, some, now)[0]
    else:
        advance(c, run, epoch, 0, wakes=False)
    c.execute(update(_runs).where(_runs.c.id == run).values({column: offset + len(encoded)}))
    return seq


def ends(c: Connection, run: RunId) -> dict[str, int]:
    """How much there is of each stream, in bytes, in the log and beside it."""
    known = select(_runs.c.out_offset, _runs.c.err_offset).where(_runs.c.id == run)
    return dict(zip(_OFFSETS, c.execute(known).first() or (0, 0), strict=True))


def beside_from(c: Connection, run: RunId) -> dict[str, int]:
    """From where on each stream is not in the log; empty: all of both is."""
    begins = select(_log.c.data).where(_log.c.run == run, _log.c.kind == BESIDE)
    found = c.scalar(begins.order_by(_log.c.part, _log.c.seq).limit(1))
    return {} if found is None else {stream: found[stream] for stream in _OFFSETS}


def printed_before(
    c: Connection, run: RunId, stream: str, seq: int | None, offset: int, size: int
) -> tuple[int, bytes]:
    """Of what the log holds of a stream up to the entry `seq`, where that ends, and what stands
    before `offset`: of its line, and at most about `size` bytes."""
    wanted = select(_log.c.data).where(_log.c.run == run, _log.c.kind == OUTPUT)
    wanted = wanted.where(_log.c.data["stream"].as_string() == stream)
    if seq is not None:
        wanted = wanted.where(_log.c.seq <= seq)
    wanted = wanted.order_by(_log.c.part.desc(), _log.c.seq.desc())
    end, text = 0, b""
    with c.execute(wanted.execution_options(yield_per=1)) as rows:
        for (data,) in rows:
            piece = data["text"].encode()
            end = end or data["offset"] + len(piece)
            text = piece[: max(0, offset - data["offset"])] + text
            if b"\n" in text or len(text) >= size:
                break
    return end, text
