"""The broker's door: frames of workers in, streams served, one line of log for each.

    BEGIN ──▶ checks, `Judge.admit` ──▶ plain: `Exchanges`, its answer as it comes
                                        recorded: `Calls`, made once; the stream follows its answer

Everything is bounded: a worker's streams and a run's, the bytes of bodies (`served`), of answers
(`calls`), and what waits to be written to a worker that does not read. The log holds hosts, paths,
statuses, sizes and times: never a header or a body.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from torpor.core import egress
from torpor.core.errors import Invalid
from torpor.core.hostnames import normalize_host
from torpor.egress import protocol, upstream
from torpor.egress.admission import Admission, Judge, Outgoing, Refusal
from torpor.egress.answer import CutOff, Listener, NoAnswer, Seen, over_budget
from torpor.egress.calls import Call, Calls, done_of
from torpor.egress.exchange import (
    Exchanges,
    declared_length,
    end_to_end,
    structural_fault,
)
from torpor.egress.protocol import BEGIN, CALL, CONTROL, DONE, HELLO, REPLY, UNKNOWN, VERDICT
from torpor.egress.relay import relay
from torpor.egress.served import Fault, Room, Served
from torpor.egress.upstream import Upstream
from torpor.wire import streams
from torpor.wire.streams import ATTACH, MESSAGE_CHARS_MAX, RECORD, REFUSE, RESET, Frame

STREAMS_MAX = 4096  # of a worker
RUN_STREAMS_MAX = 256  # of a run
LENGTHS_MAX = 2 * protocol.BODY_BYTES_MAX  # of bodies of recorded calls that are on their way
PIECE_BYTES = 64 * 1024

_log = logging.getLogger(__name__)

Fields = Mapping[str, Any]


class Broker:
    """What all connections share."""

    def __init__(
        self, model: Upstream, judge: Judge, exchanges: Exchanges, calls: Calls | None = None
    ) -> None:
        self.model, self.judge, self.exchanges = model, judge, exchanges
        self.calls = Calls(on_loss=self._greet) if calls is None else calls
        self.room = Room()
        self.lengths = _Lengths()
        self.streams: Counter[str] = Counter()  # by run
        self._connections: set[Connection] = set()

    def connection(self) -> Connection:
        return Connection(self)

    def hello(self) -> dict[str, Any]:
        return {
            "broker": self.calls.id,
            "pid": os.getpid(),
            "upstream": self.model.description,
        }

    def join(self, connection: Connection) -> None:
        self._connections.add(connection)

    def leave(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def call(self, fields: Fields) -> dict[str, Any]:
        """The reply to a worker's CALL. Raises Invalid."""
        match fields:
            case {"do": "health"}:
                return {
                    **self.hello(),
                    "streams": self.streams.total(),
                    "calls": len(self.calls),
                    "bytes": self.calls.bytes + self.room.bytes,
                }
            case {"do": "explain", "policy": dict() as policy, "request": dict() as request}:
                if fault := streams.fault(streams.OPEN, request):
                    raise Invalid(f"the request{fault}")
                return asdict(self.judge.explain(policy, _request(request)))
            case {"do": "policy", "run": str(run), "policy": (dict() | None) as policy}:
                self.judge.set_policy(run, policy)
            case {"do": "secrets", "entries": [*entries]}:
                self.judge.set_secrets(entries)
            case {"do": "acknowledge", "run": str(run), "op": str(op)}:
                self.calls.acknowledge((run, op))
            case {"do": "forget", "run": str(run)}:
                self.calls.forget(run)
                self.judge.forget(run)
            case _:
                raise Invalid(f"the broker knows no such call: {str(fields.get('do'))[:60]}")
        return {}

    async def close(self) -> None:
        for connection in list(self._connections):
            connection.close()
        await self.calls.close()
        await self.exchanges.close()
        await self.model.close()

    def _greet(self) -> None:
        for connection in self._connections:
            connection.greet()


class _Lengths:
    """Room for bodies of recorded calls, which are taken whole before anything is sent."""

    def __init__(self) -> None:
        self._bytes = 0
        self._turn = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def of(self, length: int) -> AsyncIterator[None]:
        async with self._turn:
            await self._turn.wait_for(lambda: self._bytes + length <= LENGTHS_MAX)
            self._bytes += length
        try:
            yield
        finally:
            self._bytes -= length
            async with self._turn:
                self._turn.notify_all()


class Connection(asyncio.Protocol):
    """A worker's."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._transport: asyncio.Transport | None = None
        self._reader = protocol.Reader()
        self._streams: dict[int, Served] = {}
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._writable = asyncio.Event()
        self._writable.set()

    def greet(self) -> None:
        self.write(protocol.encode(HELLO, CONTROL, self._broker.hello()))

    def write(self, framed: bytes) -> None:
        """Frames that are written in one turn of the loop leave together: a system call costs as
        much as all else that is done for a frame, and each would wake the worker."""
        if self._transport is None or self._transport.is_closing():
            return
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(framed)
        self._unsent_bytes += len(framed)
        if self._unsent_bytes >= PIECE_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._transport is not None and self._unsent:
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()
        self._unsent_bytes = 0

    async def drain(self) -> None:
        if not self._writable.is_set():
            await self._writable.wait()

    def close(self) -> None:
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._broker.join(self)
        self.greet()

    def connection_lost(self, _: Exception | None) -> None:
        self._broker.leave(self)
        self._writable.set()
        for stream in list(self._streams.values()):
            if stream.task is not None:
                stream.task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._reader.feed(data)
        except Invalid as error:
            self._refuse(error.message)
            return
        for message in messages:
            try:
                self._take(protocol.decode(message, protocol.TO_BROKER))
            except Invalid as error:
                # A half of a frame is nobody's: what comes after it cannot be trusted.
                self._refuse(error.message)
                return

    def _refuse(self, why: str) -> None:
        _log.error("a worker wrote what is no frame, its connection is closed: %s", why)
        self.close()

    def _take(self, frame: Frame) -> None:
        if frame.kind == CALL:
            self._answer(frame.fields)
        elif frame.kind in (BEGIN, ATTACH):
            self._begin(frame)
        elif (stream := self._streams.get(frame.stream)) is not None:
            self._pass(stream, frame)
        # All else is of a stream that is over: its frames crossed.

    def _answer(self, fields: Fields) -> None:
        try:
            reply = self._broker.call(fields)
        except Invalid as error:
            reply = {"error": error.message, "hint": error.hint}
        self.write(protocol.encode(REPLY, CONTROL, {"id": fields["id"], **reply}))

    def _pass(self, stream: Served, frame: Frame) -> None:
        if frame.kind == RESET:
            if stream.task is not None:
                stream.task.cancel()
            return
        try:
            stream.take(frame)
        except Fault as fault:
            stream.fault = str(fault)
            if stream.task is not None:
                stream.task.cancel()

    def _begin(self, frame: Frame) -> None:
        number, fields = frame.stream, frame.fields
        if number in self._streams or number == CONTROL:
            self._refuse(f"stream {number} was begun twice")
            return
        run = fields["run"]
        if len(self._streams) >= STREAMS_MAX or self._broker.streams[run] >= RUN_STREAMS_MAX:
            message = f"{self._broker.streams[run]:,} exchanges of this run are under way already"
            verdict = {"verdict": "deny", "code": "too_many", "reason": message}
            self.write(protocol.encode(VERDICT, number, verdict))
            refusal = {"status": 429, "code": "too_many", "message": message, "retry": True}
            self.write(protocol.encode(REFUSE, number, refusal))
            return
        stream = Served(self, number, self._broker.room, fields.get("offset", 0))
        self._streams[number] = stream
        self._broker.streams[run] += 1
        exchange = _Exchange(self._broker, stream, fields)
        stream.task = asyncio.create_task(
            exchange.attach() if frame.kind == ATTACH else exchange.run()
        )
        stream.task.add_done_callback(lambda task: self._end(stream, run, task))

    def _end(self, stream: Served, run: str, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (failure := task.exception()) is not None:
            _log.error("a stream failed", exc_info=failure)
            stream.cut(CutOff("broker_failed", "torpor's broker failed. See run/broker.log."))
        if not stream.over:  # it was reset before there was a verdict
            stream.say(DONE, done_of(Seen(), time.monotonic(), None, {}))
        del self._streams[stream.number]
        stream.body.drop()
        self._broker.streams[run] -= 1
        if not self._broker.streams[run]:
            del self._broker.streams[run]


class _Exchange:
    """What one BEGIN or ATTACH of a worker's leads to."""

    def __init__(self, broker: Broker, stream: Served, fields: Fields) -> None:
        self._broker, self._stream, self._fields = broker, stream, fields
        self._started = time.monotonic()

    async def attach(self) -> None:
        call = self._broker.calls.get(self._key())
        if call is None:
            message = "no such call is known here"
            self._refuse(NoAnswer(404, UNKNOWN, message))
            return
        await self._follow(call, joined=True)

    async def run(self) -> None:
        outgoing = _outgoing(self._fields)
        recorded = "op" in self._fields
        if recorded and (call := self._broker.calls.get(self._key())) is not None:
            await self._follow(call, joined=True)
            return
        own = outgoing.request.host == egress.MODEL_HOST
        if own and not recorded:
            self._stream.say(VERDICT, {"verdict": "allow", "record": egress.MODEL})
            self._stream.say(RECORD, {"kind": egress.MODEL})
            return
        admission = await self._admit(outgoing, own)
        if admission is None:
            return
        self._stream.say(VERDICT, admission.verdict)
        if recorded:
            await self._record(outgoing, admission, own)
        else:
            await self._plain(outgoing, admission)

    async def _admit(self, outgoing: Outgoing, own: bool) -> Admission | None:
        try:
            if own:
                upstream.admit(outgoing.request.method, outgoing.request.target)
            if fault := structural_fault(outgoing):
                raise NoAnswer(400, "bad_request", fault, retry=False)
        except NoAnswer as error:
            reason = error.message[:MESSAGE_CHARS_MAX]
            verdict = {"verdict": "deny", "code": error.code, "reason": reason}
            decision: Admission | Refusal = Refusal(
                verdict, error.status, error.code, error.message
            )
        else:
            decision = await self._broker.judge.admit(outgoing)
        if isinstance(decision, Admission):
            return decision
        self._stream.say(VERDICT, decision.verdict)
        if decision.fields:
            kind = decision.fields.get("kind") or egress.RECORDED_HTTP
            self._stream.say(RECORD, {**decision.fields, "kind": kind})
        else:
            self._refuse(
                NoAnswer(decision.status, decision.code, decision.message, retry=decision.retry)
            )
        self._note(outgoing, "refused", decision.code)
        return None

    async def _plain(self, outgoing: Outgoing, admission: Admission) -> None:
        stream, seen = self._stream, Seen()
        outcome = "left"
        try:
            if outgoing.request.scheme == egress.TCP:
                await self._connect(outgoing, admission, seen)
            else:
                await self._exchange(outgoing, admission, seen)
            outcome = str(seen.status or "closed")
        except NoAnswer as error:
            outcome = error.code
            self._refuse(error)
        except CutOff as cut:
            outcome = cut.code
            stream.cut(cut)
        except asyncio.CancelledError:
            if stream.fault:
                outcome = "fault"
                stream.cut(CutOff("bad_stream", stream.fault))
        except Exception:
            _log.exception("an exchange failed")
            outcome = "broker_failed"
            message = "torpor's broker failed at this. See run/broker.log."
            if seen.status is None:
                self._refuse(NoAnswer(500, outcome, message, retry=False))
            else:
                stream.cut(CutOff(outcome, message))
        stream.say(DONE, done_of(seen, self._started, admission.charge, admission.verdict))
        self._note(outgoing, outcome, f"{seen.sent}, {seen.received} bytes")

    async def _exchange(self, outgoing: Outgoing, admission: Admission, seen: Seen) -> None:
        body = self._stream.body
        body.admit()
        # Begun only with what is to be sent: whether there is a body decides how it is framed.
        pieces: Any = None
        if outgoing.upgrade or await body.first():
            pieces = body.pieces()
        elif declared_length(outgoing.headers):
            raise NoAnswer(400, "bad_body", "the body is shorter than its length says", retry=False)
        elif declared_length(outgoing.headers) == 0:
            pieces = b""
        await self._broker.exchanges.send(outgoing, admission, pieces, self._stream, seen)

    async def _connect(self, outgoing: Outgoing, admission: Admission, seen: Seen) -> None:
        reader, writer = await self._broker.exchanges.connect(outgoing, admission, seen)
        try:
            self._stream.body.admit()
            await relay(reader, writer, self._stream.body.pieces(), self._stream, seen, admission)
        finally:
            writer.close()

    async def _record(self, outgoing: Outgoing, admission: Admission, own: bool) -> None:
        calls, length = self._broker.calls, self._fields["length"]
        try:
            async with self._broker.lengths.of(length):
                self._stream.body.admit(length)
                body = await self._stream.body.whole()
                if len(body) != length:
                    raise CutOff("bad_stream", "the body has another length than was said")
                # From here on it is out: whoever begins it again meanwhile joins it.
                if (call := calls.get(self._key())) is not None:
                    if admission.charge is not None:
                        admission.charge.cancel()
                else:
                    send = self._sender(outgoing, admission, body, own)
                    call = calls.begin(self._key(), admission.verdict, admission.charge, send)
                    call.task.add_done_callback(lambda _: self._note_call(outgoing, call))
        except (CutOff, asyncio.CancelledError) as error:
            if isinstance(error, CutOff):
                self._stream.cut(error)
            elif self._stream.fault:
                self._stream.cut(CutOff("bad_stream", self._stream.fault))
            seen = Seen(reached=False)
            self._stream.say(
                DONE, done_of(seen, self._started, admission.charge, admission.verdict)
            )
            return
        await self._follow(call)

    def _sender(
        self, outgoing: Outgoing, admission: Admission, body: bytes, own: bool
    ) -> Callable[[Listener, Seen], Awaitable[None]]:
        broker = self._broker
        if not own:
            pieces = body or (b"" if declared_length(outgoing.headers) == 0 else None)
            return lambda listener, seen: broker.exchanges.send(
                *(outgoing, admission, pieces, listener, seen),
                answer_bytes_max=protocol.BODY_BYTES_MAX,
            )
        path, _, query = outgoing.request.target.partition("?")
        request = upstream.Request(
            outgoing.request.method, path, query, dict(outgoing.headers), body
        )
        return lambda listener, seen: _charged(broker.model, request, admission, listener, seen)

    async def _follow(self, call: Call, *, joined: bool = False) -> None:
        """The call's answer, from the worker's offset on."""
        stream = self._stream
        try:
            if joined:
                stream.say(VERDICT, {**call.verdict, "joined": True})
            while call.answer is None and call.done is None:
                await call.change()
            if call.answer is not None:
                stream.head(call.answer.status, call.answer.headers)
            while True:
                while stream.offset < len(call.body):
                    await stream.data(bytes(call.body[stream.offset : stream.offset + PIECE_BYTES]))
                if call.done is not None:
                    break
                await call.change()
            match call.failure:
                case None:
                    stream.end()
                case NoAnswer() as error:
                    self._refuse(error)
                case CutOff() as cut:
                    stream.cut(cut)
            stream.say(DONE, call.done)
        except asyncio.CancelledError:  # nobody listens any more; the call goes on
            stream.say(DONE, call.done or done_of(Seen(), self._started, None, call.verdict))

    def _refuse(self, error: NoAnswer) -> None:
        self._stream.say(
            REFUSE,
            {
                "status": error.status,
                "code": error.code,
                "message": error.message[:MESSAGE_CHARS_MAX],
                "retry": error.retry,
            },
        )

    def _key(self) -> tuple[str, str]:
        return self._fields["run"], self._fields["op"]

    def _note_call(self, outgoing: Outgoing, call: Call) -> None:
        if call.failure is not None:
            outcome = call.failure.code
        else:
            outcome = "given up" if call.answer is None else str(call.answer.status)
        self._note(outgoing, outcome, f"{len(call.body)} bytes")

    def _note(self, outgoing: Outgoing, outcome: str, more: str) -> None:
        request = outgoing.request
        _log.info(
            "%s %s%s: %s, %s in %.2f s",
            *(_plain(request.method or request.scheme), _plain(request.host)),
            *(_plain(request.target.partition("?")[0]), outcome, more),
            time.monotonic() - self._started,
        )


async def _charged(
    model: Upstream,
    request: upstream.Request,
    admission: Admission,
    listener: Listener,
    seen: Seen,
) -> None:
    """The deployment's own model, whose use is counted like any other's."""
    charge = admission.charge
    if charge is not None:
        if refused := charge.sent(request.body):
            raise over_budget(charge, refused)
        listener = _Counted(listener, charge.received)
    seen.sent = len(request.body)
    await model.answer(request, listener, seen)


class _Counted:
    def __init__(self, listener: Listener, count: Callable[[bytes], str]) -> None:
        self.head, self.end = listener.head, listener.end
        self._listener, self._count = listener, count

    async def data(self, data: bytes) -> None:
        if refused := self._count(data):
            raise CutOff("over_budget", refused)
        await self._listener.data(data)


def _request(opened: Fields) -> egress.Request:
    return egress.Request(
        opened["scheme"],
        _spelled(opened["host"]),
        opened["port"],
        opened.get("method", ""),
        opened.get("target", ""),
    )


def _outgoing(fields: Fields) -> Outgoing:
    opened = fields["request"]
    request = _request(opened)
    headers = end_to_end([(name, value) for name, value in opened.get("headers", ())])
    keyed = any(name == "idempotency-key" for name, _ in headers)
    if fields.get("kind") == egress.MODEL and request.method == "POST" and not keyed:
        # An API that takes keys does once what comes twice.
        key = f"{fields['run']}:{quote(fields['op'], safe='/:@#')}"
        headers = [*headers, ("idempotency-key", key)]
    return Outgoing(
        run=fields["run"],
        request=request,
        headers=headers,
        upgrade=opened.get("upgrade", ""),
        record=fields.get("kind", ""),
        length=fields.get("length"),
        permit=fields.get("permit", ""),
    )


def _spelled(host: str) -> str:
    """As it is judged and sent. What is no name stays, and is refused."""
    try:
        return normalize_host(host, "the host")
    except Invalid:
        return host


def _plain(text: str) -> str:
    """For the log: what a machine wrote, in one line."""
    return ascii(text[:200])[1:-1]
