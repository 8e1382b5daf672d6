"""Model calls as operations: what the agent's HTTP clients ask is asked once (rule 2).

A call's name is its path and the beginning of its request's digest, so that equal requests are
counted and unequal ones do not disturb each other: a step whose result is replayed does not make
its calls again, and concurrent calls come in any order. A request that the log does not hold is
therefore always live, never a divergence.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torpor.guest.http1 import Request, error_response, response
from torpor.guest.unasked import Unasked
from torpor.model.errors import TorporError
from torpor.replay.journal import Asked, Journal, Recorded
from torpor.wire import messages

Respond = Callable[[bytes], None]

# Not the client's business with us, or not ours with the host: the connection, and the
# placeholder that stands for a key. Bodies travel uncompressed so that they can be read in the log.
_DROPPED = frozenset(
    {
        *("host", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "te"),
        *("content-length", "trailer", "upgrade", "expect", "authorization", "accept-encoding"),
    }
)
_NAME_PATH_MAX = 200


class _Call(NamedTuple):
    name: str
    digest: str
    request: Request
    respond: Respond


class Models:
    """The model calls of a run that are under way. `send` takes a message for the host."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._journal = Journal()
        self._unasked = Unasked()
        self._pending: dict[str, _Call] = {}

    @property
    def busy(self) -> int:
        return len(self._pending)

    def extend_journal(self, records: Iterable[Recorded]) -> None:
        """Results that came into the log while the machine slept, or before it was restored: of all
        that came, those of model calls are for here."""
        records, rest = list(records), []
        self._unasked.extend(records)
        for record in (each for each in records if each["kind"] == "model"):
            if record["op"] not in self._pending:
                rest.append(record)
            elif "ok" in record:
                self.result(record)
        self._journal.extend(rest)

    def request(self, request: Request, respond: Respond) -> None:
        """Start the operation for `request`; `respond` gets the whole response, now or later."""
        body = bytes(request.body)
        digest = hashlib.sha256(
            b"\n".join((request.method.encode(), request.path.encode(), body))
        ).hexdigest()[:32]
        name = f"{request.path.partition('?')[0][:_NAME_PATH_MAX]}@{digest[:8]}"
        call = _Call(name, digest, request, respond)
        asked = Asked("model", name, digest, side=True)
        op, record = match = self._journal.find(asked)
        if record is not None and "ok" in record:
            self._journal.take(asked, match)
            self._unasked.used(name)
            respond(_response(call, record))
            return
        data: dict[str, Any] = {
            "method": request.method,
            "path": request.path,
            "headers": {k: v for k, v in request.headers.items() if k not in _DROPPED},
        }
        try:
            data["body"] = body.decode()
        except UnicodeDecodeError:
            data["body_b64"] = base64.b64encode(body).decode()
        try:
            self._send(
                messages.encode(
                    "begin",
                    op=op,
                    kind="model",
                    name=name,
                    digest=digest,
                    data=data,
                    at="",
                    side=True,
                )
            )
        except TorporError as error:  # too large once it is JSON, or the host is far behind
            respond(error_response(413, "invalid", f"{error.message}. {error.hint}"))
            return
        self._journal.take(asked, match)
        self._pending[op] = call
        if record is None:
            self._unasked.began(op)

    def result(self, message: Mapping[str, Any]) -> bool:
        """Answer the call that `message` (a `result`, or a record of the log) is for; False if
        it is none of these."""
        call = self._pending.pop(message["op"], None)
        if call is None:
            return False
        call.respond(_response(call, message))
        if (warning := self._unasked.ended(message["op"])) is not None:
            self._send(messages.encode("note", kind="log", data=warning))
        return True


def _response(call: _Call, outcome: Mapping[str, Any]) -> bytes:
    keep_alive = call.request.keep_alive
    if not outcome["ok"]:
        error = outcome["error"]
        return error_response(502, error["type"], error["message"], keep_alive=keep_alive)
    value: Any = outcome.get("value")
    try:
        status, headers = int(value["status"]), dict(value["headers"])
        body = value["body"].encode() if "body" in value else base64.b64decode(value["body_b64"])
    except (TypeError, KeyError, ValueError, AttributeError):
        text = json.dumps(value)[:200]
        return error_response(502, "invalid", f"the recorded response is malformed: {text}")
    kept = [
        (str(name), str(text))
        for name, text in headers.items()
        if name.lower() not in _DROPPED
        and "\n" not in f"{name}{text}"
        and "\r" not in f"{name}{text}"
    ]
    return response(status, kept, body, keep_alive=keep_alive, head=call.request.method == "HEAD")
