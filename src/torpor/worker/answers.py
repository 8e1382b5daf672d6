"""The answer of a recorded exchange, as it comes: on its way to the agent, as text in the log, and
then, whole, as the operation's result.

The broker sends it once, from the beginning. The agent's client has the part of it that its machine
has (`Feed`): its head and bytes are handed on as they come, from the offset that the guest has, up
to the window that it gives. Its end is the result, and comes when that is durable: a client never
sees the end of an answer that the log does not have.
"""

from __future__ import annotations

import contextlib
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torpor.contextlog.egress import PART_CHARS_MAX, part
from torpor.contextlog.entries import NewEntry
from torpor.core import refusals
from torpor.core.ids import OpId
from torpor.core.replies import Reply, TextDeltas, summary
from torpor.snapshot.values import Kept
from torpor.wire.messages import ENTRY_CHARS_MAX
from torpor.wire.streams import DATA, DATA_BYTES, HEAD, RESET, WINDOW, WINDOW_BYTES, Frame
from torpor.worker.tasks import Tasks
from torpor.worker.way import Way

PART_S = 0.05  # between two entries with the text of an answer that comes
_STREAMED = ("text/event-stream", "application/x-ndjson", "application/jsonl")

Headers = list[tuple[str, str]]


@dataclass
class Answer:
    """What has come of it. With `cut` it ends in its middle: its client's connection is reset."""

    status: int | None = None
    headers: Headers = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    cut: str | None = None

    def take(self, frame: Frame) -> None:
        """HEAD or DATA of the broker's."""
        if frame.kind == HEAD:
            self.status = frame.fields["status"]
            self.headers = [(name, text) for name, text in frame.fields["headers"]]
        else:  # what came before, of a call that was joined again, does not count twice
            self.body += frame.data[len(self.body) - frame.offset :]

    @property
    def streams(self) -> bool:
        """It comes in pieces that mean something each."""
        return any(
            name == "content-type" and value.lower().startswith(_STREAMED)
            for name, value in self.headers
        )

    @property
    def pairs(self) -> list[list[str]]:
        return [list(each) for each in self.headers]

    def value(self) -> dict[str, Any]:
        """The operation's."""
        names = [name for name, _ in self.headers]
        # As pairs only where an object cannot have them.
        twice = len(set(names)) < len(names)
        headers = self.pairs if twice else dict(self.headers)
        value: dict[str, Any] = {"status": self.status, "headers": headers}
        text = None
        if b"\0" not in self.body:  # which no text in the log has
            with contextlib.suppress(UnicodeDecodeError):
                text = self.body.decode()
        value |= {"body_b64": b64encode(self.body).decode()} if text is None else {"body": text}
        return value if self.cut is None else value | {"cut": self.cut}


def fits(value: Mapping[str, Any]) -> bool:
    """Whether an entry of the log has room for it."""
    body = value.get("body", value.get("body_b64", ""))
    return len(body) <= ENTRY_CHARS_MAX and len(json.dumps(value)) <= ENTRY_CHARS_MAX


def apart(value: Mapping[str, Any], kept: Kept, reply: Reply) -> dict[str, Any]:
    """The value, of which an entry says where its body is, and what that says."""
    rest = {key: value[key] for key in value if key not in ("body", "body_b64")}
    known = summary(reply)
    rest |= {"blob": {"digest": kept.digest, "bytes": kept.bytes}}
    return rest | ({"reply": known} if known else {})


def refused(
    path: str, status: int, code: str, message: str, *, retry: bool = True
) -> dict[str, Any]:
    """An answer that torpor makes itself, in the shape of the API that was called."""
    body = refusals.encoded(path, status, code, message)
    return {"status": status, "headers": refusals.headers(retry=retry), "body": body.decode()}


class Feed:
    """An answer on its way to the guest, on its stream `number`, which has the bytes up to `given`
    already."""

    def __init__(self, way: Way, number: int, answer: Answer, given: int = 0) -> None:
        self.number = number
        self.given = given
        self._way, self._answer = way, answer
        self._window = given + WINDOW_BYTES
        self._headed = False

    @property
    def begun(self) -> bool:
        """The guest has something of it."""
        return self._headed or self.given > 0

    def take(self, frame: Frame) -> None:
        """The guest's, of this stream."""
        if frame.kind == WINDOW:
            # No more than that is on its way to one who does not read.
            granted = min(frame.offset, self.given + WINDOW_BYTES)
            self._window = max(self._window, granted)
            self.pump()

    def end(self, outcome: Mapping[str, Any]) -> None:
        """The outcome is recorded. Where it does not go on from what its client has, that is cut
        off here: one answer is never continued with another."""
        value: Mapping[str, Any] = outcome.get("value") or {}
        goes_on = value.get("status") == self._answer.status and "cut" not in value
        if self.begun and not goes_on:
            message = value.get("cut", "its end is lost")
            self._way.say(RESET, self.number, {"code": "cut", "message": message[:1000]})

    def pump(self) -> None:
        """Hand on what there is, as far as the window goes."""
        answer, number = self._answer, self.number
        if self._way.guest() is None or answer.status is None:
            return
        if not self._headed:
            self._headed = True
            self._way.say(HEAD, number, {"status": answer.status, "headers": answer.pairs})
        end = min(len(answer.body), self._window)
        while self.given < end:
            piece = bytes(answer.body[self.given : min(end, self.given + DATA_BYTES)])
            self._way.say_at(DATA, number, self.given, piece)
            self.given += len(piece)


class Transcript:
    """The text of an answer that streams, in the log while it comes: the first at once, then some
    times a second. `known` characters of it the log has from a driver before."""

    def __init__(self, op: OpId, way: Way, tasks: Tasks, known: int = 0) -> None:
        self._op, self._way, self._tasks = op, way, tasks
        self._deltas = TextDeltas()
        self._known = known
        self._pending = ""
        self._writing = False
        self._begun = known > 0

    def feed(self, data: bytes) -> None:
        self._add(self._deltas.feed(data))
        if self._pending and not self._writing:
            self._writing = self._begun = True
            self._tasks.spawn(self._write())

    def _add(self, text: str) -> None:
        known = min(self._known, len(text))
        self._known -= known
        self._pending += text[known:]

    async def _write(self) -> None:
        try:
            while entries := self._take():
                await self._way.pen.write(*entries)
                await self._way.clock.sleep(PART_S)
        finally:
            self._writing = False

    def rest(self) -> list[NewEntry]:
        """What is not written yet, to be written with the answer's end: if anything was before."""
        self._add(self._deltas.end())
        entries = self._take()
        return entries if self._begun else []

    def _take(self) -> list[NewEntry]:
        text, self._pending = self._pending, ""
        pieces = [text[at : at + PART_CHARS_MAX] for at in range(0, len(text), PART_CHARS_MAX)]
        return [part(self._op, piece) for piece in pieces]
