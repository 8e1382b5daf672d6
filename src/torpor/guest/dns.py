"""A stub DNS server: names that a rule knows have an address here, others do not exist. Nothing of
a query leaves the machine.

Only A is answered with an address. AAAA, HTTPS and SVCB have none (NODATA): an address of the other
family, or a hint of one, would lead past the gateway.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Callable
from struct import Struct, error
from typing import NamedTuple

PORT = 53
_HEADER = Struct(">HHHHHH")
_TAIL = Struct(">HH")
_ANSWER = Struct(">HHHIH")
_QUESTION_AT = 0xC000 | _HEADER.size  # a pointer to the name in the question
_IN, _A, _ANY, _OPT = 1, 1, 255, 41
_NO_ERROR, _FORMAT, _NO_NAME, _NOT_IMPLEMENTED = 0, 1, 3, 4
_RESPONSE, _RECURSION = 0x8000, 0x0080
_COPIED = 0x7900  # of the query's flags: the kind of query, and that recursion is wanted
_ADDRESS_S = 60
QUERY_BYTES_MAX = 4096
_NAME_MAX = 253
_TCP_CLIENTS_MAX = 64
NOTED_MAX = 1000  # of each kind

Lookup = Callable[[str], str | None]


class Question(NamedTuple):
    name: str
    kind: int
    end: int  # where it ends


def read_question(query: bytes) -> Question | None:
    """The first question; None if it is malformed."""
    labels: list[str] = []
    at = _HEADER.size
    with contextlib.suppress(IndexError, UnicodeDecodeError, error):
        while length := query[at]:
            label = query[at + 1 : at + 1 + length]
            if length > 63 or len(label) < length:
                return None
            text = label.decode("ascii")
            # A dot within a label, or a NUL, would make it another name.
            if not all("!" <= c <= "~" and c != "." for c in text):
                return None
            labels.append(text)
            at += 1 + length
        name = ".".join(labels)
        kind, class_ = _TAIL.unpack_from(query, at + 1)
        if len(name) <= _NAME_MAX and class_ in (_IN, _ANY):
            return Question(name.lower(), kind, at + 1 + _TAIL.size)
    return None


def answer(query: bytes, lookup: Lookup, unknown: Callable[[str], None]) -> bytes | None:
    """The response; None to what is no query."""
    if len(query) < _HEADER.size:
        return None
    number, flags, questions, *_ = _HEADER.unpack_from(query)
    if flags & _RESPONSE:
        return None

    def respond(code: int, question: bytes = b"", *records: bytes) -> bytes:
        given = _RESPONSE | (flags & _COPIED) | _RECURSION | code
        counts = (1 if question else 0, len(records), 0, 0)
        return _HEADER.pack(number, given, *counts) + question + b"".join(records)

    if flags & 0x7800:  # no standard query
        return respond(_NOT_IMPLEMENTED)
    question = read_question(query) if questions == 1 else None
    if question is None:
        return respond(_FORMAT)
    question_bytes = query[_HEADER.size : question.end]
    address = lookup(question.name)
    if address is None:
        unknown(question.name)
        return respond(_NO_NAME, question_bytes)
    if question.kind not in (_A, _ANY):
        return respond(_NO_ERROR, question_bytes)
    record = _ANSWER.pack(_QUESTION_AT, _A, _IN, _ADDRESS_S, 4) + socket.inet_aton(address)
    return respond(_NO_ERROR, question_bytes, record)


class Server:
    """Serves `udp` and `tcp`; `unknown` hears of each name that does not exist once."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        udp: socket.socket,
        tcp: socket.socket,
        lookup: Lookup,
        unknown: Callable[[str], None],
    ) -> None:
        self._selector, self._lookup, self._unknown = selector, lookup, unknown
        self._udp, self._tcp = udp, tcp
        self._noted: set[str] = set()
        self._clients = 0
        for each, ready in ((udp, self._datagram), (tcp, self._accept)):
            each.setblocking(False)
            selector.register(each, selectors.EVENT_READ, ready)

    def _answer(self, query: bytes) -> bytes | None:
        return answer(query, self._lookup, self._note)

    def _note(self, name: str) -> None:
        if name not in self._noted and len(self._noted) < NOTED_MAX:
            self._noted.add(name)
            self._unknown(name)

    def _datagram(self, mask: int) -> None:
        with contextlib.suppress(OSError):
            query, client = self._udp.recvfrom(QUERY_BYTES_MAX)
            if (response := self._answer(query)) is not None:
                self._udp.sendto(response, client)

    def _accept(self, mask: int) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._tcp.accept()
            if self._clients >= _TCP_CLIENTS_MAX:
                client.close()
                return
            self._clients += 1
            client.setblocking(False)
            buffer = bytearray()

            def ready(mask: int) -> None:
                if not self._serve(client, buffer):
                    self._clients -= 1
                    self._selector.unregister(client)
                    client.close()

            self._selector.register(client, selectors.EVENT_READ, ready)

    def _serve(self, client: socket.socket, buffer: bytearray) -> bool:
        try:
            data = client.recv(QUERY_BYTES_MAX)
            buffer += data
            while data and len(buffer) >= 2:
                length = int.from_bytes(buffer[:2], "big")
                if length > QUERY_BYTES_MAX:
                    return False
                if len(buffer) < 2 + length:
                    break
                response = self._answer(bytes(buffer[2 : 2 + length]))
                del buffer[: 2 + length]
                if response is None:
                    return False
                # One that does not read its answers is not waited for.
                client.sendall(len(response).to_bytes(2, "big") + response)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return bool(data)
