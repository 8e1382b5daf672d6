"""Events: what is sent to a run by name, and taken by its waits for that name, each once.

    sent ──► kept, until the run waits for one of its name ──► taken

An event is in the run's log from when it was sent (`event.received`), and its place there, its
`seq`, is what it is called: the result of the wait that took it names it. Of one name the oldest
event goes to the oldest open wait. Sent twice with the same id of its sender it is one event.

The table `events` is what the log says, indexed: a fork's and an import's are made from it. So an
event that was kept at a fork's place is kept for the fork too, and one that was taken there is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, func, insert, or_, select, update

from torpor.contextlog import schema
from torpor.contextlog.entries import END, NewEntry, append, read_entries
from torpor.contextlog.runs import get_run
from torpor.contextlog.waits import OPEN, NewWait, WaitRow, complete_wait, create_wait, get_wait
from torpor.core import jsonvalues
from torpor.core.errors import Conflict, Invalid
from torpor.core.ids import Epoch, OpId, RunId, Seq
from torpor.core.limits import NAME_MAX
from torpor.core.states import FINAL

RECEIVED = "event.received"
KIND = "event"  # of the operations that wait for one
ID_MAX = 256
DATA_BYTES_MAX = 256 * 1024
KEPT_MAX = 1000  # of one run, that nothing has taken yet

_events, _waits, _log = schema.events, schema.waits, schema.log


@dataclass(frozen=True)
class Sent:
    """`seq` is the event's place in the run's log. `taken`: the wait that it ended just now.
    `again`: it had been sent before."""

    run: RunId
    seq: Seq
    taken: WaitRow | None = None
    again: bool = False


def send_event(
    c: Connection,
    run: RunId,
    name: str,
    data: Any,
    *,
    now: float,
    by: str | None = None,
    event: str | None = None,
) -> Sent:
    """Give the run an event; `event` is its sender's id of it. Raises Conflict (the run has ended,
    or keeps too many), Invalid (rule 13), NotFound."""
    _check(name, data, event)
    row = get_run(c, run)
    if event is not None and (known := _find(c, run, event)) is not None:
        return Sent(run, known, again=True)
    if row.state in FINAL:
        raise Conflict(f"{run} is {row.state.value} and takes no more events")
    if _kept(c, run) >= KEPT_MAX:
        raise Conflict(
            f"{run} already keeps {KEPT_MAX} events that it has not waited for; "
            f"{name!r} was refused",
            hint="Send it again after the run has taken some.",
        )
    received = {"name": name, "data": data, "event": event, "by": by}
    (seq,) = append(c, run, None, [NewEntry(RECEIVED, None, received)], now)
    _keep(c, run, seq, received, taken=False)
    taken = deliver(c, run, now, name)
    return Sent(run, seq, taken[0] if taken else None)


def wait_for_event(
    c: Connection,
    run: RunId,
    epoch: Epoch,
    *,
    op: OpId,
    name: str,
    now: float,
    **more: Any,
) -> WaitRow:
    """Begin operation `op` as a wait for an event; it has one at once that was kept. As
    `create_wait`."""
    wait = create_wait(
        c, run, epoch, NewWait(op=op, name=name, kind=KIND, prompt=name, **more), now
    )
    deliver(c, run, now, name)
    return get_wait(c, wait.id)


def deliver(c: Connection, run: RunId, now: float, name: str | None = None) -> list[WaitRow]:
    """Let the run's open waits take what is kept, of `name` or all; the waits that ended."""
    kept = select(_events.c.seq, _events.c.name).where(_events.c.run == run, ~_events.c.taken)
    if name is not None:
        kept = kept.where(_events.c.name == name)
    ended = []
    for seq, of_name in c.execute(kept.order_by(_events.c.seq)).all():
        wait = _oldest_open(c, run, of_name)
        if wait is None:
            continue
        c.execute(
            update(_events).where(_events.c.run == run, _events.c.seq == seq).values(taken=True)
        )
        (entry,) = read_entries(c, run, seq - 1, limit=1)
        value = {"data": entry.data["data"], "event": seq}
        complete_wait(c, wait.id, value=value, now=now, by=entry.data["by"])
        ended.append(get_wait(c, wait.id))
    return ended


def read_events(c: Connection, run: RunId, now: float) -> None:
    """Make the run's events what its log says: it is new here, and has its log from elsewhere. Its
    waits, which must be here, get what is kept for them."""
    at = _log.c
    ended = and_(at.kind == END, at.op.startswith(f"{KIND}:"))
    query = select(at.seq, at.kind, at.data).where(at.run == run, or_(at.kind == RECEIVED, ended))
    received, taken = {}, set()
    for seq, kind, data in c.execute(query.order_by(at.part, at.seq)):
        if kind == RECEIVED:
            received[seq] = data
        else:
            taken.add((data.get("value") or {}).get("event"))
    for seq, sent in received.items():
        _keep(c, run, seq, sent, taken=seq in taken)
    deliver(c, run, now)


def _check(name: str, data: Any, event: str | None) -> None:
    if not 1 <= len(name) <= NAME_MAX:
        raise Invalid(f"an event's name must have 1 to {NAME_MAX} characters, not {len(name)}")
    if event is not None and not 1 <= len(event) <= ID_MAX:
        raise Invalid(f"an event's id must have 1 to {ID_MAX} characters, not {len(event)}")
    try:
        size = len(jsonvalues.write(data))
    except ValueError as error:
        raise Invalid(f"the event's data {error}") from error
    if size > DATA_BYTES_MAX:
        raise Invalid(
            f"the event's data has {size:,} bytes as JSON; the limit is {DATA_BYTES_MAX:,}",
            hint="Send a reference to the data instead.",
        )


def _find(c: Connection, run: RunId, event: str) -> Seq | None:
    known = (_events.c.run == run, _events.c.event == event)
    found: Seq | None = c.scalar(select(_events.c.seq).where(*known))
    return found


def _kept(c: Connection, run: RunId) -> int:
    kept = (_events.c.run == run, ~_events.c.taken)
    return c.scalar(select(func.count()).select_from(_events).where(*kept)) or 0


def _keep(c: Connection, run: RunId, seq: int, sent: Mapping[str, Any], *, taken: bool) -> None:
    row = {"run": run, "seq": seq, "name": sent["name"], "event": sent["event"], "taken": taken}
    c.execute(insert(_events), [row])


def _oldest_open(c: Connection, run: RunId, name: str) -> WaitRow | None:
    mine = (_waits.c.run == run, _waits.c.state == OPEN, _waits.c.kind == KIND)
    named = _waits.c.prompt == name
    first = select(_waits.c.id).where(*mine, named).order_by(_waits.c.created_at, _waits.c.id)
    found = c.scalar(first.limit(1))
    return None if found is None else get_wait(c, found)
