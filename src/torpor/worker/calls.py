"""Recorded exchanges of a run, model calls above all: made once, handed to the agent as their
answers come, and ended for it when they are in the log (rules 1, 2).

A call's identity is its run and operation. The broker makes it once for that identity, however
often it is asked, and reads its answer to the end whoever listens: a driver that takes over a run
in the middle of a call, in this server or the next one, attaches to what the one before it had
begun. Where no broker knows of a call that had begun, it is in doubt (rule 3): it died with a
broker. It is never sent again by itself. It ends with an error, or, where its client has a part of
the answer, cut off there; a client that tries again makes a call of its own. Only what provably was
not sent is.

What is recorded is acknowledged to the broker, which then forgets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import calls, egress, entries, permissions
from torpor.contextlog.entries import END, NewEntry
from torpor.contextlog.spent import USED
from torpor.core.charges import most_of
from torpor.core.egress import MODEL, MODEL_HOST
from torpor.core.errors import Conflict, HostError, Invalid, TorporError
from torpor.core.ids import OpId, op_kind
from torpor.core.permissions import digest
from torpor.core.replies import read_reply
from torpor.egress.connection import Lost, Stream
from torpor.egress.protocol import DONE, NEEDS_PERMISSION
from torpor.wire.messages import EXCHANGES
from torpor.wire.streams import DATA, HEAD, REFUSE, RESET, Frame
from torpor.worker.answers import Answer, Feed, Transcript, apart, fits, refused
from torpor.worker.metrics import Metrics
from torpor.worker.pen import Refused, Write
from torpor.worker.tasks import Tasks
from torpor.worker.values import Results
from torpor.worker.way import Way

DIED = "the broker ended before it had the answer: whether the request got there is unknown"
GIVEN_UP = "given_up"  # the broker's word for a call that it ends as it is stopped
BEGUN = "it was begun before, and no broker knows of it: whether the request got there is unknown"

_ASK = "a person has to allow this first"

Request = Mapping[str, Any]
Deliver = Callable[[OpId, Mapping[str, Any]], None]

log = logging.getLogger(__name__)


class _NotPermitted(Exception):
    """No person has allowed what names a permission."""


class _Call:
    """One that is under way: what has come of it, and who gets that."""

    def __init__(self, op: OpId, stirs: Callable[[], None]) -> None:
        self.op = op
        self._stirs = stirs
        self.answer = Answer()
        self.feed: Feed | None = None
        self.verdict: Mapping[str, Any] = {}
        self.done: Mapping[str, Any] = {}
        self.refusal: Mapping[str, Any] | None = None  # of the broker's
        self.transcript: Transcript | None = None
        self.cut_code = ""
        self.lost: Mapping[str, Any] | None = None  # in doubt: what it may have taken
        self.sent: int | None = None  # bytes of the request that went to the broker

    @property
    def begun(self) -> bool:
        """Its client has something of the answer."""
        return self.feed is not None and self.feed.begun

    def take(self, frame: Frame) -> None:
        """The broker's."""
        if frame.kind in (HEAD, DATA):
            self.answer.take(frame)
            if frame.kind == DATA:
                self._stirs()
            if self.feed is not None:
                self.feed.pump()
            if self.transcript is not None and self.answer.streams:
                self.transcript.feed(frame.data)
        elif frame.kind == RESET:
            self.answer.cut, self.cut_code = frame.fields["message"], frame.fields["code"]
        elif frame.kind == REFUSE:
            self.refusal = frame.fields
        elif frame.kind == DONE:
            self.done = frame.fields

    def egress(self) -> dict[str, Any]:
        """What its op.end says of its way out."""
        known = {"rule": self.verdict.get("rule", "")} | self.refused()
        known |= {
            key: self.done.get(key, self.verdict.get(key))
            for key in ("secret", "address", "ms", "sent", "received")
        }
        if not self.done and self.answer.status is not None:  # the broker died under it
            known |= {"sent": self.sent, "received": len(self.answer.body)}
        return {key: value for key, value in known.items() if value is not None} | self._used()

    def refused(self) -> dict[str, str]:
        """Why it was not let out, if it was not."""
        if self.verdict.get("verdict") in (None, "allow") or self.refusal is None:
            return {}
        return {"code": self.refusal["code"], "reason": egress.reason(self.refusal["message"])}

    def _used(self) -> dict[str, Any]:
        """Of what was let out."""
        if self.lost is None and not self.done and self.verdict.get("verdict") != "allow":
            return {}
        usage = self.done.get("usage") or self.lost or {}
        counted = {key: usage[key] for key in ("tokens", "cost", "estimated") if key in usage}
        return {USED: {"requests": 1} | counted}


class Calls:
    def __init__(
        self,
        way: Way,
        results: Results,
        under_way: Tasks,
        metrics: Metrics,
        stirs: Callable[[], None] = lambda: None,
    ) -> None:
        """`stirs` is called when a call begins, and when bytes of an answer come."""
        self.under_way = under_way
        self._stirs = stirs
        self._way, self._results, self._metrics = way, results, metrics
        self._run, self._store, self._broker, self._pen = way.run, way.store, way.broker, way.pen
        self._before: frozenset[OpId] = frozenset()
        self._making: dict[OpId, _Call] = {}

    @property
    def ops(self) -> frozenset[OpId]:
        """Those under way."""
        return frozenset(self._making)

    def progress(self) -> dict[OpId, int]:
        """Of those under way, how many bytes of the answer have come."""
        return {op: len(call.answer.body) for op, call in self._making.items()}

    @property
    def broker(self) -> str:
        """Which one answered last."""
        return self._broker.broker

    def take_up(self, unanswered: Iterable[OpId], journal: Iterable[Mapping[str, Any]]) -> None:
        """What began in an epoch before, and has no result: the broker may have it."""
        records = (each for each in journal if each["kind"] in EXCHANGES and "ok" not in each)
        self._before = frozenset([*unanswered, *(OpId(each["op"]) for each in records)])

    def make(
        self, op: OpId, request: Request | None, deliver: Deliver, stream: int | None = None
    ) -> None:
        """Make the call that `op` began with `request`, by default as the log has it. Its answer
        goes to the guest's `stream` as it comes; `deliver` gets its outcome once that is
        recorded."""
        call = self._making.get(op)
        if call is None:
            call = self._making[op] = _Call(op, self._stirs)
            self._stirs()
            self.under_way.spawn(self._make(call, request, deliver))
        if stream is not None:
            self._feed(call, stream, 0)

    async def _make(self, call: _Call, request: Request | None, deliver: Deliver) -> None:
        op = call.op
        try:
            outcome = await self._outcome(call, request)
        finally:
            self._making.pop(op, None)
        if call.feed is not None:
            call.feed.end(outcome)
        deliver(op, outcome)
        await self._broker.acknowledge(self._run, op)

    def attach(self, number: int, op: OpId, offset: int) -> bool:
        """The guest has so much of the answer, and wants the rest on this stream of its own. False
        if the call is not under way: then its result is on its way, or it never began."""
        call = self._making.get(op)
        if call is not None:
            self._feed(call, number, offset)
        return call is not None

    def take(self, frame: Frame) -> bool:
        """Of the guest's; False if it is of no call's stream."""
        for call in self._making.values():
            if call.feed is not None and call.feed.number == frame.stream:
                if frame.kind == RESET:  # its client has gone; the call goes on
                    call.feed = None
                else:
                    call.feed.take(frame)
                return True
        return False

    def _feed(self, call: _Call, number: int, offset: int) -> None:
        call.feed = Feed(self._way, number, call.answer, offset)
        call.feed.pump()

    async def leave(self, *, ended: bool) -> None:
        """What is under way is the next driver's to take up; nobody's, if the run has ended, and
        then the broker is to know nothing of it any more."""
        await self.under_way.cut_off()
        if ended:
            await self._broker.forget(self._run)

    async def _outcome(self, call: _Call, request: Request | None) -> dict[str, Any]:
        op, known = call.op, 0
        recorded = await self._store.read(lambda c: entries.read_end(c, self._run, op))
        if recorded is not None:  # its client had gone, and another asks for the same
            return recorded
        if request is None:
            request = (await self._store.read(lambda c: entries.read_op(c, self._run, op)))["data"]
        if op_kind(op) == MODEL:
            if op in self._before:
                known = await self._store.read(lambda c: egress.part_chars(c, self._run, op))
            call.transcript = Transcript(op, self._way, self.under_way, known)
        value = await self._value(call, request)
        if call.lost is not None and not call.done and op_kind(op) == MODEL:
            call.lost = await asyncio.to_thread(_most_of, request, self._way)
        large = not fits(value)
        reply = await asyncio.to_thread(read_reply, value) if large else read_reply(value)
        self._metrics.model_called(reply)
        async with contextlib.AsyncExitStack() as held:
            also: list[Write] = []
            if large:
                try:
                    storing = self._results.stored(bytes(call.answer.body))
                    kept, naming = await held.enter_async_context(storing)
                    value, also = apart(value, kept, reply), [naming]
                except (TorporError, OSError) as error:
                    words = f"its answer could not be stored: {error}"
                    value = refused(request["path"], 502, "not_stored", words, retry=False)
            return await self._record(call, request, value, *also)

    async def _value(self, call: _Call, request: Request) -> dict[str, Any]:
        """The answer, whatever it is."""
        path = request["path"]
        try:
            stream = await self._find(call.op) if call.op in self._before else None
            if stream is None:
                if call.op in self._before and not await self._was_not_sent(call.op):
                    call.lost = {}
                    return refused(path, 503, "in_doubt", BEGUN)
                stream = await self._begin(call, request)
            call.verdict = stream.verdict
            try:
                async for frame in stream:  # whoever reads it, it is read to its end
                    call.take(frame)
            finally:
                stream.leave()
        except _NotPermitted as error:
            call.verdict = {"verdict": "deny"}
            call.refusal = {"code": "not_permitted", "message": str(error)}
            return refused(path, 403, "not_permitted", str(error), retry=False)
        except Invalid as error:
            return refused(path, 400, error.code, str(error), retry=False)
        except Lost as error:
            call.lost = {}
            if not call.begun:
                return refused(path, 503, "in_doubt", f"{DIED}. {error.hint}")
            call.answer.cut = DIED
        except HostError as error:  # there is no broker: it got nowhere
            return refused(path, 503, error.code, str(error))
        if call.answer.cut is not None and not call.begun:  # nobody has a part of it
            doubtful = call.cut_code == GIVEN_UP
            call.lost = {} if doubtful else call.lost
            code = "in_doubt" if doubtful else call.cut_code
            return refused(path, 503 if doubtful else 502, code, call.answer.cut)
        if call.answer.status is not None:
            return call.answer.value()
        if call.verdict.get("verdict") == "ask":
            call.refusal = {"status": 403, "code": NEEDS_PERMISSION, "message": _ASK}
        given = call.refusal
        if given is None:
            return refused(path, 502, "no_answer", "there was no answer")
        retry = given.get("retry", False)
        value = refused(path, given["status"], given["code"], given["message"], retry=retry)
        return value | {"ask": True} if given["code"] == NEEDS_PERMISSION else value

    async def _find(self, op: OpId) -> Stream | None:
        """The stream of a call that the broker has."""
        found = await self._broker.attach(self._run, op)
        return None if found is None else found[0]

    async def _begin(self, call: _Call, request: Request) -> Stream:
        """Raises Invalid, _NotPermitted, HostError."""
        try:
            body = _body_of(request)
        except ValueError as error:
            raise Invalid(f"the request's body is not what it says: {error}") from error
        op, wanted, call.sent = call.op, _request_of(request), len(body)
        permit = await self._permit(op, request) if "permission" in request else ""
        stream, _ = await self._broker.call(self._run, op, op_kind(op), wanted, body, permit=permit)
        return stream

    async def _permit(self, op: OpId, request: Request) -> str:
        """The digest of what a person has allowed, and which this is. Raises _NotPermitted."""
        named = OpId(request["permission"])
        body = {key: request[key] for key in ("body", "body_b64") if key in request}
        action = {"request": _request_of(request) | body}

        def permit(c: Connection) -> permissions.Verdict:
            entries.advance(c, self._run, self._pen.epoch, 0, wakes=False)
            return permissions.permits(c, self._run, op, named, action)

        (verdict,) = await self._pen.write(permit)
        if not verdict.allowed:
            raise _NotPermitted(verdict.reason)
        return digest(action)

    async def _was_not_sent(self, op: OpId) -> bool:
        """Of one that the broker does not know of: it came no further than the log."""
        broker = self._broker.broker
        begun = await self._store.read(lambda c: calls.begun_with(c, self._run, op))
        return begun.run != self._run or (broker != "" and begun.broker == broker)

    async def _record(
        self, call: _Call, request: Request, value: dict[str, Any], *also: Write
    ) -> dict[str, Any]:
        outcome = {"ok": True, "value": value}
        end = NewEntry(END, call.op, outcome | {"egress": call.egress()})
        text: list[Write] = [] if call.transcript is None else [*call.transcript.rest()]
        try:
            await self._pen.write(*also, *text, *_refusals(call, request), end)
        except Refused as refusal:
            if not isinstance(refusal.error, Conflict):
                raise
            # Begun again after a recovery, and recorded before it: that one stands.
            found = await self._store.read(lambda c: entries.read_end(c, self._run, call.op))
            assert found is not None
            return found
        return outcome


def _most_of(request: Request, way: Way) -> dict[str, Any]:
    """What a model's call takes at most: counted where nobody knows what became of it. Blocks."""
    prices = way.prices()
    most = most_of(_body_of(request), request["path"], prices, prices.unknown)
    return {"tokens": most.tokens, "cost": most.cost, "estimated": True}


def _body_of(request: Request) -> bytes:
    if "body" in request:
        return str(request["body"]).encode()
    return b64decode(request["body_b64"])


def _refusals(call: _Call, request: Request) -> list[Write]:
    """What the log is to have of a call that was not let out."""
    why = call.refused()
    if not why:
        return []
    wanted = _request_of(request)
    return [
        egress.entry(
            egress.REFUSED,
            method=wanted["method"],
            url=egress.url(wanted),
            rule=call.verdict.get("rule"),
            op=call.op,
            **why,
        )
    ]


def _request_of(request: Request) -> dict[str, Any]:
    """The request as the broker takes it."""
    return {
        "scheme": request.get("scheme", "http"),
        "host": request.get("host", MODEL_HOST),
        "port": request.get("port", 80),
        "method": request["method"],
        "target": request["path"],
        "headers": [[name.lower(), value] for name, value in request["headers"].items()],
    }
