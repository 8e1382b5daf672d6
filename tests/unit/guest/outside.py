"""What is beyond a supervisor's link, as far as streams go: answers of a host and its broker, made
up by a test, and bytes both ways."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from torpor.core.egress import Request, Rule, judge
from torpor.wire import streams
from torpor.wire.streams import DATA, DATA_BYTES, END, HEAD, NOTE, OPEN, REFUSE, RESET, WINDOW

if TYPE_CHECKING:
    from tests.unit.guest.conftest import Driver

Headers = list[tuple[str, str]]
Answer = tuple[int, Headers, Iterable[bytes]]


class Exchange:
    """One stream, with what has come of it."""

    def __init__(self, number: int, fields: dict[str, Any]) -> None:
        self.number, self.fields = number, fields
        self.body = b""
        self.upto = 0  # the guest takes as much
        self.sent = 0
        self.reset = ""
        self.whole = False

    def header(self, name: str) -> str:
        return next((value for each, value in self.fields["headers"] if each == name), "")


class Outside:
    """`answer` is given a whole request. `connect` opens what a connection leads to."""

    def __init__(self, driver: Driver, rules: Iterable[Rule]) -> None:
        self.driver, self.rules = driver, list(rules)
        self.exchanges: dict[int, Exchange] = {}
        self.notes: list[tuple[str, str, int | None]] = []  # code, name, port
        self.answer: Callable[[Exchange], Answer] = lambda exchange: (200, [], [exchange.body])
        self.connect: Callable[[Exchange], socket.socket] | None = None
        self.sockets: dict[int, socket.socket] = {}
        self._lock = threading.Lock()
        driver.network = self.take

    def take(self, frame: streams.Frame) -> None:
        if frame.kind == NOTE:
            fields = frame.fields
            self.notes.append((fields["code"], fields["name"], fields.get("port")))
        elif frame.kind == OPEN:
            self._open(Exchange(frame.stream, frame.fields))
        elif (exchange := self.exchanges.get(frame.stream)) is not None:
            self._more(exchange, frame)

    def _open(self, exchange: Exchange) -> None:
        fields = exchange.fields
        self.exchanges[exchange.number] = exchange
        asked = (fields.get(key, "") for key in ("method", "target", "headers"))
        place = fields["scheme"], fields["host"], fields["port"]
        verdict = judge(self.rules, Request(*place, *asked))
        if verdict.decision == "deny":
            refusal = {"status": 403, "code": verdict.code, "message": verdict.message}
            self.say(REFUSE, exchange, **refusal)
            exchange.reset = verdict.code
            return
        exchange.upto = streams.WINDOW_BYTES
        if fields["scheme"] == "tcp":
            self._join(exchange)
        self.say_at(WINDOW, exchange, streams.WINDOW_BYTES)
        if "upgrade" in fields:
            self._join(exchange)
            answer = b""
            while b"\r\n\r\n" not in answer:  # of the real server, which the test runs
                answer += self.sockets[exchange.number].recv(1)
            _, *lines = answer.decode().split("\r\n")[:-2]
            self.say(HEAD, exchange, status=101, headers=[list(each) for each in _pairs(lines)])
            self._pump(exchange)

    def _join(self, exchange: Exchange) -> None:
        assert self.connect is not None
        end = self.sockets[exchange.number] = self.connect(exchange)
        if "upgrade" not in exchange.fields:
            self._pump(exchange)
        else:
            lines = [f"GET {exchange.fields['target']} HTTP/1.1", "host: x"]
            lines += [f"{name}: {value}" for name, value in exchange.fields["headers"]]
            lines += ["connection: upgrade", "upgrade: websocket", "", ""]
            end.sendall("\r\n".join(lines).encode())

    def _pump(self, exchange: Exchange) -> None:
        end = self.sockets[exchange.number]

        def pump() -> None:
            while data := end.recv(DATA_BYTES):
                self.say_at(DATA, exchange, exchange.sent, data)
                exchange.sent += len(data)
            self.say_at(END, exchange, exchange.sent)

        threading.Thread(target=pump, daemon=True).start()

    def _more(self, exchange: Exchange, frame: streams.Frame) -> None:
        end = self.sockets.get(exchange.number)
        if frame.kind == DATA:
            assert frame.offset == len(exchange.body)
            exchange.body += frame.data
            self.say_at(WINDOW, exchange, len(exchange.body) + streams.WINDOW_BYTES)
            if end is not None:
                end.sendall(frame.data)
        elif frame.kind == WINDOW:
            exchange.upto = frame.offset
        elif frame.kind == RESET:
            exchange.reset = frame.fields["code"]
            if end is not None:
                end.close()
        elif frame.kind == END and end is not None:
            end.shutdown(socket.SHUT_WR)
        elif frame.kind == END and not exchange.reset:
            exchange.whole = True
            self._serve(exchange)

    def _serve(self, exchange: Exchange) -> None:
        status, headers, pieces = self.answer(exchange)
        self.say(HEAD, exchange, status=status, headers=[list(each) for each in headers])
        for piece in pieces:
            for at in range(0, len(piece), DATA_BYTES):
                data = piece[at : at + DATA_BYTES]
                while exchange.sent + len(data) > exchange.upto and not exchange.reset:
                    self.driver.pump(20)
                if exchange.reset:
                    return
                self.say_at(DATA, exchange, exchange.sent, data)
                exchange.sent += len(data)
        self.say_at(END, exchange, exchange.sent)

    def say(self, kind: int, exchange: Exchange, **fields: Any) -> None:
        with self._lock:
            self.driver.pass_on(streams.encode(kind, exchange.number, fields))

    def say_at(self, kind: int, exchange: Exchange, offset: int, data: bytes = b"") -> None:
        with self._lock:
            self.driver.pass_on(streams.encode_at(kind, exchange.number, offset, data))

    def of(self, host: str) -> list[Exchange]:
        return [each for each in self.exchanges.values() if each.fields["host"] == host]


def _pairs(lines: Iterable[str]) -> Headers:
    pairs = (line.partition(": ") for line in lines)
    return [(name.lower(), value) for name, _, value in pairs]
