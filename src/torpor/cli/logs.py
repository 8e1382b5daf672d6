"""logs: a run's context log in words, or what its agent printed.

What is printed beyond what the log takes lies beside it, each stream for itself
(`output.beside`): it is shown after the log's, and nothing says when it was printed.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, NamedTuple

import typer

from torpor.cli import parts
from torpor.cli.options import Json, RunArg
from torpor.client import Appended, Back, Client, Lost
from torpor.core import artifacts
from torpor.core.durations import seconds
from torpor.core.home import Home
from torpor.core.ids import op_kind
from torpor.terminal.screen import say, show_json
from torpor.web import words

_IN_OP = ("kind", "name", "digest", "hint")  # its id says the first two; the rest is not for people
_STREAMS = ("stdout", "stderr")
_OUTPUT, _BESIDE = "output", "output.beside"
_TAIL_BYTES = 1 << 16

Object = dict[str, Any]


class Text(NamedTuple):
    """What the agent printed at once."""

    stream: str
    text: str


def logs(
    run: RunArg,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow until the run ends.")
    ] = False,
    output: Annotated[
        bool,
        typer.Option("--output", "-o", help="Only what the agent printed, its stderr on stderr."),
    ] = False,
    stream: Annotated[
        str | None,
        typer.Option(metavar="STREAM", help="With --output: only stdout, or only stderr."),
    ] = None,
    tail: Annotated[
        int | None,
        typer.Option(
            "--tail",
            "-n",
            min=0,
            metavar="N",
            help="Only the last N entries; with --output, lines.",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help='Only what is newer: "10m", or 2026-11-28T09:30.'),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a run's context log, or what its agent printed.

    With --json it is a list of entries; with -f as well, one entry a line.
    """
    if stream not in (None, *_STREAMS):
        raise typer.BadParameter("--stream is stdout or stderr")
    client = Client(Home.find())
    log = _Log(
        client,
        client.run(run)["id"],
        kinds=(_OUTPUT, _BESIDE) if output or stream else (),
        streams=(stream,) if stream else _STREAMS,
        since=None if since is None else _moment(since, time.time()),
    )
    if as_json and not follow:
        show_json(list(log.entries(tail)))
    elif as_json:
        for entry in log.follow(tail):
            sys.stdout.write(json.dumps(entry) + "\n")
            sys.stdout.flush()
    elif log.kinds:
        _print_output(log, tail, follow=follow)
    elif follow:
        known = client.run(log.run)["last_seq"]
        _print_entries(parts.followed(log.follow(tail), known), at_once=True)
    else:
        _print_entries(log.settled(tail), at_once=False)


class _Last(NamedTuple):
    texts: list[Text]
    seq: int  # of the entry that it ends with


@dataclass(frozen=True)
class _Log:
    """A run's log, as much of it as is asked for."""

    client: Client
    run: str
    kinds: Sequence[str]  # none: all
    streams: Sequence[str]
    since: float | None

    def entries(self, tail: int | None = None) -> Iterator[Object]:
        given = self.client.entries(self.run, kinds=self.kinds, tail=tail, since=self.since)
        return filter(self._is_wanted, given)

    def settled(self, tail: int | None) -> Iterator[Object]:
        """What people read of it: without the parts of answers that have come whole."""
        if tail is None:
            return parts.settled(self.entries())
        wanted = tail
        while True:
            found = list(self.entries(wanted))
            shown = list(parts.settled(found))
            if len(shown) >= tail or len(found) < wanted:
                return iter(shown[-tail:] if tail else [])
            wanted *= 4

    def follow(self, tail: int | None, after: int = 0) -> Iterator[Object]:
        which: Object = {"kinds": self.kinds, "tail": tail, "since": self.since}
        for event in self.client.follow(self.run, after=after, **which):
            match event:
                case Appended(entry) if self._is_wanted(entry):
                    yield entry
                case Lost():
                    say("the server is gone; waiting for it to come back (Ctrl-C leaves)", "dim")
                case Back():
                    say("the server is back", "dim")

    def _is_wanted(self, entry: Object) -> bool:
        return entry["kind"] != _OUTPUT or entry["data"]["stream"] in self.streams

    def beside(self, begins: Object) -> Iterator[Text]:
        """What lies beside the log, which begins so far on in each stream."""
        for stream in self.streams:
            for chunk in self.client.output(self.run, stream, offset=begins[stream]):
                yield Text(stream, chunk.decode(errors="replace"))

    def last(self, count: int) -> _Last:
        """The last lines of what was printed. Reads little more than these: as many entries as
        lines are wanted, and more if they were short."""
        wanted = count
        while True:
            found = list(
                self.client.entries(self.run, kinds=self.kinds, tail=wanted, since=self.since)
            )
            texts = [_text(e) for e in found if e["kind"] == _OUTPUT and self._is_wanted(e)]
            begins = next((e["data"] for e in found if e["kind"] == _BESIDE), None)
            beside = [] if begins is None else self._last_beside(begins, count)
            more = count - max((_lines(each.text) for each in beside), default=0)
            if sum(each.text.count("\n") for each in texts) > more or len(found) < wanted:
                last = [*last_lines(texts, more), *beside]
                return _Last(last, found[-1]["seq"] if found else 0)
            wanted *= 4

    def _last_beside(self, begins: Object, count: int) -> list[Text]:
        """The last lines of each stream beside the log."""
        kept = self.client.run(self.run)["output"]
        return [
            Text(stream, self._last_of(stream, begins[stream], kept[stream]["kept"], count))
            for stream in self.streams
        ]

    def _last_of(self, stream: str, begin: int, kept: int, count: int) -> str:
        size = _TAIL_BYTES
        while True:
            offset = begin + max(0, kept - size)
            data = b"".join(self.client.output(self.run, stream, offset=offset))
            if data.count(b"\n") > count or size >= kept:
                text = data.decode(errors="replace")
                return "".join(each.text for each in last_lines([Text(stream, text)], count))
            size *= 4


def last_lines(texts: Sequence[Text], count: int) -> list[Text]:
    """The end of what was printed, from where its last lines begin."""
    if count <= 0:
        return []
    whole = "".join(each.text for each in texts)
    begin = len(whole.removesuffix("\n"))
    for _ in range(count):
        begin = whole.rfind("\n", 0, max(0, begin))
        if begin < 0:
            return list(texts)
    skip, kept = begin + 1, list[Text]()
    for each in texts:
        if rest := each.text[skip:]:
            kept.append(each._replace(text=rest))
        skip = max(0, skip - len(each.text))
    return kept


def _lines(text: str) -> int:
    return text.count("\n") + (not text.endswith("\n") if text else 0)


def _text(entry: Object) -> Text:
    return Text(entry["data"]["stream"], entry["data"]["text"])


def _moment(when: str, now: float) -> float:
    """Raises BadParameter."""
    for read in (lambda text: now - seconds(text), float, _time):
        with suppress(ValueError, OverflowError):
            if math.isfinite(moment := read(when)):
                return max(0.0, moment)
    raise typer.BadParameter(
        f"--since: {when!r} is neither a duration like 10m nor a time like 2026-11-28T09:30"
    )


def _time(text: str) -> float:
    """Where no zone is said, it is local time."""
    return datetime.fromisoformat(text).timestamp()


def _print_output(log: _Log, tail: int | None, *, follow: bool) -> None:
    """Each stream to ours of that name, as it is: for a terminal or a file to make of it what it
    would have made of the program's own."""
    after, begins = 0, None
    if tail:
        last = log.last(tail)
        after = last.seq
        for text in last.texts:
            _write(text)
        if not follow:
            return
    for entry in log.follow(0 if tail == 0 else None, after) if follow else log.entries(tail):
        if entry["kind"] == _BESIDE:
            begins = entry["data"]
        else:
            _write(_text(entry))
    if begins is not None:
        for text in log.beside(begins):
            _write(text)


def _write(text: Text) -> None:
    out = sys.stdout if text.stream == "stdout" else sys.stderr
    out.write(text.text)
    out.flush()


def _print_entries(entries: Iterable[Object], *, at_once: bool) -> None:
    lines = _Lines(terminal=sys.stdout.isatty())
    for entry in entries:
        lines.show(entry)
        if at_once:
            sys.stdout.flush()
    lines.end()
    sys.stdout.flush()


class _Lines:
    """Entries as lines. In a terminal the text of an answer goes on where its last part ended."""

    def __init__(self, *, terminal: bool) -> None:
        self._terminal, self._now = terminal, time.time()
        self._streamed = set[str]()  # the operations of whose answers there was text
        self._open: str | None = None  # the one whose text the line is of

    def show(self, entry: Object) -> None:
        op = entry["op"]
        match entry["kind"]:
            case parts.PART:
                self._streamed.add(op)
                if self._terminal:
                    self._go_on(entry)
                    return
                text = entry_text(entry)
            case "op.end" if op in self._streamed:
                text = parts.end_words(entry)
            case _:
                text = entry_text(entry)
        self.end()
        sys.stdout.write(f"{self._head(entry)}  {text}".rstrip() + "\n")

    def _go_on(self, entry: Object) -> None:
        op = entry["op"]
        if self._open != op:
            self.end()
            sys.stdout.write(f"{self._head(entry)}  {op}  ")
            self._open = op
        sys.stdout.write(words.plain(entry["data"]["text"]))

    def end(self) -> None:
        """What is shown next begins a line."""
        if self._open is not None:
            self._open = None
            sys.stdout.write("\n")

    def _head(self, entry: Object) -> str:
        head = f"{words.clock(entry['at'], self._now)}  {entry['kind']:<14}"
        return f"\x1b[2m{head}\x1b[0m" if self._terminal else head


def entry_text(entry: Object) -> str:
    """What an entry says, on one line, or as many as the agent printed."""
    data, op = entry["data"], entry["op"]
    match entry["kind"]:
        case "output":
            return words.plain(data["text"]).rstrip("\n")
        case "output.beside":
            return f"{words.size(data['limit'])} are here: all of it with --output"
        case "output.anew":
            return f"{data['stream']}: recovered, it prints otherwise than before"
        case parts.PART:
            return f"{op}  {words.compact(data['text'])}"
        case "note.log":
            return words.note(data)
        case "snapshot" if "bytes" in data:
            return f"{words.size(data['bytes'])} {data.get('snapshot', '')}".rstrip()
        case "snapshot.unfit":
            return words.unfit(data)
        case "egress.request":
            return f"{data['id']}  {words.let_out(data)}"
        case "egress.end":
            return f"{data['id']}  {words.answered(data)}"
        case "egress.refused":
            return words.refused(data)
        case "run.failed" if isinstance(data.get("error"), dict):
            return words.error_line(data["error"])
        case "op.end" if isinstance(data.get("error"), dict):
            return f"{op}  {words.error_line(data['error'])}"
        case "op.end" if isinstance(data.get("blob"), dict):
            apart = "" if op_kind(op) in artifacts.KINDS else ", kept apart"
            return f"{op}  {words.size(data['blob']['bytes'])}{apart}"
        case "op.end":
            by_hand = "  (set by hand)" if "set" in data else ""
            return f"{op}  {words.compact(data.get('value'))}{by_hand}"
        case "op.retried":
            return f"{op}  its failure is taken back"
        case _ if op:
            details = {k: v for k, v in data.items() if k not in _IN_OP and v is not None}
            return f"{op}  {words.compact(details) if details else ''}".rstrip()
        case _:
            return words.compact(data) if data else ""
