"""Exchanges between the gateway and the host: plain ones pass through, recorded ones are
operations. What a recorded one asks is asked once (rule 2).

    gateway ──OPEN──────────────► plain: as it is ─────────────────────────────► host
            ──RECORD, OPEN, …──► collected whole ──(permission) begin──────────►
            ◄──HEAD, DATA, END── from frames, or from the recorded value ◄──────

An operation's name is its path and the beginning of its request's digest, so that equal requests
are counted and unequal ones do not disturb each other: a step whose result is replayed does not
make its calls again, and concurrent calls come in any order. A request that the log does not hold
is therefore always live, never a divergence.

A client that gives up (its timeout has come) leaves its call under way, or answered with nobody to
hear it. An equal request that comes then, its own next try mostly, takes that call over instead of
beginning, and paying, another. Two whose clients are both there are two calls.

While the agent's file is imported there is no run and so no log: what is asked then is refused,
in words by which warm hooks know it (`torpor.sdk.warming`), and its connection closed: one that is
kept would be in the template, and in a client of a loop that has ended.

Where a person must allow it, the wait for that is an operation before (`permission`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from base64 import b64encode
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torpor.core import refusals
from torpor.core.egress import MODEL, MODEL_HOST
from torpor.core.errors import TorporError
from torpor.core.permissions import KIND as PERMISSION
from torpor.core.permissions import decision_of, denial, is_request
from torpor.core.placements import strip
from torpor.guest.flows import FROM_GATEWAY
from torpor.guest.recorded import DROPPED, read_value, serves
from torpor.guest.serving import RECORDED_BYTES_MAX
from torpor.guest.unasked import Unasked
from torpor.replay.journal import Intent, Journal, Recorded
from torpor.wire import messages, names, streams
from torpor.wire.streams import (
    ATTACH,
    DATA,
    DATA_BYTES,
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

_NO_RUN = (
    f"{refusals.NOT_YET}. The agent's file calls {{}} while it is imported, or in a warm hook: "
    "there is no run whose log could keep the answer. Make the call in the agent's function, or in "
    "a step."
)
# In a request to a model these are placeholders that stand for a key.
_PLACEHOLDERS = frozenset({"authorization", "x-api-key", "api-key", "x-goog-api-key"})
_NAME_PATH_MAX = 200
# Of a request that a person is to allow, as JSON: an entry of the log has it whole.
_SHOWN_CHARS_MAX = 1_000_000
# Answers that nobody heard and that an equal request may have: their names. Older ones are asked
# for anew.
_UNHEARD_MAX = 1000


class _Request(NamedTuple):
    """What an operation asks: OPEN's fields and the body, whole once its END has come."""

    stream: int
    fields: Mapping[str, Any]
    kind: str
    ask: bool
    body: bytearray

    @property
    def is_model(self) -> bool:
        return bool(self.fields["host"] == MODEL_HOST)

    @property
    def text(self) -> dict[str, str]:
        body = bytes(self.body)
        if b"\0" not in body:  # which no text in the log has
            with contextlib.suppress(UnicodeDecodeError):
                return {"body": body.decode()}
        return {"body_b64": b64encode(body).decode()}

    @property
    def headers(self) -> dict[str, str]:
        """By name; repeated ones joined by ", "."""
        dropped = DROPPED | (_PLACEHOLDERS if self.kind == MODEL else frozenset())
        headers: dict[str, str] = {}
        for name, value in self.fields["headers"]:
            if name not in dropped:
                headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return headers

    def intent(self, kind: str) -> Intent:
        fields = self.fields
        method, host, target = fields["method"], fields["host"], fields["target"]
        path = target.partition("?")[0]
        parts = [method, target]
        if self.is_model:
            name = path[:_NAME_PATH_MAX]
        else:
            parts.insert(1, f"{fields['scheme']}://{host}:{fields['port']}")
            name = f"{host}{path}"[:_NAME_PATH_MAX]
        text = b"\n".join((*(each.encode() for each in parts), bytes(self.body)))
        digest = hashlib.sha256(text).hexdigest()[:32]
        if kind == PERMISSION:
            name = f"{method} {name}"
        return Intent(kind, f"{name}@{digest[:8]}", digest, side=True)


class _Plain:
    """A stream that is the host's as much as the gateway's."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields: Mapping[str, Any] | None = fields  # until it is admitted
        self.both = fields["scheme"] == "tcp"  # it ends when both sides have
        self.answering = False
        self.ended = 0


class _Call:
    """An operation under way. `stream` is 0 once its client has gone; `offset` bytes of its answer
    are with the gateway."""

    def __init__(self, intent: Intent, request: _Request) -> None:
        self.intent, self.request = intent, request
        self.join(request.stream)

    def join(self, stream: int) -> None:
        self.stream = stream
        self.offset = 0
        self.begun = self.ended = False  # its answer
        self.status = 0


class _Rest(NamedTuple):
    """Of a recorded answer whose body is too large for a message: it comes as frames, up to
    `size`, and then ends, or is `cut`."""

    op: str
    call: _Call
    size: int
    cut: str | None


class Exchanges:
    """Of one run. `send` takes a message for the host, `pass_on` a frame; `give` takes one for the
    gateway."""

    def __init__(
        self,
        send: Callable[[bytes], None],
        pass_on: Callable[[bytes], None],
        give: Callable[[bytes], None],
    ) -> None:
        self._send, self._pass_on, self._give = send, pass_on, give
        self._journal = Journal()
        self._unasked = Unasked()
        self._plain: dict[int, _Plain] = {}
        self._kinds: dict[int, Mapping[str, Any]] = {}  # by stream, what its RECORD said
        self._collecting: dict[int, _Request] = {}
        self._pending: dict[str, _Call] = {}
        self._calls: dict[int, str] = {}  # by stream, the operation that it waits for
        self._unheard: deque[tuple[str, Intent]] = deque(maxlen=_UNHEARD_MAX)
        # By stream, what was answered on it: its client may not have taken it.
        self._answered: OrderedDict[int, tuple[str, Intent]] = OrderedDict()
        self._rests: dict[int, _Rest] = {}  # by stream
        self._awaited: set[int] = set()  # those of which nothing has come yet
        self._open = False
        self._others = False

    @property
    def calls(self) -> int:
        """Operations under way, where only the host is at work."""
        return len(self._pending) - self.asking

    @property
    def asking(self) -> int:
        """Operations that wait for a person."""
        return sum(call.intent.kind == PERMISSION for call in self._pending.values())

    @property
    def busy(self) -> int:
        """What is under way, but for what waits for a person."""
        plain = sum(not each.answering for each in self._plain.values())
        return self.calls + plain + len(self._collecting) + len(self._awaited)

    def open(self) -> None:
        """There is a run from now on."""
        self._open = True

    def expect_others(self) -> None:
        """The code is not what it was: that it asks for something else is no wonder."""
        self._others = True

    def extend_journal(self, records: Iterable[Recorded]) -> list[Recorded]:
        """Results that came into the log while the machine slept, or before it was restored; those
        that are not exchanges' come back."""
        records, rest, others = list(records), [], []
        if not self._others:
            self._unasked.extend(records)
        for record in records:
            if not is_exchange(record["kind"], record["name"]):
                others.append(record)
            elif record["op"] not in self._pending:
                rest.append(record)
            elif "ok" in record:
                self.result(record)
        self._journal.extend(rest)
        return others

    def thawed(self) -> None:
        """The host may be another: what is plain was lost with the last, and it is to know how far
        each answer has come."""
        for stream in tuple(self._plain):
            self._reset(stream, "lost", "the machine was frozen meanwhile")
        self._plain.clear()
        for op, call in self._pending.items():
            if call.stream and not call.ended and call.intent.kind != PERMISSION:
                self._attach(op, call)
        for rest in self._rests.values():
            self._attach(rest.op, rest.call)

    # What the gateway sends.

    def from_gateway(self, frame: bytes) -> None:
        """Raises Invalid."""
        kind, number = streams.peek(frame)
        if kind in (OPEN, RECORD):
            taken = streams.decode(frame, FROM_GATEWAY)
            if kind == RECORD:
                self._kinds[number] = taken.fields
            else:
                self._begin_stream(frame, taken)
        elif kind == NOTE:
            if self._open:
                self._pass_on(frame)
        elif (plain := self._plain.get(number)) is not None:
            self._pass_on(frame)
            if kind == RESET or (kind == END and self._ends(plain)):
                del self._plain[number]
        elif number in self._collecting:
            self._collect(streams.decode(frame, FROM_GATEWAY))
        elif number in self._calls:
            if kind == RESET:
                self._leave(number)
            elif kind == WINDOW:
                self._pass_on(frame)
        elif number in self._rests and kind in (WINDOW, RESET):
            self._pass_on(frame)
            if kind == RESET:
                self._drop_rest(number)
        elif kind == RESET and number in self._answered:
            self._unheard.append(self._answered.pop(number))

    def _begin_stream(self, frame: bytes, opening: Frame) -> None:
        number, fields = opening.stream, opening.fields
        kind = self._kinds.pop(number, None)
        if not self._open:
            what = "a model" if kind is not None and kind["kind"] == MODEL else fields["host"]
            message = _NO_RUN.format(what)
            self._refuse(number, refusals.NOT_YET_STATUS, "no_run", message, retry=False)
        elif kind is None:
            self._plain[number] = _Plain(fields)
            self._pass_on(frame)
        else:
            self._collect_for(number, fields, kind)

    def _collect_for(self, number: int, fields: Mapping[str, Any], kind: Mapping[str, Any]) -> None:
        if kind.get("secret"):  # the host would drop them, and the log is not to have them
            given = [(name, value) for name, value in fields["headers"]]
            headers, target = strip(given, fields["target"])
            fields = {**fields, "headers": headers, "target": target}
        request = _Request(number, fields, kind["kind"], kind.get("ask", False), bytearray())
        self._collecting[number] = request

    def _collect(self, frame: Frame) -> None:
        request = self._collecting[frame.stream]
        if frame.kind == RESET:
            del self._collecting[frame.stream]
        elif frame.kind == DATA:
            request.body.extend(frame.data)
            if len(request.body) > RECORDED_BYTES_MAX:
                del self._collecting[frame.stream]
                words = f"the request's body exceeds {RECORDED_BYTES_MAX:,} bytes"
                self._refuse(frame.stream, 413, "too_large", words)
            else:
                taken = len(request.body)
                if taken >= WINDOW_BYTES // 2:  # most are small, and need no more
                    self._give(streams.encode_at(WINDOW, frame.stream, taken + WINDOW_BYTES))
        elif frame.kind == END:
            del self._collecting[frame.stream]
            self._ask(request)

    def _ask(self, request: _Request) -> None:
        """The request is whole: start its operation, or join one."""
        if request.ask:
            fields = {key: request.fields[key] for key in ("scheme", "host", "port", "method")}
            fields |= {"target": request.fields["target"], "headers": request.headers}
            data = {"request": fields | request.text, "timeout_s": None}
            if len(json.dumps(data)) > _SHOWN_CHARS_MAX:
                words = (
                    "a person has to allow this request, and can be shown at most "
                    f"{_SHOWN_CHARS_MAX:,} characters of it"
                )
                self._refuse(request.stream, 413, "too_large", words, retry=False)
                return
            self._operate(PERMISSION, request, data)
        else:
            self._operate(request.kind, request, self._data(request))

    def _data(self, request: _Request, permission: str = "") -> dict[str, Any]:
        fields = request.fields
        data: dict[str, Any] = {
            "method": fields["method"],
            "path": fields["target"],
            "headers": request.headers,
        }
        if not request.is_model:
            data |= {key: fields[key] for key in ("scheme", "host", "port")}
        return data | request.text | ({"permission": permission} if permission else {})

    def _operate(self, kind: str, request: _Request, data: Mapping[str, Any]) -> None:
        intent = request.intent(kind)
        call = _Call(intent, request)
        op, record = match = self._journal.find(intent)
        if record is not None and "ok" in record:
            self._journal.take(intent, match)
            self._unasked.used(intent.name)
            self._settle(op, call, record)
        elif record is None and self._takes_over(call, data):
            return
        elif self._begin(op, call, data):
            self._journal.take(intent, match)
            if record is None and kind != PERMISSION:
                self._unasked.began(op)

    def _takes_over(self, call: _Call, data: Mapping[str, Any]) -> bool:
        """Whether there was an equal one whose client has gone, which is this one's now."""
        for op, other in self._pending.items():
            if other.intent == call.intent and not other.stream:
                other.join(call.stream)
                self._calls[call.stream] = op
                if call.intent.kind != PERMISSION:
                    self._attach(op, other)
                return True
        for op, intent in self._unheard:
            if intent == call.intent:
                # The log has the answer: begun again, it is given.
                if self._begin(op, call, data):
                    self._unheard.remove((op, intent))
                return True
        return False

    def _begin(self, op: str, call: _Call, data: Mapping[str, Any]) -> bool:
        """Whether it could be begun; its client is answered if not."""
        intent = call.intent
        named: dict[str, Any] = {"kind": intent.kind, "name": intent.name, "digest": intent.digest}
        if intent.kind in messages.EXCHANGES:
            named["stream"] = call.stream
        try:
            self._send(messages.encode(names.BEGIN, op=op, **named, data=data, at="", side=True))
        except TorporError as error:  # too large once it is JSON, or the host is far behind
            words = f"{error.message}. {error.hint}"
            self._refuse(call.stream, 413, "too_large", words)
            return False
        self._pending[op] = call
        self._calls[call.stream] = op
        return True

    def _drop_rest(self, number: int) -> None:
        """The client has gone in the middle of an answer that is recorded."""
        del self._rests[number]
        self._awaited.discard(number)
        if number in self._answered:
            self._unheard.append(self._answered.pop(number))

    def _leave(self, number: int) -> None:
        """The client has gone. Its call goes on."""
        self._pending[self._calls.pop(number)].stream = 0

    # What the host sends.

    def from_host(self, frame: bytes) -> None:
        """Raises Invalid."""
        kind, number = streams.peek(frame)
        if (plain := self._plain.get(number)) is not None:
            self._plain_came(frame, kind, number, plain)
        elif (op := self._calls.get(number)) is not None:
            self._answer_came(streams.decode(frame, streams.TO_GUEST), frame, self._pending[op])
        elif (rest := self._rests.get(number)) is not None:
            self._awaited.discard(number)
            self._answer_came(streams.decode(frame, streams.TO_GUEST), frame, rest.call)
            if rest.call.offset == rest.size or kind == RESET:
                del self._rests[number]
            if rest.call.offset == rest.size:
                self._finish(rest.call, rest.size, rest.cut)

    def _plain_came(self, frame: bytes, kind: int, number: int, plain: _Plain) -> None:
        if kind == RECORD:
            del self._plain[number]
            fields = plain.fields
            if fields is None or plain.both or "upgrade" in fields:
                words = "a connection cannot be recorded, which the host's rules want of this one"
                self._refuse(number, 403, "not_recordable", words, retry=False)
            else:
                recorded = streams.decode(frame, streams.TO_GUEST).fields
                self._collect_for(number, fields, recorded)
                if plain.ended:  # it has no body
                    self._ask(self._collecting.pop(number))
                else:
                    self._give(streams.encode_at(WINDOW, number, WINDOW_BYTES))
            return
        self._give(frame)
        if kind == WINDOW:
            plain.answering |= plain.both
            if plain.fields is not None and "upgrade" not in plain.fields:
                plain.fields = None
        elif kind == HEAD:
            plain.answering = True
            if plain.fields is not None and "upgrade" in plain.fields:
                status = streams.decode(frame, streams.TO_GUEST).fields["status"]
                plain.both = status == 101
        if kind in (REFUSE, RESET) or (kind == END and self._ends(plain)):
            self._plain.pop(number, None)

    def _ends(self, plain: _Plain) -> bool:
        """One side has ended; whether all has."""
        plain.ended += 1
        return plain.ended > 1 if plain.both else plain.answering

    def _answer_came(self, frame: Frame, encoded: bytes, call: _Call) -> None:
        if frame.kind == HEAD:
            if call.begun:
                return
            call.begun, call.status = True, frame.fields["status"]
        elif frame.kind == DATA:
            if frame.offset > call.offset or not call.begun:
                return  # the value has what is lacking
            fresh = frame.data[call.offset - frame.offset :]
            if not fresh:
                return
            encoded = streams.encode_at(DATA, frame.stream, call.offset, fresh)
            call.offset += len(fresh)
        elif frame.kind == END:
            if call.ended or frame.offset != call.offset or not call.begun:
                return
            call.ended = True
        elif frame.kind in (RESET, REFUSE) and frame.stream in self._calls:
            self._leave(frame.stream)
        self._give(encoded)

    def result(self, message: Mapping[str, Any]) -> bool:
        """Answer the call that `message` (a `result`, or a record of the log) is for; False if
        it is none of these."""
        op = message["op"]
        call = self._pending.pop(op, None)
        if call is None:
            return False
        self._calls.pop(call.stream, None)
        if call.stream:
            self._settle(op, call, message)
        elif serves(message):
            self._unheard.append((op, call.intent))
        if (warning := self._unasked.ended(op)) is not None:
            self._send(messages.encode(names.NOTE, kind="log", data=warning))
        return True

    def _settle(self, op: str, call: _Call, outcome: Mapping[str, Any]) -> None:
        """The operation has ended, and its client is there."""
        if call.intent.kind == PERMISSION:
            self._permitted(op, call, outcome)
            return
        if serves(outcome):
            self._answered[call.stream] = (op, call.intent)
            while len(self._answered) > _UNHEARD_MAX:
                self._answered.popitem(last=False)
        if not outcome["ok"]:
            error = outcome["error"]
            self._fail(call, 502, error["type"], error["message"])
            return
        value = outcome.get("value")
        if isinstance(value, dict) and value.get("ask") and not call.begun:
            # The host's rules want a person to allow it, which the agent's do not know of.
            self._ask(call.request._replace(stream=call.stream, ask=True))
            return
        cut = value.get("cut") if isinstance(value, dict) else None
        try:
            status, headers, body, size = read_value(value)
        except (TypeError, KeyError, ValueError, AttributeError):
            text = json.dumps(outcome.get("value"))[:200]
            self._fail(call, 502, "invalid", f"the recorded response is malformed: {text}")
            return
        if call.begun and status != call.status:
            # Another answer than that whose beginning its client has: nothing goes on from there.
            self._reset(call.stream, "lost", "the rest of the answer is lost")
            return
        if not call.begun:
            if cut is None:
                headers.append(["content-length", str(size)])
            try:
                self._give(
                    streams.encode(HEAD, call.stream, {"status": status, "headers": headers})
                )
            except TorporError as error:
                self._fail(call, 502, "invalid", f"the recorded response: {error.message}")
                return
        for at in range(call.offset, len(body), DATA_BYTES):
            self._give(streams.encode_at(DATA, call.stream, at, body[at : at + DATA_BYTES]))
        if len(body) < size and call.offset < size:
            call.begun, call.status = True, status
            self._rests[call.stream] = _Rest(op, call, size, cut)
            self._attach(op, call)
        else:
            self._finish(call, size, cut)

    def _finish(self, call: _Call, size: int, cut: str | None) -> None:
        """Its client has all of the answer."""
        if cut is not None:
            self._reset(call.stream, "cut", str(cut))
        elif not call.ended:
            self._give(streams.encode_at(END, call.stream, size))

    def _permitted(self, op: str, call: _Call, outcome: Mapping[str, Any]) -> None:
        """A person has decided, or nobody in time."""
        decision = decision_of(outcome.get("value"))
        if decision.allowed:
            request = call.request._replace(stream=call.stream)
            self._operate(request.kind, request, self._data(request, op))
            return
        why = denial(decision, "this request")
        if not outcome["ok"]:  # it could not even be asked
            why = f"{why}: {outcome['error']['message']}"
        self._refuse(call.stream, 403, "denied", why, retry=False)

    # What the gateway is given.

    def _fail(self, call: _Call, status: int, code: str, message: str) -> None:
        if call.begun:
            self._reset(call.stream, code, message)
        else:
            self._refuse(call.stream, status, code, message)

    def _refuse(
        self, number: int, status: int, code: str, message: str, *, retry: bool = True
    ) -> None:
        fields = {"status": status, "code": code[:64] or "error", "retry": retry}
        fields["message"] = message[: streams.MESSAGE_CHARS_MAX]
        self._give(streams.encode(REFUSE, number, fields))

    def _reset(self, number: int, code: str, message: str) -> None:
        fields = {"code": code[:64] or "error", "message": message[: streams.MESSAGE_CHARS_MAX]}
        self._give(streams.encode(RESET, number, fields))

    def _attach(self, op: str, call: _Call) -> None:
        if call.stream in self._rests:
            self._awaited.add(call.stream)
        self._pass_on(streams.encode(ATTACH, call.stream, {"op": op, "offset": call.offset}))


def is_exchange(kind: str, name: str) -> bool:
    """Whether exchanges ask for operations like this one, and not the agent's code."""
    if kind == PERMISSION:
        return is_request(name)
    return kind in messages.EXCHANGES
