"""What an agent does over the network: its streams, passed on to the broker and back.

    guest ──OPEN──► [Exchange] ──► broker:  VERDICT ─┬─ deny    egress.refused, then REFUSE
                                                     ├─ record  RECORD: it is to be an operation
                                                     └─ allow   egress.request, then its answer

Nothing of an answer reaches the guest before the log has that the request was let out (rule 10).
The broker admits a stream (its first WINDOW), and a guest that sends before, or beyond a window,
after its END, or from another offset than where it was, has its stream reset (rule 13). So has one
that grants more than a window: what it does not read would be kept here. A request without a body
may end at once, which saves its guest a round trip.

An exchange ends with its machine: what is under way keeps a machine awake that would be frozen for
a wait. Not so an answer, or a connection, on which nothing has come or gone for some seconds: a
pool of connections to a database must not keep a run awake for days. When the machine is frozen all
the same, or handed over, what is under way is lost: the guest, thawed, resets it at once, and
clients connect anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torpor.contextlog import egress
from torpor.contextlog.entries import NewEntry
from torpor.core.egress import to_add
from torpor.core.errors import GuestError, HostError, TorporError
from torpor.core.presets import preset_for
from torpor.egress.connection import Stream
from torpor.egress.protocol import DONE, VERDICT
from torpor.policy.freeze import Stay
from torpor.wire.streams import (
    DATA,
    END,
    HEAD,
    NOTE,
    OPEN,
    RECORD,
    REFUSE,
    RESET,
    WINDOW,
    WINDOW_BYTES,
    Frame,
)
from torpor.worker.pen import Pen, Refused
from torpor.worker.tasks import Tasks
from torpor.worker.way import Way

# Of one run at once. More are refused until some have ended.
STREAMS_MAX = 256
# An answer or a connection on which nothing moves for so long does not keep a machine awake.
IDLE_S = 5.0
# Refusals that differ, of one epoch: the log says once that there are more.
REFUSALS_MAX = 500


class Clerk:
    """Writes entries in batches, in their order."""

    def __init__(self, pen: Pen, tasks: Tasks) -> None:
        self._pen, self._tasks = pen, tasks
        self._pending: list[tuple[NewEntry, asyncio.Future[None]]] = []
        self._writing = False

    def write(self, entry: NewEntry) -> asyncio.Future[None]:
        """Done when it is durable; cancelled when it cannot be written, which ends the driver."""
        durable = asyncio.get_running_loop().create_future()
        self._pending.append((entry, durable))
        if not self._writing:
            self._writing = True
            self._tasks.spawn(self._write())
        return durable

    async def _write(self) -> None:
        try:
            while self._pending:
                batch, self._pending = self._pending, []
                try:
                    await self._pen.write(*(entry for entry, _ in batch))
                except BaseException:
                    for _, durable in batch:
                        durable.cancel()
                    raise
                for _, durable in batch:
                    if not durable.done():
                        durable.set_result(None)
        finally:
            self._writing = False
            for _, durable in self._pending:
                durable.cancel()


class Refusals:
    """What was refused, for the log: each once, and then when it has come ten times as often."""

    def __init__(self) -> None:
        self._times: Counter[tuple[Any, ...]] = Counter()

    def entry(self, **fields: Any) -> NewEntry | None:
        what = tuple(fields.get(key) for key in ("code", "method", "url", "name", "port"))
        if what not in self._times and len(self._times) >= REFUSALS_MAX:
            more = ("more",)
            self._times[more] += 1
            if self._times[more] > 1:
                return None
            reason = f"more than {REFUSALS_MAX} different requests were refused: the rest is not"
            return egress.entry(egress.REFUSED, code="more", reason=f"{reason} in the log")
        self._times[what] += 1
        times = self._times[what]
        if times > 1 and str(times).strip("0") != "1":
            return None
        return egress.entry(egress.REFUSED, **fields, times=times if times > 1 else None)


@dataclass
class _Exchange:
    number: int
    fields: Mapping[str, Any]  # of the guest's OPEN
    began: float  # monotonic
    moved: float  # monotonic: when something last came or went
    stream: Stream | None = None  # the broker's
    admitted: int | None = None  # the guest may send up to here
    sent: int = 0  # by the guest
    received: int = 0
    guest_ended: bool = False
    verdict: Mapping[str, Any] = field(default_factory=dict)
    status: int | None = None
    problem: str = ""  # why the broker ended it, after it was let out
    request: asyncio.Future[None] | None = None  # its entry is durable

    @property
    def let_out(self) -> bool:
        """The log has that it was."""
        return self.request is not None and self.request.done() and not self.request.cancelled()

    @property
    def answering(self) -> bool:
        """Nothing is owed any more that a client would wait for in vain: its answer has begun, or
        it is a connection."""
        connection = self.fields["scheme"] == "tcp" and self.admitted is not None
        return self.status is not None or connection

    def fault(self, frame: Frame) -> str:
        """What is wrong with the guest's frame, if anything."""
        if frame.kind == WINDOW and frame.offset > self.received + WINDOW_BYTES:
            return f"it granted {frame.offset:,} bytes, having {self.received:,}"
        if frame.kind not in (DATA, END):
            return ""
        if self.guest_ended:
            return "it sent more after its end"
        if self.admitted is None and (frame.kind == DATA or self.fields["scheme"] == "tcp"):
            return "it sent before it was admitted"
        end = frame.offset + len(frame.data)
        if frame.offset > self.sent or (frame.kind == END and frame.offset != self.sent):
            return f"it went on at {frame.offset:,}, having sent {self.sent:,} bytes"
        beyond = end > (self.admitted or 0)
        return f"it sent beyond its window of {self.admitted:,}" if beyond else ""


class Network:
    def __init__(self, way: Way, tasks: Tasks) -> None:
        self._way, self._tasks = way, tasks
        self._clerk = Clerk(way.pen, tasks)
        self._refusals = Refusals()
        self._exchanges: dict[int, _Exchange] = {}

    # What the guest sends.

    def take(self, frame: Frame) -> None:
        """Raises GuestError for what no sound guest sends (rule 13)."""
        if frame.kind == NOTE:
            self._refused(code=frame.fields["code"], **_noted(frame.fields))
        elif frame.kind == OPEN:
            self._open(frame)
        elif (exchange := self._exchanges.get(frame.stream)) is None:
            # It crossed the end of its stream, or its stream was of another machine.
            if frame.kind in (DATA, END):
                self._reset(frame.stream, "unknown_stream", "there is no such stream any more")
        else:
            self._forward(exchange, frame)

    def _open(self, frame: Frame) -> None:
        if frame.stream in self._exchanges or frame.stream == 0:
            raise GuestError(f"the machine opened stream {frame.stream} twice")
        if len(self._exchanges) >= STREAMS_MAX:
            message = f"a run has at most {STREAMS_MAX} connections open at once"
            self._way.say(
                REFUSE,
                frame.stream,
                {"status": 429, "code": "too_many_streams", "message": message, "retry": True},
            )
            self._refused(code="too_many_streams", reason=message, **_what(frame.fields))
            return
        now = self._way.clock.monotonic()
        exchange = _Exchange(frame.stream, frame.fields, now, now)
        self._exchanges[frame.stream] = exchange
        self._tasks.spawn(self._serve(exchange))

    def _forward(self, exchange: _Exchange, frame: Frame) -> None:
        if fault := exchange.fault(frame):
            self._end(exchange, "protocol", fault)
            self._reset(exchange.number, "protocol", fault)
            return
        exchange.moved = self._way.clock.monotonic()
        if frame.kind == DATA:
            double = exchange.sent - frame.offset  # after a thaw some comes twice
            frame = frame._replace(offset=exchange.sent, data=frame.data[double:])
            exchange.sent += len(frame.data)
        exchange.guest_ended |= frame.kind == END
        if frame.kind == RESET:
            self._end(exchange, frame.fields["code"], f"by its client: {frame.fields['message']}")
        elif exchange.stream is not None:
            exchange.stream.forward(frame)
        # Else this is a WINDOW, of which the first is open, or the end of what has no body.

    # What the broker sends.

    async def _serve(self, exchange: _Exchange) -> None:
        try:
            stream = await self._way.broker.open(self._way.run, exchange.fields)
            if self._exchanges.get(exchange.number) is not exchange:  # its client has gone
                stream.leave()
                return
            exchange.stream = stream
            if exchange.guest_ended:
                stream.forward(Frame(END, exchange.number, {}))
            async for frame in stream:
                if self._exchanges.get(exchange.number) is not exchange:
                    return
                await self._pass_on(exchange, frame)
        except HostError as error:  # Lost, or no broker could be started
            await self._lose(exchange, error)

    async def _pass_on(self, exchange: _Exchange, frame: Frame) -> None:
        number, fields = exchange.number, frame.fields
        exchange.moved = self._way.clock.monotonic()
        if frame.kind == VERDICT:
            exchange.verdict = fields
            if fields["verdict"] == "allow" and "record" not in fields:
                exchange.request = self._clerk.write(self._requested(exchange))
            return
        if frame.kind == DONE:
            if exchange.verdict.get("verdict") == "allow":
                self._clerk.write(self._ended(exchange, fields))
            self._exchanges.pop(number, None)
            return
        if frame.kind == WINDOW:
            exchange.admitted = max(frame.offset, exchange.admitted or 0)
            if exchange.guest_ended:
                return
        else:
            await self._durable(exchange, frame)
            if self._exchanges.get(number) is not exchange:
                return
        exchange.received += len(frame.data)
        if frame.kind == HEAD:
            exchange.status = fields["status"]
        elif frame.kind in (REFUSE, RESET):
            exchange.problem = f"{fields['code']}: {fields['message']}"
        if frame.kind in (WINDOW, DATA, END):
            self._way.say_at(frame.kind, number, frame.offset, frame.data)
        else:
            self._way.say(frame.kind, number, fields)
        if frame.kind == RECORD or (frame.kind == REFUSE and exchange.request is None):
            self._exchanges.pop(number, None)

    async def _durable(self, exchange: _Exchange, frame: Frame) -> None:
        """What the log must have before the guest gets this."""
        if exchange.request is not None:
            await exchange.request
        elif frame.kind == REFUSE:
            refused = self._refused(
                code=frame.fields["code"],
                reason=frame.fields["message"],
                rule=exchange.verdict.get("rule"),
                **_what(exchange.fields),
            )
            if refused is not None:
                await refused

    async def _lose(self, exchange: _Exchange, error: HostError) -> None:
        if self._exchanges.get(exchange.number) is not exchange:
            return
        if exchange.request is not None:
            await exchange.request
        if not exchange.answering:
            refusal = {"status": 503, "code": "broker_gone", "message": error.message}
            self._way.say(REFUSE, exchange.number, refusal)
        else:
            self._reset(exchange.number, "broker_gone", error.message)
        self._end(exchange, "broker_gone", error.message)

    # Ends.

    def _end(self, exchange: _Exchange, code: str, why: str) -> None:
        """It is over, for this reason of this side's."""
        self._exchanges.pop(exchange.number, None)
        if exchange.stream is not None:
            exchange.stream.leave()
        if exchange.request is not None:
            self._clerk.write(self._ended(exchange, {"problem": f"{code}: {why}"}))

    def lost(self, why: str) -> list[NewEntry]:
        """What the log is to say of all that is under way, which ends with this driver."""
        exchanges = self._exchanges.values()
        return [self._ended(each, {"problem": why}) for each in exchanges if each.let_out]

    async def leave(self, why: str | None) -> None:
        """This driver ends; for this reason, unless the log has it."""
        ends = [] if why is None else self.lost(why)
        await self._tasks.cut_off()
        for exchange in self._exchanges.values():
            if exchange.stream is not None:
                exchange.stream.leave()
        self._exchanges.clear()
        if ends:  # the epoch may be lost, or the host: then the log lacks an end
            with contextlib.suppress(TorporError, OSError, Refused):
                await self._way.pen.write(*ends)

    # Whether the machine may be frozen.

    def stay(self) -> Stay | None:
        """Why it may not, for now."""
        if not self._exchanges:
            return None
        now = self._way.clock.monotonic()
        left = [IDLE_S - (now - each.moved) for each in self._exchanges.values() if each.answering]
        if len(left) < len(self._exchanges):
            return Stay("a request is under way", None)
        return Stay("a connection is in use", max(left)) if max(left) > 0 else None

    # Entries and frames.

    def _id(self, exchange: _Exchange) -> str:
        return f"{self._way.pen.epoch}.{exchange.number}"

    def _requested(self, exchange: _Exchange) -> NewEntry:
        verdict = exchange.verdict
        return egress.entry(
            egress.REQUEST,
            id=self._id(exchange),
            **_what(exchange.fields),
            rule=verdict.get("rule", ""),
            secret=verdict.get("secret"),
            address=verdict.get("address"),
        )

    def _ended(self, exchange: _Exchange, done: Mapping[str, Any]) -> NewEntry:
        took_ms = (self._way.clock.monotonic() - exchange.began) * 1000
        return egress.entry(
            egress.ENDED,
            id=self._id(exchange),
            status=done.get("status", exchange.status),
            sent=done.get("sent", exchange.sent),
            received=done.get("received", exchange.received),
            ms=round(done.get("ms", took_ms)),
            problem=done.get("problem", exchange.problem) or None,
            cost=(done.get("usage") or {}).get("cost"),
        )

    def _refused(self, **fields: Any) -> asyncio.Future[None] | None:
        entry = self._refusals.entry(**fields)
        return None if entry is None else self._clerk.write(entry)

    def _reset(self, number: int, code: str, message: str) -> None:
        self._way.say(RESET, number, {"code": code, "message": message})


def _what(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"method": fields.get("method"), "url": egress.url(fields)}


def _noted(fields: Mapping[str, Any]) -> dict[str, Any]:
    name, port = fields["name"], fields.get("port")
    reason = _REASONS.get(fields["code"], "refused").format(
        name=name, port=port, missing=_missing(name)
    )
    return {"name": name, "reason": reason} | ({} if port is None else {"port": port})


def _missing(name: str) -> str:
    """The entry that would allow this host."""
    preset = preset_for(name.lower().rstrip("."))
    return to_add(f'preset = "{preset.name}"' if preset else f'host = "{name}"')


# With what to do about it: the client has only seen that there is no such name, or no connection.
_REASONS = {
    "unknown_name": "no rule of the agent names this host. {missing}",
    "unknown_port": "no rule of the agent names this port. A rule for the host with "
    "port = {port} would allow it.",
    "address": "addresses are not reached. Name the host, in a rule and in the request.",
    "misdirected": "a connection to one host cannot ask for another. Connect to the name that is "
    "asked for, which the agent's rules must have.",
    "malformed": "what came for {name} is no request that all servers read alike. Its client was "
    "answered with what is wrong.",
    "no_certificate": "no certificate could be made for {name}. See the server's log.",
}
