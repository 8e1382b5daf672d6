"""The conversation of a run: what was said, all of it, and what of it a model is given.

    append ──► messages, all of them ──► window ──► what a model is sent
                        │                  ▲        pinned, a summary of older ones, the newest
                        └──── compact ─────┘        expand takes the newest summary back

Every call is an operation, in the log before it returns: a message is there once, whatever crashes,
and a replay finds the same conversation. Nothing said is ever removed: a compaction is a summary
that stands for older messages in windows from then on, until it is taken back.

Tokens are counted by `Context.count`, by default a guess (`estimate`): no model's own count is
known here. A budget should leave room for that, and for the answer.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torpor.core.errors import Invalid
from torpor.sdk import arguments, values
from torpor.sdk.current import current
from torpor.sdk.errors import refused
from torpor.sdk.operations import Operation, Outcome
from torpor.sdk.steps import refuse_inside, step

Message = dict[str, Any]
Summarise = Callable[[list[Message]], str]

_BYTES_PER_TOKEN = 4
_MESSAGE_TOKENS = 4  # what a model adds for each: its role, where it begins and ends
# After a compaction the messages take at most this part of the budget: there is room for the next
# turns before another is due.
_LEFT_AFTER = 0.5


def estimate(message: Mapping[str, Any]) -> int:
    """About how many tokens a message takes: one for four bytes of its text."""
    values = [value for key, value in message.items() if key != "role"]
    text = "".join(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values)
    return _MESSAGE_TOKENS + math.ceil(len(text.encode(errors="replace")) / _BYTES_PER_TOKEN)


@dataclass(frozen=True)
class _Entry:
    message: Message
    tokens: int
    pinned: bool


@dataclass(frozen=True)
class _Compaction:
    """`summary` stands for the messages before `upto` that are not pinned."""

    upto: int
    summary: Message
    tokens: int


class Context:
    """`torpor.context`, the conversation of the run that asks."""

    def __init__(self, count: Callable[[Mapping[str, Any]], int] = estimate) -> None:
        self.count = count  # of a message, in tokens
        self._entries: list[_Entry] = []
        self._compactions: list[_Compaction] = []
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<torpor.context: {len(self._entries)} messages, {self.tokens} tokens>"

    @property
    def messages(self) -> list[Message]:
        """All that was appended, in order."""
        return [dict(entry.message) for entry in self._entries]

    @property
    def tokens(self) -> int:
        """Of all messages together."""
        return sum(entry.tokens for entry in self._entries)

    def append(self, role: str, content: Any, *, pinned: bool = False, **extra: Any) -> Message:
        """Add a message (`role` "system", "user", "assistant", "tool" …, `content` and `extra`
        JSON) and return it. A pinned one is in every window."""
        what = "context.append"
        message = _packed(what, {"role": role, "content": content, **extra})
        entry = _Entry(message, self.count(message), pinned)
        data = {"message": message, "tokens": entry.tokens, "pinned": pinned}
        with self._lock:  # so that the log's order is this one's
            operation = _begin(what, "append", arguments.digest(message, pinned), data)
            self._entries.append(entry)
        operation.block()
        return dict(message)

    def window(
        self,
        tokens: int | None = None,
        *,
        last: int | None = None,
        summarise: Summarise | None = None,
    ) -> list[Message]:
        """What to send to a model: pinned messages, the newest summary, and the newest messages,
        as many as fit into `tokens`, at most `last` of them. Answers of tools are never parted
        from the message that called them.

        With `summarise`, a function that makes text of messages, what does not fit is compacted
        first: called with what is to be summarised (an older summary first), as a step. Raises
        ValueError when pinned messages, summary and the newest message alone do not fit."""
        what = "context.window"
        _positive(what, tokens=tokens, last=last)
        if summarise is not None and tokens is not None and self._excess(tokens) > 0:
            self._summarise(tokens, summarise)
        start = self._start(tokens, last)
        sent = self._window(start)
        if tokens is not None and (takes := self._takes(start)) > tokens:
            raise ValueError(
                f"torpor.{what}: {takes} tokens are needed for what is pinned, the summary and the "
                f"newest message; the budget is {tokens}"
            )
        data = {
            "sent": self._takes(start),
            "whole": self.tokens,
            "messages": len(sent),
            "of": len(self._entries),
        }
        _begin(what, "window", arguments.digest(tokens, last), data)
        return sent

    def compact(self, summary: str, *, keep: int = 0) -> None:
        """Have `summary` stand for all but the `keep` newest messages, and what is pinned."""
        if keep < 0:
            raise ValueError(f"torpor.context.compact: keep={keep!r} is not a number of messages")
        self._compact(max(0, len(self._entries) - keep), str(summary))

    def expand(self) -> bool:
        """Take the newest compaction back: windows have what it stood for again. False if there is
        none."""
        if not self._compactions:
            return False
        with self._lock:
            upto = self._compactions[-1].upto
            operation = _begin("context.expand", "expand", arguments.digest(upto), {"upto": upto})
            self._compactions.pop()
        operation.block()
        return True

    def _summarise(self, tokens: int, summarise: Summarise) -> None:
        first = self._first
        upto = max(first, self._start(int(tokens * _LEFT_AFTER), None))
        older = [dict(entry.message) for entry in self._entries[first:upto] if not entry.pinned]
        if not older:
            return
        if self._compactions:
            older.insert(0, dict(self._compactions[-1].summary))
        summary: object = step(name="summarise")(summarise)(older)
        if not isinstance(summary, str):
            raise TypeError(
                "torpor.context.window: summarise returned a "
                f"{type(summary).__name__}, not text. If it is async, await it "
                "yourself and call torpor.context.compact"
            )
        self._compact(upto, summary)

    def _compact(self, upto: int, summary: str) -> None:
        text = f"Summary of the conversation before this:\n{summary}"
        message = _packed("context.compact", {"role": "system", "content": text})
        compaction = _Compaction(upto, message, self.count(message))
        before = sum(s.tokens for s in self._entries[self._first : upto] if not s.pinned)
        if self._compactions:
            before += self._compactions[-1].tokens
        data = {"upto": upto, "summary": summary, "before": before, "after": compaction.tokens}
        with self._lock:
            digest = arguments.digest(upto, summary)
            operation = _begin("context.compact", "compact", digest, data)
            self._compactions.append(compaction)
        operation.block()

    @property
    def _first(self) -> int:
        """The first message that no summary stands for."""
        return self._compactions[-1].upto if self._compactions else 0

    def _excess(self, tokens: int) -> int:
        return self._takes(self._first) - tokens

    def _takes(self, start: int) -> int:
        """The tokens of the window whose messages, but for pinned ones, begin at `start`."""
        summary = self._compactions[-1].tokens if self._compactions else 0
        return summary + sum(
            s.tokens for at, s in enumerate(self._entries) if s.pinned or at >= start
        )

    def _start(self, tokens: int | None, last: int | None) -> int:
        """Where the newest messages begin that `tokens` and `last` leave room for. The newest
        always has room."""
        takes, many = self._takes(len(self._entries)), 0
        start = len(self._entries)
        for at in range(len(self._entries) - 1, self._first - 1, -1):
            entry = self._entries[at]
            if entry.pinned:
                continue
            takes, many = takes + entry.tokens, many + 1
            fits = (tokens is None or takes <= tokens) and (last is None or many <= last)
            if not fits and start < len(self._entries):
                break
            if not _answers(entry):
                start = at
        return start

    def _window(self, start: int) -> list[Message]:
        before = [entry.message for entry in self._entries[:start] if entry.pinned]
        summary = [each.summary for each in self._compactions[-1:]]
        newest = [entry.message for entry in self._entries[start:]]
        return [dict(message) for message in (*before, *summary, *newest)]


def _answers(entry: _Entry) -> bool:
    """Whether it is a tool's answer: a window that began with it would lack what called it."""
    return entry.message.get("role") in ("tool", "function")


def _begin(what: str, name: str, digest: str, data: Mapping[str, Any]) -> Operation:
    """Begin and end the operation; it has happened once that is in the log."""
    refuse_inside(what)
    runtime = current(what)
    try:
        operation = runtime.begin("context", name, digest, data)
        if not operation.future.done():
            runtime.end(operation, Outcome(True))
    except Invalid as error:
        raise refused(what, error) from None
    return operation


def _packed(what: str, message: Message) -> Message:
    try:
        packed: Message = values.pack(message)
    except values.NotJson as error:
        raise TypeError(f"torpor.{what}: {error}") from None
    return packed


def _positive(what: str, **given: int | None) -> None:
    for name, value in given.items():
        if value is not None and (isinstance(value, bool) or value < 1):
            raise ValueError(f"torpor.{what}: {name}={value!r} leaves no room for anything")


context: Context = Context()


@contextlib.contextmanager
def another() -> Iterator[None]:
    """While this lasts, the conversation is that of another run of this process."""
    own = {key: vars(context)[key] for key in ("_entries", "_compactions", "count")}
    vars(context).update(_entries=[], _compactions=[])
    try:
        yield
    finally:
        vars(context).update(own)
