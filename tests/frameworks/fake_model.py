"""A model that follows a script, behind OpenAI's API: it counts what it is asked, and can be held.

The script stands in the prompt, so that an agent needs nothing but it:

    [[SCRIPT {"id": "…", "turns": [{"call": [["pay", {"amount": 5}]]}, {"text": "done: $LAST"}]}]]

`$LAST` is what the last tool answered. Which turn it is follows from the conversation, never from
how often was asked: who asks the same again gets the same turn, and is counted. A framework that
reports earlier turns as text of its own gives `"mark": "…"` in its script: as many as there are of
it, so many turns are over. `"fail": [429, 500]` in a turn refuses its first requests so.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from tests.frameworks import answers
from tests.frameworks.answers import Answer, Turn
from tests.frameworks.dialogue import Refused, Said, read_chat, read_responses

DEADLINE_S = 120.0
LOOK_S = 0.5
MODEL = "gpt-fake"
_SCRIPT = re.compile(r"\[\[SCRIPT (?=\{)")

When = Literal["asked", "answering"]


@dataclass(frozen=True)
class Ask:
    """The nth request for a turn of a script. Turns and requests count from 1."""

    script: str
    turn: int
    nth: int = 1


@dataclass(frozen=True)
class Hold:
    """A request that is held: before anything is answered, or in the middle of the answer."""

    ask: Ask
    when: When


class FakeModel:
    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # (script, turn): how often, paid each
        self.refused: list[str] = []  # requests that the real API would not take
        self._changed = threading.Condition()
        self._holds: set[Hold] = set()
        self._held: set[Hold] = set()
        self._closed = False
        self._failed: Counter[tuple[str, int]] = Counter()
        self._responses: dict[str, list[Said]] = {}
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                model._get(self)

            def do_POST(self) -> None:
                model._post(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def hold(self, hold: Hold) -> None:
        with self._changed:
            self._holds.add(hold)

    def wait_held(self, hold: Hold, unless: Callable[[], bool] = lambda: False) -> None:
        """Until the request is held; fails when nobody can make it any more."""
        until = time.monotonic() + DEADLINE_S
        while not self._is_held(hold):
            assert not unless(), f"{hold} was not reached: over before"
            assert time.monotonic() < until, f"{hold} was not reached within {DEADLINE_S:g} s"

    def _is_held(self, hold: Hold) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: hold in self._held, LOOK_S)

    def release(self, hold: Hold) -> None:
        with self._changed:
            self._holds.discard(hold)
            self._changed.notify_all()

    def payments(self, script: str) -> dict[int, int]:
        """How often each turn of the script was asked for."""
        with self._changed:
            return {turn: n for (id, turn), n in sorted(self.requests.items()) if id == script}

    def _stop_at(self, hold: Hold) -> None:
        with self._changed:
            if hold not in self._holds:
                return
            self._held.add(hold)
            self._changed.notify_all()
            self._changed.wait_for(lambda: hold not in self._holds or self._closed)

    def _get(self, handler: BaseHTTPRequestHandler) -> None:
        if handler.path != "/v1/models":
            _send_json(handler, 404, Refused(f"Unknown path {handler.path}", status=404).body)
            return
        model = {"id": MODEL, "object": "model", "created": 1_790_000_000, "owned_by": "fake"}
        _send_json(handler, 200, {"object": "list", "data": [model]})

    def _post(self, handler: BaseHTTPRequestHandler) -> None:
        raw = handler.rfile.read(int(handler.headers["content-length"]))
        try:
            if not handler.headers.get("authorization", "").startswith("Bearer sk-"):
                raise Refused("Incorrect API key provided.", status=401)
            try:
                body = json.loads(raw)
            except ValueError:
                raise Refused("We could not parse the JSON body of your request.") from None
            if handler.path == "/v1/chat/completions":
                said = read_chat(body)
            elif handler.path == "/v1/responses":
                said = read_responses(body, self._earlier(body.get("previous_response_id")))
            else:
                raise Refused(f"Unknown path {handler.path}", status=404)
            script, number, raw_turn = next_turn(said)
        except Refused as refused:
            with self._changed:
                self.refused.append(str(refused))
            _send_json(handler, refused.status, refused.body)
            return
        key = (script, number)
        with self._changed:
            failures = raw_turn.get("fail", [])
            if self._failed[key] < len(failures):
                status = failures[self._failed[key]]
                self._failed[key] += 1
                error = {"message": f"try again ({status})", "type": "server_error", "code": None}
                _send_json(handler, status, {"error": error}, {"retry-after-ms": "1"})
                return
            self.requests[key] += 1
            ask = Ask(script, number, self.requests[key])
            self._changed.notify_all()
        turn = _turn(raw_turn, said)
        tokens = max(1, len(raw) // 4)
        if handler.path == "/v1/responses":
            id = f"resp_{script}_{number}_{ask.nth}"
            answer = answers.response(body, turn, tokens, id)
            mine = Said("calls", calls=turn.ids) if turn.calls else Said("assistant", turn.text)
            with self._changed:
                self._responses[id] = [*said, mine]
        else:
            answer = answers.chat(body, turn, tokens)
        self._stop_at(Hold(ask, "asked"))
        try:
            self._send(handler, answer, Hold(ask, "answering"))
        except OSError:  # who asked was killed meanwhile
            handler.close_connection = True

    def _earlier(self, id: str | None) -> list[Said]:
        if id is None:
            return []
        with self._changed:
            if id not in self._responses:
                raise Refused(f"Previous response with id '{id}' not found.", status=404)
            # Instructions are not carried over, as the API's documentation says.
            return [said for said in self._responses[id] if said.by != "instructions"]

    def _send(self, handler: BaseHTTPRequestHandler, answer: Answer, hold: Hold) -> None:
        handler.send_response(200)
        handler.send_header("content-type", answer.content_type)
        handler.send_header("x-request-id", f"req_{hold.ask.script}_{hold.ask.turn}")
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        middle = (len(answer.parts) + 1) // 2
        for number, part in enumerate(answer.parts):
            if number == middle:
                self._stop_at(hold)
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        handler.wfile.write(b"0\r\n\r\n")


def next_turn(said: Sequence[Said]) -> tuple[str, int, dict[str, Any]]:
    """(script, turn, what the script says there). Raises Refused where there is no script."""
    found = [
        (n, each.text, match.end())
        for n, each in enumerate(said)
        if each.by in ("user", "instructions")
        for match in _SCRIPT.finditer(each.text)
    ]
    if not found:
        raise Refused("The fake model needs a [[SCRIPT …]] in its prompt.")
    where, text, at = found[-1]
    script, end = json.JSONDecoder().raw_decode(text, at)
    if mark := script.get("mark"):
        over = sum(each.text.count(mark) for each in said if each.by == "user")
        over -= text.count(mark, at, end)
    else:
        over = sum(each.by in ("assistant", "calls") for each in said[where:])
    turns = script["turns"]
    if over >= len(turns):
        raise Refused(f"Script {script['id']} has {len(turns)} turns; this would be another.")
    return script["id"], over + 1, turns[over]


def _turn(raw: dict[str, Any], said: Sequence[Said]) -> Turn:
    last = next((each.text for each in reversed(said) if each.by == "tool"), "")
    calls = tuple((name, arguments) for name, arguments in raw.get("call", ()))
    return Turn(calls, raw.get("text", "").replace("$LAST", last))


def _send_json(
    handler: BaseHTTPRequestHandler,
    status: int,
    body: dict[str, Any],
    headers: dict[str, str] | None = None,
) -> None:
    encoded = json.dumps(body).encode()
    handler.send_response(status)
    fixed = {"content-type": "application/json", "content-length": str(len(encoded))}
    for name, value in (fixed | (headers or {})).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(encoded)
