"""show, trace, cancel: a run, looked at."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict
from textwrap import indent
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from torpor.cli import family, files, timeline
from torpor.cli.answering import how_to_answer
from torpor.cli.options import Json, RunArg
from torpor.cli.ps import row
from torpor.cli.storage import snapshot_table
from torpor.client import Client
from torpor.core.home import Home
from torpor.core.states import RunState
from torpor.engine import registry
from torpor.engine.capabilities import NOT_ISOLATED
from torpor.terminal.screen import facts, say, show, show_json, state, table
from torpor.web import words

_OUTPUT_LINES = 10
_SNAPSHOTS = 5
_WARNINGS = 3
_CHILDREN = 10

Object = dict[str, Any]


def show_run(run: RunArg, as_json: Json = False) -> None:
    """Show everything about one run."""
    client = Client(Home.find())
    found = client.run(run)
    published = client.artifacts(found["id"])
    if as_json:
        show_json(found | {"artifacts": published})
        return
    now = time.time()
    parts: list[RenderableType] = [_facts(found, now)]
    if len(found["family"]) > 1:
        parts += [Text("\nforks", "bold"), family.tree(found)]
    if found["children"]:
        parts += [Text("\nchildren", "bold"), _children(found["children"], now)]
    entries = list(client.entries(found["id"]))
    if published:
        parts += [Text("\nfiles", "bold"), files.listed(published, now)]
    if why := files.not_kept(found, entries):
        parts.append(Text(f"\n{why}", "yellow"))
    for wait in found["waits"]:
        if wait["kind"] != "child":
            parts.append(_wait(wait, now))
    parts += [_doubt(each, now) for each in found["in_doubt"]]
    parts += [_warning(each, now) for each in entries if _is_warning(each)][-_WARNINGS:]
    if lines := _last_output(entries):
        parts += [Text("\nlast output", "bold"), Text(words.plain("\n".join(lines)))]
    if found["error"] and found["error"].get("traceback"):
        trace = words.plain(found["error"]["traceback"]).rstrip()
        parts += [Text("\ntraceback", "bold"), Text(trace, "dim")]
    if found["snapshots_count"]:
        newest = client.snapshots(found["id"])[:_SNAPSHOTS]
        parts += [Text(), snapshot_table(newest, now)]
    show(Group(*parts))


def _facts(run: Object, now: float) -> Table:
    rows: list[tuple[str, str | Text]] = [
        ("run", run["id"]),
        ("agent", f"{run['agent'] or ''} {run['version'][:12]}".strip()),
        ("state", Text.assemble(state(run["state"]), f", {words.ago(run['state_since'], now)}")),
        ("engine", run["engine"] + _isolation(run["engine"])),
        ("input", words.compact(run["input"])),
        ("created", f"{words.clock(run['created_at'], now)} ({words.ago(run['created_at'], now)})"),
        ("time", f"{words.times(run)}, {words.count(run['cycles'], 'awakening')}"),
        ("costs", _cost(run)),
    ]
    if run["forked"]:
        rows.insert(1, ("origin", family.origin(run)))
    for what in ("successor", "schedule", "after"):
        if run[what]:
            rows.append((what, run[what]))
    if run["attempt"] > 1:
        rows.append(("attempt", str(run["attempt"])))
    if run["state"] == RunState.QUEUED:
        rows.append(("queue", _queued(run, now)))
    if run["queued_because"]:
        rows.append(("waits", Text(f"for a machine: {run['queued_because']}", "yellow")))
    if calls := words.awaited(run, ()):
        rows.append(("waits", f"for {words.waiting_for(calls, now)}"))
    if run["env"]:
        rows.append(("env", ", ".join(run["env"])))
    if run["parent"]:
        rows.insert(1, ("parent", run["parent"]))
    if run["machine"]:
        machine = run["machine"]
        process = "no process yet" if machine["pid"] is None else f"pid {machine['pid']}"
        rows.append(("machine", f"{process}, epoch {machine['epoch']}, {machine['state']}"))
        if machine["pager"]:
            rows.append(("pager", _served(machine["pager"])))
    else:
        rows.append(("machine", "none: 0 processes"))
    rows += [("model", words.used(each)) for each in run["models"]]
    if used := words.budget(run["budget"]):
        rows.append(("used", used))
    if run["conversation"]:
        rows.append(("said", words.conversation(run["conversation"])))
    rows += words.files(run["files"])
    for stream, share in run["output"].items():
        if share["printed"] > share["logged"]:
            rows.append((stream, f"{words.beyond(share)}: torpor logs RUN --stream {stream}"))
    if run["result"] is not None:
        rows.append(("result", words.plain(words.pretty(run["result"]))))
    if run["error"]:
        rows.append(("error", Text(words.error_line(run["error"]), "red")))
    return facts(rows)


def _children(children: list[Object], now: float) -> RenderableType:
    """Those that did not complete first; of many, how many there are of each state, and some."""
    by_interest = sorted(children, key=lambda child: child["state"] == "completed")
    rows = [row(child, 0, [], now) for child in by_interest[:_CHILDREN]]
    shown = table(("RUN", "AGENT", "STATE", "STARTED", "RAN", "SLEPT", ""), rows)
    if len(children) <= _CHILDREN:
        return shown
    counts = Counter(child["state"] for child in children)
    described = ", ".join(f"{count} {name}" for name, count in counts.items())
    return Group(Text(f"{len(children)}: {described}; {_CHILDREN} of them:"), shown)


def _queued(run: Object, now: float) -> str:
    described = [run["queue"]]
    described += [f"key {run['queue_key']}"] if run["queue_key"] else []
    described += [f"priority {run['priority']}"] if run["priority"] else []
    if (run["not_before"] or 0) > now:
        described.append(f"in {words.duration(run['not_before'] - now)}")
    return ", ".join(described)


def _served(stats: Object) -> str:
    looked = stats["hits"] + stats["misses"]
    hits = f", {100 * stats['hits'] // looked} % found in its cache" if looked else ""
    return (
        f"{words.count(stats['reads'], 'read')}, {words.size(stats['bytes'])}; "
        f"{words.count(stats['frames'], 'frame')} decompressed{hits}; "
        f"{words.count(stats['pushed'], 'page')} pushed in {stats['push_ms']:.0f} ms"
    )


def _cost(run: Object) -> str:
    own = f"{words.size(run['bytes'])} in {words.count(run['snapshots_count'], 'snapshot')}"
    if run["template_bytes"] is None:
        return own
    return (
        f"{own}, and {words.size(run['template_bytes'])} of template shared with its agent's runs"
    )


def _isolation(engine: str) -> str:
    return "" if registry.isolates(engine) else f": {NOT_ISOLATED}"


def _wait(wait: Object, now: float) -> Text:
    since = words.ago(wait["created_at"], now)
    text = f"\nwaiting for {words.waiting_for([wait], now)} (asked {since})"
    if wait["kind"] == "sleep":
        return Text(text)
    if wait["data"] is not None:
        text += "\n" + indent(words.plain(words.shown(wait["data"])), "  ")
    return Text(f"{text}\n  {how_to_answer(wait)}")


def _doubt(operation: Object, now: float) -> Text:
    at = f" at {operation['at']}" if operation.get("at") else ""
    began = words.ago(operation["began_at"], now)
    again = f", done again {words.count(operation['again'], 'time')}" * (operation["again"] > 0)
    return Text(words.plain(f"\nin doubt: {operation['op']}{at}, begun {began}{again}"), "yellow")


def _is_warning(entry: Object) -> bool:
    match entry["kind"]:
        case "note.log":
            return entry["data"].get("level") in ("warning", "error")
        case kind:
            return kind in ("snapshot.unfit", "egress.refused")


def _warning(entry: Object, now: float) -> Text:
    data = entry["data"]
    if entry["kind"] == "snapshot.unfit":
        return Text(f"\n{words.clock(entry['at'], now)}: {words.unfit(data)}", "yellow")
    if entry["kind"] == "egress.refused":
        return Text(f"\n{words.clock(entry['at'], now)}: {words.refused(data)}", "yellow")
    return Text(f"\n{data['level']}: {words.note(data)}", "yellow")


def _last_output(entries: list[Object]) -> list[str]:
    text = "".join(e["data"]["text"] for e in entries if e["kind"] == "output")
    return text.splitlines()[-_OUTPUT_LINES:]


def trace(run: RunArg, as_json: Json = False) -> None:
    """Show a run as a tree: its machines, its operations with their durations, its freezes."""
    client = Client(Home.find())
    found = client.run(run)
    read = timeline.read(client.entries(found["id"]))
    if as_json:
        show_json(asdict(read))
    else:
        show(_tree(found, read, time.time()))


def _tree(run: Object, read: timeline.Timeline, now: float) -> Tree:
    title = Text.assemble(run["id"], f"  {run['agent'] or ''}  ", state(run["state"]))
    tree = Tree(title.append(f"  {words.times(run)}"), guide_style="dim")
    until = read.ended_at or now
    for machine in read.machines:
        epoch = "" if machine.epoch is None else f" {machine.epoch}"
        name = Text.assemble((f"machine{epoch}", "bold"), f"  {machine.how} ")
        up = "" if machine.up_ms is None else f"  up in {words.duration(machine.up_ms / 1000)}"
        branch = tree.add(name.append(words.clock(machine.at, now) + up, "dim"))
        for item in machine.items:
            branch.add(_item(item, until, ended=read.ended_at is not None))
    return tree


def _item(item: timeline.Operation | timeline.Freeze, until: float, *, ended: bool) -> Text:
    if isinstance(item, timeline.Freeze):
        facts = [f"slept {words.duration((item.until or until) - item.at)}"]
        if item.bytes is not None:
            facts.append(words.size(item.bytes))
        if item.pause_ms is not None:
            facts.append(f"paused {words.duration(item.pause_ms / 1000)} to freeze")
        return Text(f"* frozen  {' · '.join(facts)}", "blue")
    took = words.duration((item.ended_at or until) - item.began_at)
    if item.ended_at is None:
        mark = Text("no result" if ended else "under way", "yellow")
    else:
        mark = Text("ok", "green") if item.ok else Text("failed", "red")
    shown = Text.assemble(item.op, f"  {took}  ", mark)
    tokens = words.tokens(item.input_tokens, item.output_tokens)
    if tokens or not item.measured:
        shown.append(f"  {words.line(item.model)}  {tokens or 'tokens unknown'}", "dim")
    if item.way:
        shown.append(f"  {words.line(item.way)}", "dim")
    if item.changed:
        shown.append(f"  {item.changed}", "yellow")
    if item.again:
        shown.append(f"  done again {words.count(item.again, 'time')}", "yellow")
    return shown.append(f"  {words.line(item.outcome)}") if item.outcome else shown


def cancel(run: RunArg, as_json: Json = False) -> None:
    """Cancel a run."""
    found = Client(Home.find()).cancel(run)
    if as_json:
        show_json(found)
    else:
        say(f"{found['id']}: {found['state']}")
