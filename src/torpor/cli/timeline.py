"""A run's log read as a timeline: its machines, and in each what began there. Pure.

An operation belongs to the machine in which it began, though it may end in a later one (a wait
does, mostly); a freeze is the end of a machine's turn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torpor.core.replies import HTTP_ERROR, read_reply
from torpor.core.states import FINAL
from torpor.web import words

_BEGINS = {"run.started": "started", "run.resumed": "resumed", "run.recovered": "recovered"}
_EXCHANGES = frozenset({"egress.request", "egress.end", "egress.refused"})
_ENDS = frozenset(f"run.{state.value}" for state in FINAL)

Object = dict[str, Any]


@dataclass
class Operation:
    """`ended_at` is None while it has no result; `ok` says what the result was. `changed`: what a
    fork made of what its origin had recorded."""

    op: str
    began_at: float
    ended_at: float | None = None
    ok: bool | None = None
    outcome: str = ""
    changed: str = ""
    again: int = 0  # times it was in doubt and done again
    model: str = ""  # of a model call: who answered
    input_tokens: int | None = None
    output_tokens: int | None = None
    way: str = ""  # of a request: which rule let it out, with which secret
    measured: bool = True  # its answer says what it took, or need not


@dataclass
class Freeze:
    """`until` is when the next machine began, None while the run sleeps."""

    at: float
    bytes: int | None
    pause_ms: float | None
    until: float | None = None


@dataclass
class Machine:
    epoch: int | None
    how: str
    at: float
    up_ms: float | None = None  # how long it took until it ran
    items: list[Operation | Freeze] = field(default_factory=list)


@dataclass
class Timeline:
    machines: list[Machine]
    ended_at: float | None = None


def read(entries: Iterable[Object]) -> Timeline:
    timeline = Timeline([])
    operations: dict[str, Operation] = {}
    snapshot: Object = {}
    frozen: Freeze | None = None
    forked = ""
    for entry in entries:
        kind, at, data = entry["kind"], entry["at"], entry["data"]
        if kind in _BEGINS:
            timeline.machines.append(Machine(entry["epoch"], forked or _BEGINS[kind], at))
            forked = ""
            if frozen is not None:
                frozen.until, frozen = at, None
        elif kind == "op.begin":
            operation = operations[entry["op"]] = Operation(entry["op"], at)
            _current(timeline, entry).items.append(operation)
        elif kind == "op.again" and entry["op"] in operations:
            operations[entry["op"]].again += 1
        elif (kind == "op.end" or kind.startswith("wait.")) and entry["op"] in operations:
            _conclude(operations[entry["op"]], entry)
        elif kind in _EXCHANGES:
            _exchange(timeline, operations, entry)
        elif kind == "machine.up":
            _current(timeline, entry).up_ms = data.get("resume_ms")
        elif kind == "op.retried":
            operations[entry["op"]].changed = "tried again"
        elif kind == "run.forked":
            forked = f"{data['how']} of {data['origin']} at {data['seq']}, started"
        elif kind == "snapshot":
            snapshot = data
        elif kind == "run.suspended":
            frozen = Freeze(at, snapshot.get("bytes"), snapshot.get("pause_ms"))
            _current(timeline, entry).items.append(frozen)
        elif kind in _ENDS:
            timeline.ended_at = at
    return timeline


def _current(timeline: Timeline, entry: Object) -> Machine:
    if not timeline.machines:
        timeline.machines.append(Machine(entry["epoch"], "started", entry["at"]))
    return timeline.machines[-1]


def _exchange(timeline: Timeline, operations: dict[str, Operation], entry: Object) -> None:
    """A request that is no operation, listed as one: under its address."""
    kind, at, data = entry["kind"], entry["at"], entry["data"]
    if kind == "egress.end":
        if (found := operations.get(f"egress {data['id']}")) is not None:
            found.ended_at = at
            found.ok = "problem" not in data and data.get("status", 200) < HTTP_ERROR
            status = "" if found.ok or "status" not in data else f"HTTP {data['status']}"
            found.outcome = data.get("problem", status)
        return
    item = Operation(words.exchange(data), at, way=words.by_rule(data))
    if kind == "egress.request":
        operations[f"egress {data['id']}"] = item
    else:
        item.ended_at, item.ok, item.outcome = at, False, f"refused: {data['reason']}"
    _current(timeline, entry).items.append(item)


def _conclude(operation: Operation, entry: Object) -> None:
    """Its result; a wait's is in the log when it was answered, and again as it was handed over."""
    data = entry["data"]
    if entry["kind"] == "op.end" and operation.op.startswith("model:"):
        reply = read_reply(data.get("value"))
        operation.model = reply.model or ""
        operation.input_tokens, operation.output_tokens = reply.input_tokens, reply.output_tokens
        operation.measured = reply.measured
        if reply.failed:
            operation.outcome = f"HTTP {reply.status}"
    if data.get("origin") and entry["kind"].startswith("wait."):
        operation.way = f"from {data['origin']}"
    if data.get("remembered"):
        operation.way = "as decided for this run before"
    if operation.ended_at is None:
        operation.ended_at = entry["at"]
        operation.ok = bool(data.get("ok", True)) and not operation.outcome
    if isinstance(data.get("egress"), dict):
        operation.way = words.by_rule(data["egress"])
    if "set" in data:
        operation.changed = "set by hand"
    value = data.get("value")
    if isinstance(value, dict) and isinstance(value.get("approved"), bool):
        decided = words.decision(value)
        operation.outcome = decided or ("approved" if value["approved"] else "denied")
        if decided is not None:
            by = f"by {value['by']}" if value.get("by") else ""
            operation.way = ", ".join(filter(None, (by, operation.way, value.get("note"))))
    elif isinstance(value, dict) and value.get("status") in ("timeout", "cancelled", "failed"):
        operation.outcome = value["status"]
        operation.ok = operation.ok and value["status"] != "failed"
    elif isinstance(data.get("error"), dict):
        operation.outcome = str(data["error"].get("message", ""))
