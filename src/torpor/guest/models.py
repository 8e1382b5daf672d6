"""Model calls as operations: what the agent's HTTP clients ask is asked once (rule 2).

A call's name is its path and the beginning of its request's digest, so that equal requests are
counted and unequal ones do not disturb each other: a step whose result is replayed does not make
its calls again, and concurrent calls come in any order. A request that the log does not hold is
therefore always live, never a divergence.

A client that gives up (its timeout has come) leaves its call under way, or answered with nobody to
hear it. An equal request that comes then, its own next try mostly, takes that call over instead of
beginning, and paying, another. Two whose clients are both there are two calls.

While the agent's file is imported there is no run and so no log: what is asked then is refused,
in words by which warm hooks know it (`torpor.sdk.warming`), and its connection closed: one that is
kept would be in the template, and in a client of a loop that has ended.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from torpor.core import refusals
from torpor.core.errors import TorporError
from torpor.guest.http1 import Request, error_response, response
from torpor.guest.unasked import Unasked
from torpor.replay.journal import Intent, Journal, Recorded
from torpor.wire import messages, names

_NO_RUN = (
    f"{refusals.NOT_YET}. The agent's file calls a model while it is imported, or in a warm hook: "
    "there is no run whose log could keep the answer. Make the call in the agent's function, or in "
    "a step."
)


class Client(Protocol):
    """Who has asked, and waits."""

    def respond(self, whole: bytes) -> None: ...

    @property
    def gone(self) -> bool:
        """It does not wait any more."""


# Not the client's business with us, or not ours with the host: the connection, and the
# placeholder that stands for a key. Bodies travel uncompressed so that they can be read in the log.
_DROPPED = frozenset(
    {
        *("host", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "te"),
        *("content-length", "trailer", "upgrade", "expect", "authorization", "accept-encoding"),
    }
)
_NAME_PATH_MAX = 200
# Answers that nobody heard and that an equal request may have: their names. Older ones are asked
# for anew.
_UNHEARD_MAX = 1000


class _Call(NamedTuple):
    intent: Intent
    request: Request
    client: Client


class Models:
    """The model calls of a run that are under way. `send` takes a message for the host."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._journal = Journal()
        self._unasked = Unasked()
        self._pending: dict[str, _Call] = {}
        self._unheard: deque[tuple[str, Intent]] = deque(maxlen=_UNHEARD_MAX)
        self._open = False
        self._others = False

    @property
    def busy(self) -> int:
        return len(self._pending)

    def open(self) -> None:
        """There is a run from now on."""
        self._open = True

    def expect_others(self) -> None:
        """The code is not what it was: that it asks for something else is no wonder."""
        self._others = True

    def extend_journal(self, records: Iterable[Recorded]) -> None:
        """Results that came into the log while the machine slept, or before it was restored: of all
        that came, those of model calls are for here."""
        records, rest = list(records), []
        if not self._others:
            self._unasked.extend(records)
        for record in (each for each in records if each["kind"] == "model"):
            if record["op"] not in self._pending:
                rest.append(record)
            elif "ok" in record:
                self.result(record)
        self._journal.extend(rest)

    def request(self, request: Request, client: Client) -> None:
        """Start the operation for `request`, or join one; `client` gets the whole response, now or
        later."""
        if not self._open:
            client.respond(_not_yet(request))
            return
        body = bytes(request.body)
        digest = hashlib.sha256(
            b"\n".join((request.method.encode(), request.path.encode(), body))
        ).hexdigest()[:32]
        name = f"{request.path.partition('?')[0][:_NAME_PATH_MAX]}@{digest[:8]}"
        intent = Intent("model", name, digest, side=True)
        call = _Call(intent, request, client)
        op, record = match = self._journal.find(intent)
        if record is not None and "ok" in record:
            self._journal.take(intent, match)
            self._unasked.used(name)
            client.respond(_response(call, record))
        elif record is None and self._takes_over(call):
            return
        elif self._begin(op, call):
            self._journal.take(intent, match)
            if record is None:
                self._unasked.began(op)

    def _takes_over(self, call: _Call) -> bool:
        """Whether there was an equal one whose client has gone, which is this one's now."""
        for op, other in self._pending.items():
            if other.intent == call.intent and other.client.gone:
                self._pending[op] = call
                return True
        for op, intent in self._unheard:
            if intent == call.intent:
                # The log has the answer: begun again, it is given.
                if self._begin(op, call):
                    self._unheard.remove((op, intent))
                return True
        return False

    def _begin(self, op: str, call: _Call) -> bool:
        """Whether it could be begun; its client is answered if not."""
        body = bytes(call.request.body)
        data: dict[str, Any] = {
            "method": call.request.method,
            "path": call.request.path,
            "headers": {k: v for k, v in call.request.headers.items() if k not in _DROPPED},
        }
        try:
            data["body"] = body.decode()
        except UnicodeDecodeError:
            data["body_b64"] = base64.b64encode(body).decode()
        intent = call.intent
        named = {"kind": intent.kind, "name": intent.name, "digest": intent.digest}
        try:
            self._send(messages.encode(names.BEGIN, op=op, **named, data=data, at="", side=True))
        except TorporError as error:  # too large once it is JSON, or the host is far behind
            words = f"{error.message}. {error.hint}"
            call.client.respond(_refused(call.request, 413, "too_large", words))
            return False
        self._pending[op] = call
        return True

    def result(self, message: Mapping[str, Any]) -> bool:
        """Answer the call that `message` (a `result`, or a record of the log) is for; False if
        it is none of these."""
        call = self._pending.pop(message["op"], None)
        if call is None:
            return False
        if not call.client.gone:
            call.client.respond(_response(call, message))
        elif _serves(message):
            self._unheard.append((message["op"], call.intent))
        if (warning := self._unasked.ended(message["op"])) is not None:
            self._send(messages.encode(names.NOTE, kind="log", data=warning))
        return True


def _serves(outcome: Mapping[str, Any]) -> bool:
    """Whether this serves a client that asks again better than an answer of its own."""
    value = outcome.get("value")
    status = value.get("status") if isinstance(value, dict) else None
    return isinstance(status, int) and status < 400


def _not_yet(request: Request) -> bytes:
    status, reason = refusals.NOT_YET_STATUS, refusals.NOT_YET
    return error_response(request.path, status, "no_run", _NO_RUN, retry=False, reason=reason)


def _refused(request: Request, status: int, code: str, message: str) -> bytes:
    return error_response(request.path, status, code, message, keep_alive=request.keep_alive)


def _response(call: _Call, outcome: Mapping[str, Any]) -> bytes:
    keep_alive = call.request.keep_alive
    if not outcome["ok"]:
        error = outcome["error"]
        return _refused(call.request, 502, error["type"], error["message"])
    value: Any = outcome.get("value")
    try:
        status, headers = int(value["status"]), dict(value["headers"])
        body = value["body"].encode() if "body" in value else base64.b64decode(value["body_b64"])
    except (TypeError, KeyError, ValueError, AttributeError):
        text = json.dumps(value)[:200]
        return _refused(call.request, 502, "invalid", f"the recorded response is malformed: {text}")
    kept = [
        (str(name), str(text))
        for name, text in headers.items()
        if name.lower() not in _DROPPED
        and "\n" not in f"{name}{text}"
        and "\r" not in f"{name}{text}"
    ]
    return response(status, kept, body, keep_alive=keep_alive, head=call.request.method == "HEAD")
