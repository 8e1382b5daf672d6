"""A run's log as people read it: each operation one item, from its beginning to its outcome. Pure.

`Timeline.take` folds one entry after the other and gives the item that it made or changed: what
is shown of a whole log, and what is sent as a log grows, are the same. An item is named by the seq
of its first entry. Entries whose beginnings were not taken (a page further up has them) make
items of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torpor.core.prices import Prices
from torpor.core.replies import HTTP_ERROR, read_reply
from torpor.core.states import FINAL
from torpor.dashboard import terminal, turns
from torpor.web import words

Object = Mapping[str, Any]

TEXT_CHARS_MAX = 6000
BRIEF_CHARS = 160
OUTPUT_CHARS_MAX = 16_000
_LINE_CHARS = 2000
SO_FAR = "assistant, so far"
GOOD, BAD, WARN, BUSY = "good", "bad", "warn", "busy"
_ENDS = frozenset(f"run.{state.value}" for state in FINAL)


@dataclass(frozen=True)
class Block:
    """Text under a label; `cut` says how many characters more there are."""

    label: str
    text: str
    cut: int = 0


@dataclass(frozen=True)
class Item:
    """`tone` is what its end was, BUSY while it has none. `last` is the seq of its last entry."""

    seq: int
    last: int
    at: float
    kind: str
    title: str
    brief: str = ""
    tone: str = ""
    ended_at: float | None = None
    figures: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    place: str = ""
    op: str | None = None
    run: str = ""  # a child's


@dataclass
class Timeline:
    prices: Prices | None = None
    items: dict[int, Item] = field(default_factory=dict)
    _open: dict[str, int] = field(default_factory=dict)  # op → its item
    _last: int | None = None  # the item that was made last
    _asleep: int | None = None

    @classmethod
    def of(cls, entries: Iterable[Object], prices: Prices | None = None) -> Timeline:
        timeline = cls(prices)
        for entry in entries:
            timeline.take(entry)
        return timeline

    def take(self, entry: Object) -> Item | None:
        """The item that the entry made or changed; None if it is not for people."""
        kind: str = entry["kind"]
        if kind in _ENDS:
            return self._put(_ended(entry))
        read = _READ.get(kind)
        if read is not None:
            return read(self, entry)
        if kind.startswith("wait."):
            self._answered_from(entry)
            return None  # its op.end comes with it
        return self._put(_item(entry, "mark", kind, blocks=(block("data", entry["data"]),)))

    def _put(self, item: Item) -> Item:
        if item.seq not in self.items:
            self._last = item.seq
        self.items[item.seq] = item
        return item

    def _created(self, entry: Object) -> Item:
        data = entry["data"]
        given = words.compact(data["input"], BRIEF_CHARS) if data.get("input") else ""
        blocks = (block("input", data.get("input")),)
        return self._put(_item(entry, "run", "created", brief=given, blocks=blocks))

    def _woken(self, entry: Object) -> Item:
        how = entry["kind"].removeprefix("run.")
        asleep = None if self._asleep is None else self.items[self._asleep]
        self._asleep = None
        if how == "resumed" and asleep is not None:
            return self._put(replace(asleep, ended_at=entry["at"], tone="", last=entry["seq"]))
        epoch = f"machine {entry['epoch']}" if entry["epoch"] is not None else ""
        tone = WARN if how == "recovered" else ""
        return self._put(_item(entry, "run", how, brief=epoch, tone=tone))

    def _machine(self, entry: Object) -> Item | None:
        before = self.items.get(self._last or 0)
        resume_ms = entry["data"].get("resume_ms")
        if before is None or not isinstance(resume_ms, int | float):
            return None
        warm = ", warm" if entry["data"].get("warm") else ""
        figure = f"ready in {words.duration(resume_ms / 1000)}{warm}"
        return self._put(replace(before, figures=(*before.figures, figure), last=entry["seq"]))

    def _snapshot(self, entry: Object) -> Item:
        data = entry["data"]
        figures = [words.size(data["bytes"])] if "bytes" in data else []
        for key, what in (("pause_ms", "paused"), ("freeze_ms", "stored in")):
            if isinstance(data.get(key), int | float):
                figures.append(f"{what} {words.duration(data[key] / 1000)}")
        name = str(data.get("snapshot", ""))
        return self._put(_item(entry, "snapshot", "snapshot", brief=name, figures=tuple(figures)))

    def _suspended(self, entry: Object) -> Item:
        before = self.items.get(self._last or 0)
        why = "handed over" if entry["data"].get("handed_over") else ""
        taken = before is not None and before.brief == entry["data"].get("snapshot")
        if before is not None and before.kind == "snapshot" and taken:
            item = replace(before, kind="asleep", title="asleep", tone=BUSY, last=entry["seq"])
        else:
            item = _item(entry, "asleep", "asleep", brief=why, tone=BUSY)
        self._asleep = item.seq
        return self._put(item)

    def _begin(self, entry: Object) -> Item:
        data, op = entry["data"], str(entry["op"])
        item = _BEGINS.get(str(data.get("kind")), _operation)(entry)
        item = replace(item, tone=BUSY, op=op, place=str(data.get("at") or ""))
        self._open[op] = item.seq
        return self._put(item)

    def _answered_from(self, entry: Object) -> None:
        """Who answered and how is in its op.end, which comes with it; from where, here."""
        item = self.items.get(self._open.get(str(entry["op"]), 0))
        origin, remembered = (entry["data"].get(key) for key in ("origin", "remembered"))
        if item is not None and (origin or remembered):
            how = f"from {origin}" if origin else "as decided for this run before"
            figures = (*item.figures, words.line(how, 80))
            self.items[item.seq] = replace(item, figures=figures)

    def _again(self, entry: Object) -> Item | None:
        item = self.items.get(self._open.get(str(entry["op"]), 0))
        if item is None:
            return None
        blocks = item.blocks
        if reason := entry["data"].get("reason"):
            blocks = (*blocks, block("done again", str(reason)))
        figures = (*item.figures, "done again")
        return self._put(replace(item, figures=figures, blocks=blocks, last=entry["seq"]))

    def _part(self, entry: Object) -> Item:
        """Of an answer that comes: the end of what came so far, until all of it is there."""
        op, text = str(entry["op"]), words.plain(str(entry["data"].get("text")))
        item = self.items.get(self._open.get(op, 0))
        if item is None:
            item = replace(_unbegun(entry), tone=BUSY, op=op)
            self._open[op] = item.seq
        before = next((each for each in item.blocks if each.label == SO_FAR), Block(SO_FAR, ""))
        whole = before.text + text
        tail = whole[-TEXT_CHARS_MAX:]
        block = Block(SO_FAR, tail, before.cut + len(whole) - len(tail))
        brief = words.line(tail[-_LINE_CHARS:].rstrip().rpartition("\n")[2], BRIEF_CHARS)
        blocks = (*_without_part(item), block)
        return self._put(replace(item, brief=brief, blocks=blocks, last=entry["seq"]))

    def _end(self, entry: Object) -> Item:
        item = self.items.get(self._open.pop(str(entry["op"]), 0))
        item = _unbegun(entry) if item is None else replace(item, blocks=_without_part(item))
        concluded = _conclude(item, entry["data"], self.prices)
        return self._put(replace(concluded, ended_at=entry["at"], last=entry["seq"]))

    def _retried(self, entry: Object) -> Item:
        brief = "its failure is taken back: tried again"
        return self._put(_item(entry, "mark", str(entry["op"]), brief=brief, tone=WARN))

    def _forked(self, entry: Object) -> Item:
        data = entry["data"]
        brief = f"{data.get('how', 'fork')} of {data.get('origin')} at {data.get('seq')}"
        return self._put(_item(entry, "run", "forked", brief=brief, blocks=(block("how", data),)))

    def _output(self, entry: Object) -> Item:
        data = entry["data"]
        stream, text = str(data.get("stream")), str(data.get("text"))
        before = self.items.get(self._last or 0)
        if before is not None and (before.kind, before.title) == ("output", stream):
            whole = before.blocks[0].text + text
            item = replace(before, last=entry["seq"], ended_at=entry["at"])
        else:
            whole, item = text, _item(entry, "output", stream)
        tail = whole[-OUTPUT_CHARS_MAX:]
        brief = words.line(_last_line(tail), BRIEF_CHARS)
        count = tail.removesuffix("\n").count("\n") + 1
        figures = (words.count(count, "line"),) if count > 1 else ()
        blocks = (Block("", tail, len(whole) - len(tail)),)
        tone = WARN if stream == "stderr" else ""
        return self._put(replace(item, brief=brief, figures=figures, blocks=blocks, tone=tone))

    def _log(self, entry: Object) -> Item:
        data = entry["data"]
        level = str(data.get("level") or "info")
        tone = {"warning": WARN, "error": BAD}.get(level, "")
        blocks = (block("data", data["data"]),) if data.get("data") else ()
        text = words.line(words.note(data), BRIEF_CHARS)
        return self._put(_item(entry, "note", level, brief=text, tone=tone, blocks=blocks))

    def _unfit(self, entry: Object) -> Item:
        text = words.line(words.unfit(entry["data"]), BRIEF_CHARS)
        return self._put(_item(entry, "note", "replayed", brief=text, tone=WARN))

    def _emitted(self, entry: Object) -> Item:
        data = entry["data"]
        value = data["value"] if set(data) == {"value"} else data
        brief = words.compact(value, BRIEF_CHARS)
        return self._put(_item(entry, "emit", "emit", brief=brief, blocks=(block("", value),)))

    def _received(self, entry: Object) -> Item:
        data = entry["data"]
        by = (f"by {words.line(str(data['by']), 40)}",) if data.get("by") else ()
        brief = words.compact(data.get("data"), BRIEF_CHARS)
        blocks = (block("data", data.get("data")),)
        name = str(data.get("name"))
        return self._put(_item(entry, "event", name, brief=brief, blocks=blocks, figures=by))

    def _let_out(self, entry: Object) -> Item:
        data = entry["data"]
        item = _item(entry, "request", words.exchange(data), tone=BUSY, blocks=_way(data))
        self._open[f"egress {data['id']}"] = item.seq
        return self._put(replace(item, op=""))

    def _returned(self, entry: Object) -> Item | None:
        data = entry["data"]
        item = self.items.get(self._open.pop(f"egress {data['id']}", 0))
        if item is None:
            return None
        failed = "problem" in data or data.get("status", 200) >= HTTP_ERROR
        brief = words.line(str(data.get("problem") or words.moved(data)), BRIEF_CHARS)
        figures = [f"HTTP {data['status']}"] if "status" in data else []
        figures.append(words.duration(data["ms"] / 1000))
        done = replace(item, tone=BAD if failed else GOOD, brief=brief, figures=tuple(figures))
        return self._put(replace(done, ended_at=entry["at"], last=entry["seq"]))

    def _refused(self, entry: Object) -> Item:
        data = entry["data"]
        reason = str(data.get("reason", ""))
        brief, blocks = words.line(f"refused: {reason}", BRIEF_CHARS), (block("why", reason),)
        item = _item(entry, "request", words.exchange(data), brief=brief, tone=BAD, blocks=blocks)
        again = data.get("times", 1)
        return self._put(replace(item, figures=(f"{again} times",) if again > 1 else ()))


def _way(data: Object) -> tuple[Block, ...]:
    """How a request was let out, or not."""
    label = "refused by" if data.get("code") else "let out by"
    facts = [f"{key}: {data[key]}" for key in ("rule", "secret", "address") if data.get(key)]
    return (Block(label, words.plain("\n".join(facts))),) if facts else ()


def _unbegun(entry: Object) -> Item:
    """The item of an operation whose beginning is not among the entries."""
    kind, _, name = str(entry["op"]).partition(":")
    return _item(entry, _KINDS.get(kind, kind), name)


def _without_part(item: Item) -> tuple[Block, ...]:
    return tuple(each for each in item.blocks if each.label != SO_FAR)


def _last_line(text: str) -> str:
    """The last one that has anything in it. Only that is read: what is printed comes in pieces."""
    for line in reversed(text.split("\n")):
        (shown,) = terminal.lines(line[-_LINE_CHARS:])
        if (text := terminal.bare(shown)).strip():
            return text
    return ""


def block(label: str, value: object) -> Block:
    """A value under a label: text as text, all else as JSON, cut where it is long."""
    text = words.plain(words.pretty(value))
    return Block(label, text[:TEXT_CHARS_MAX], max(0, len(text) - TEXT_CHARS_MAX))


def _item(entry: Object, kind: str, title: str, **more: Any) -> Item:
    named = words.line(title, 80)
    return Item(entry["seq"], entry["seq"], entry["at"], kind, named, **more)


def _name(data: Object) -> str:
    return str(data.get("name") or data.get("kind") or "")


def _operation(entry: Object) -> Item:
    """Any operation: a checkpoint, a reading of the clock."""
    data = entry["data"]
    blocks = (block("asked", data["data"]),) if data.get("data") else ()
    return _item(entry, str(data.get("kind")), _name(data), blocks=blocks)


def _step(entry: Object) -> Item:
    data = entry["data"]
    given = data.get("data")
    brief, blocks = "", tuple[Block, ...]()
    if isinstance(given, Mapping):
        args, kwargs = given.get("args") or [], given.get("kwargs") or {}
        called = [json.dumps(each, ensure_ascii=False) for each in args]
        called += [f"{key}={json.dumps(each, ensure_ascii=False)}" for key, each in kwargs.items()]
        brief = words.line(f"({', '.join(called)})", BRIEF_CHARS)
        blocks = (block("arguments", given),)
    return _item(entry, "step", _name(data), brief=brief, blocks=blocks)


def _turn(entry: Object) -> Item:
    sent = entry["data"].get("data") or {}
    body = sent.get("body") if isinstance(sent, Mapping) else None
    prompt = turns.read_prompt(body)
    if prompt is None:
        return _item(entry, "turn", _name(entry["data"]), blocks=(block("request", sent),))
    blocks = [block(message.role, message.text) for message in prompt.new]
    if prompt.earlier:
        count = words.count(prompt.earlier, "message")
        blocks.insert(0, Block("", f"{count} from before, sent again"))
    brief = words.line(prompt.new[-1].text, BRIEF_CHARS) if prompt.new else ""
    return _item(entry, "turn", prompt.model or "model", brief=brief, blocks=tuple(blocks))


def _exchange(entry: Object) -> Item:
    """A recorded request."""
    sent = entry["data"].get("data") or {}
    url = f"{sent.get('scheme')}://{sent.get('host')}{sent.get('path')}"
    title = words.exchange({"method": sent.get("method"), "url": url})
    return _item(entry, "request", title, blocks=_message("request", sent))


def _message(what: str, message: Object) -> tuple[Block, ...]:
    """Headers and body of a request or an answer."""
    headers, body, binary = (message.get(key) for key in ("headers", "body", "body_b64"))
    pairs = list(headers.items()) if isinstance(headers, Mapping) else headers
    if isinstance(pairs, list):
        headers = "\n".join(
            ": ".join(map(str, each)) for each in pairs if isinstance(each, list | tuple)
        )
    if isinstance(binary, str):
        body = f"{words.size(len(binary) * 3 // 4)} that are no text"
    blocks = ((f"headers of the {what}", headers), (f"body of the {what}", body))
    return tuple(block(label, value) for label, value in blocks if value)


def _file(entry: Object) -> Item:
    """One that was published, or kept at the end."""
    details = entry["data"].get("data") or {}
    name, kept = str(details.get("name")), bool(details.get("kept"))
    brief = words.line(str(details.get("media_type")), BRIEF_CHARS)
    figures = ("kept at the end",) if kept else ()
    return _item(entry, "file", name, brief=brief, figures=figures)


def _messages(entry: Object) -> Item:
    """What was done with the conversation: a message, a window of it for a model, a compaction."""
    data = entry["data"]
    details = data.get("data") or {}
    match data.get("name"):
        case "append" if isinstance(details.get("message"), Mapping):
            message = details["message"]
            more = {key: v for key, v in message.items() if key not in ("role", "content")}
            content = message.get("content") or more
            blocks = (block("", content), *((block("with it", more),) if more else ()))
            pinned = ("pinned",) if details.get("pinned") else ()
            brief = words.compact(content, BRIEF_CHARS)
            figures = (f"{details.get('tokens')} tokens", *pinned)
            title = str(message.get("role"))
            return _item(entry, "message", title, brief=brief, blocks=blocks, figures=figures)
        case "window":
            sent, whole = details.get("sent"), details.get("whole")
            brief = f"{details.get('messages')} of {details.get('of')} messages"
            figures = (f"{sent} of {whole} tokens",)
            return _item(entry, "window", "for a model", brief=brief, figures=figures)
        case "compact":
            figures = (f"{details.get('before')} → {details.get('after')} tokens",)
            blocks = (block("summary", details.get("summary")),)
            brief = words.compact(details.get("summary"), BRIEF_CHARS)
            return _item(entry, "message", "summary", brief=brief, blocks=blocks, figures=figures)
    return _operation(entry)


def _wait(entry: Object) -> Item:
    data = entry["data"]
    prompt = str(data.get("prompt") or "")
    brief = words.line(prompt, BRIEF_CHARS) if prompt != data.get("name") else ""
    blocks = (block("shown", data["data"]),) if data.get("data") is not None else ()
    return _item(entry, "wait", _name(data), brief=brief, blocks=blocks)


def _permission(entry: Object) -> Item:
    """The action itself is for those who decide: their page shows it as it should be read."""
    data = entry["data"]
    action = data.get("data")
    reason = action.get("reason") if isinstance(action, Mapping) else None
    blocks = () if reason is None else (block("the agent says", reason),)
    brief = words.line(str(data.get("prompt") or ""), BRIEF_CHARS)
    return _item(entry, "wait", "permission", brief=brief, blocks=blocks)


def _child(entry: Object) -> Item:
    data = entry["data"]
    return _item(entry, "child", _name(data), run=str(data.get("child") or ""))


def _sleep(entry: Object) -> Item:
    until = entry["data"].get("due_at")
    brief = f"until {words.clock(until, entry['at'])}" if isinstance(until, int | float) else ""
    return _item(entry, "sleep", "sleep", brief=brief)


def _conclude(item: Item, data: Object, prices: Prices | None) -> Item:
    """`item` with its outcome."""
    if isinstance(out := data.get("egress"), Mapping):
        item = replace(item, blocks=(*item.blocks, *_way(out)))
    figures = (*item.figures, "set by hand") if "set" in data else item.figures
    if isinstance(data.get("error"), Mapping):
        error = data["error"]
        text = f"{error.get('type')}: {error.get('message')}"
        blocks = (*item.blocks, block("error", str(error.get("traceback") or text)))
        brief = words.line(text, BRIEF_CHARS)
        return replace(item, tone=BAD, brief=brief, blocks=blocks, figures=figures)
    if isinstance(data.get("blob"), Mapping):
        apart = "" if item.kind == "file" else ", kept apart"
        kept = f"{words.size(data['blob'].get('bytes') or 0)}{apart}"
        return replace(item, tone=GOOD, figures=(*figures, kept))
    value = data.get("value")
    if item.kind in ("message", "window"):
        return replace(item, tone="")
    if item.kind == "turn":
        return _answered(replace(item, figures=figures), value, prices)
    # Whoever forks a run may put any value in its place.
    if item.kind == "request" and isinstance(value, Mapping) and type(value.get("status")) is int:
        return _replied(replace(item, figures=figures), value)
    if item.kind in ("wait", "child") and isinstance(value, Mapping):
        return _decided(replace(item, figures=figures), value)
    blocks = item.blocks if value is None else (*item.blocks, block("result", value))
    brief = item.brief
    if value is not None:
        brief = words.line(f"{brief} → {words.compact(value, 100)}".strip(), BRIEF_CHARS)
    return replace(item, tone=GOOD, brief=brief, blocks=blocks, figures=figures)


def _replied(item: Item, value: Object) -> Item:
    """A recorded request's answer."""
    status, cut, body = value["status"], value.get("cut"), value.get("body")
    failed = bool(cut) or status >= HTTP_ERROR
    brief = words.line(str(cut or "") or words.compact(body or "", BRIEF_CHARS), BRIEF_CHARS)
    blocks = (*item.blocks, *_message("answer", value))
    if cut:
        blocks = (*blocks, block("it ends there", cut))
    figures = (*item.figures, f"HTTP {status}")
    return replace(item, tone=BAD if failed else GOOD, brief=brief, blocks=blocks, figures=figures)


def _decided(item: Item, value: Object) -> Item:
    """A wait's end: who answered, and what."""
    status = str(value.get("status") or "completed")
    approved = value.get("approved")
    if isinstance(approved, bool):
        status = words.decision(value) or ("approved" if approved else "denied")
    tone = {"timeout": WARN, "cancelled": WARN, "denied": BAD, "failed": BAD}.get(status, GOOD)
    figures = [status]
    if value.get("by") and item.kind == "wait":  # a child's end is its own doing
        figures.append(f"by {words.line(str(value['by']), 40)}")
    blocks = list(item.blocks)
    if value.get("note"):
        blocks.append(block("note", value["note"]))
    brief, data = item.brief, value.get("data")
    if data is not None and words.decision(value) is None:
        blocks.append(block("answer" if item.kind == "wait" else "result", data))
    if item.kind == "child":
        text = words.error_line(data) if status == "failed" and isinstance(data, Mapping) else data
        brief = words.compact(text, BRIEF_CHARS)
    shown = (*item.figures, *figures)
    return replace(item, tone=tone, brief=brief, figures=shown, blocks=tuple(blocks))


def _answered(item: Item, value: object, prices: Prices | None) -> Item:
    reply = read_reply(value)
    figures = list(item.figures)
    if reply.input_tokens is not None:
        cached = f" ({reply.cached_tokens} cached)" if reply.cached_tokens else ""
        figures.append(f"{reply.input_tokens} in{cached}")
    if reply.output_tokens is not None:
        figures.append(f"{reply.output_tokens} out")
    if not reply.measured:
        figures.append("tokens unknown")
    took = (reply.model, reply.input_tokens, reply.cached_tokens, reply.output_tokens)
    if prices is not None and (cost := prices.cost(*took)) is not None:
        figures.append(words.dollars(cost))
    if reply.finish and reply.finish not in ("stop", "completed", "tool_calls"):
        figures.append(reply.finish)
    if reply.failed:
        figures.append(f"HTTP {reply.status}")
    parts = [reply.text] if reply.text else []
    parts += [f"→ {tool.name}({tool.arguments})" for tool in reply.tools]
    blocks = [*item.blocks, *(block("assistant", part) for part in parts)]
    if not parts:
        blocks.append(block("answer", value))
    brief = words.line(parts[-1], BRIEF_CHARS) if parts else item.brief
    tone = BAD if reply.failed else GOOD
    return replace(item, tone=tone, brief=brief, figures=tuple(figures), blocks=tuple(blocks))


def _ended(entry: Object) -> Item:
    state, data = entry["kind"].removeprefix("run."), entry["data"]
    error = data.get("error")
    if isinstance(error, Mapping):
        text = f"{error.get('type')}: {error.get('message')}"
        blocks = (block("error", str(error.get("traceback") or text)),)
        tone = BAD if state == "failed" else WARN
        brief = words.line(text, BRIEF_CHARS)
        return _item(entry, "run", state, brief=brief, tone=tone, blocks=blocks)
    result = data.get("result")
    brief = words.compact(result, BRIEF_CHARS)
    return _item(entry, "run", state, brief=brief, tone=GOOD, blocks=(block("result", result),))


_READ: dict[str, Callable[[Timeline, Object], Item | None]] = {
    "run.created": Timeline._created,
    "run.started": Timeline._woken,
    "run.resumed": Timeline._woken,
    "run.recovered": Timeline._woken,
    "run.suspended": Timeline._suspended,
    "run.forked": Timeline._forked,
    "machine.up": Timeline._machine,
    "snapshot": Timeline._snapshot,
    "snapshot.unfit": Timeline._unfit,
    "op.begin": Timeline._begin,
    "op.again": Timeline._again,
    "op.part": Timeline._part,
    "op.end": Timeline._end,
    "op.retried": Timeline._retried,
    "output": Timeline._output,
    "note.log": Timeline._log,
    "note.emit": Timeline._emitted,
    "event.received": Timeline._received,
    "egress.request": Timeline._let_out,
    "egress.end": Timeline._returned,
    "egress.refused": Timeline._refused,
}
_BEGINS: dict[str, Callable[[Object], Item]] = {
    "step": _step,
    "model": _turn,
    "http": _exchange,
    "wait": _wait,
    "doubt": _wait,
    "permission": _permission,
    "event": _wait,
    "child": _child,
    "sleep": _sleep,
    "context": _messages,
    "artifact": _file,
    "file": _file,
}
_KINDS = {
    "model": "turn",
    "http": "request",
    "doubt": "wait",
    "permission": "wait",
    "event": "wait",
}
