"""What an accepted connection means: HTTP exchanges, one after the other, or bytes both ways. Each
exchange, and each connection of bytes, is a stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from torpor.core import refusals
from torpor.core.egress import MODEL_HOST, PORTS, TCP
from torpor.core.errors import Invalid
from torpor.guest.clients import Client
from torpor.guest.flows import Listener, Stream, Streams
from torpor.guest.http1 import (
    CONTINUE,
    END,
    BadRequest,
    Framing,
    Head,
    Parser,
    answer_head,
    error_response,
    switching_head,
)
from torpor.wire.streams import DATA_BYTES

# What a client has sent ahead of its turn is kept up to here, and not read beyond.
AHEAD_BYTES_MAX = 64 * 1024
# Of an answer: while no more than this waits for the client, more may come.
PENDING_BYTES_MAX = 64 * 1024
RECORDED_BYTES_MAX = 8 * 1024 * 1024  # a request that is an operation is in one message, whole
_WEBSOCKET = "websocket"
_MALFORMED = 400
_GONE = ("client_gone", "the client has closed its connection")


class Site(NamedTuple):
    """Where a connection leads: the address that was connected to says that, and nothing that is
    sent over it."""

    scheme: str
    host: str
    port: int

    @property
    def is_model(self) -> bool:
        """The deployment's own, which may be asked under any name."""
        return self.host == MODEL_HOST

    def named_by(self, authority: str) -> bool:
        """Whether a Host, or the authority of a URL, is this site."""
        host, _, port = authority.lower().partition(":")
        if port and not (port.isascii() and port.isdigit() and len(port) <= 5):
            return False
        at = int(port) if port else PORTS.get(self.scheme, self.port)
        return host.removesuffix(".") == self.host and at == self.port


class Classify(Protocol):
    def __call__(self, site: Site, head: Head) -> Mapping[str, Any] | None:
        """What RECORD says of this exchange, if it is to be an operation."""


class Backend(NamedTuple):
    """What connections need of their gateway."""

    streams: Streams
    classify: Classify
    # Take in which of the other clients have gone: an equal request takes over what they had asked.
    settle: Callable[[object], None]


class Bytes(Listener):
    """A connection of bytes: of a `tcp` rule, or after a 101. See `clients.Served`."""

    def __init__(self, client: Client, ahead: bytes = b"") -> None:
        self._client = client
        self._ahead = bytearray(ahead)
        self._stream: Stream | None = None
        self._client_over = self._over = self._end_sent = False

    @classmethod
    def connect(cls, client: Client, backend: Backend, site: Site) -> Bytes:
        """A stream for a client that has connected."""
        connection = cls(client)
        connection.join(
            backend.streams.open(connection, {"scheme": TCP, "host": site.host, "port": site.port})
        )
        return connection

    def join(self, stream: Stream) -> None:
        stream.listener = self
        self._stream = stream

    @property
    def wants(self) -> bool:
        return len(self._ahead) < AHEAD_BYTES_MAX

    def came(self, data: bytes) -> None:
        self._ahead += data
        self.admitted()

    def client_ended(self) -> None:
        self._client_over = True
        self.admitted()

    def drained(self) -> None:
        if self._stream is not None:
            self._stream.grant()

    def client_gone(self) -> None:
        if self._stream is not None:
            self._stream.drop(*_GONE)

    def admitted(self) -> None:
        stream = self._stream
        if stream is None or stream.over:
            return
        while self._ahead and (room := min(stream.room, DATA_BYTES)) > 0:
            stream.send(bytes(self._ahead[:room]))
            del self._ahead[:room]
        if self._client_over and not self._ahead and not self._end_sent:
            if stream.admitted:
                self._end_sent = True
                stream.end()
                self._finish()
            elif not self._over:  # it went before there was a connection
                stream.drop(*_GONE)
                self._client.close()
        self._client.watch()

    def data(self, data: bytes) -> None:
        self._client.send(data)
        if self._stream is not None and self._client.pending < PENDING_BYTES_MAX:
            self._stream.grant()

    def end(self) -> None:
        self._over = True
        self._client.end_writing()
        self._finish()

    def refused(self, fields: Mapping[str, Any]) -> None:
        self._client.reset()

    def broken(self) -> None:
        self._client.reset()

    def _finish(self) -> None:
        if self._over and self._end_sent and self._stream is not None:
            self._stream.close()
            self._client.finish()


class Http(Listener):
    """HTTP/1.1 for one client: requests are answered in the order in which they came, one at a
    time. See `clients.Served`."""

    def __init__(self, client: Client, backend: Backend, site: Site) -> None:
        self._client, self._backend, self._site = client, backend, site
        self._parser = Parser()
        self._path = "/"  # of the last request: which API it is that is called here
        self._head: Head | None = None  # of the request that is being served
        self._stream: Stream | None = None
        self._untaken: Stream | None = None  # its answer is over, and not yet with the client whole
        self._framing: Framing | None = None
        self._answered = 0  # bytes of the body of its answer
        self._taken = False  # the request is here whole
        self._bodiless = False  # and ends with its head, so that there is nothing to wait for
        self._continuing = False  # the client waits to be told to send the body
        self._recorded_bytes: int | None = None  # of the body so far, if it is an operation

    # The client's side.

    @property
    def wants(self) -> bool:
        return self._parser.buffered < AHEAD_BYTES_MAX

    @property
    def waiting(self) -> bool:
        """For an answer, or the rest of one."""
        return self._head is not None or self._untaken is not None

    def came(self, data: bytes) -> None:
        self._parser.feed(data)
        self._advance()

    def client_ended(self) -> None:
        # One that has closed its sending side alone cannot be told from one that is gone.
        if self._head is not None:
            self.client_gone()
            self._client.reset()
        else:
            self._client.finish()

    def client_gone(self) -> None:
        for stream in (self._stream, self._untaken):
            if stream is not None:
                stream.drop(*_GONE)

    def drained(self) -> None:
        if self._stream is not None:
            self._stream.grant()
        if self._untaken is not None:
            self._untaken.close()
            self._untaken = None
            self._advance()

    # Requests.

    def _advance(self) -> None:
        """Take from the parser what can be taken now."""
        try:
            # One answer at a time: a client that does not read is not served further.
            while self._client.open and not self._client.finishing and self._untaken is None:
                if self._head is None:
                    event = self._parser.next()
                    if not isinstance(event, Head):
                        break
                    self._begin(event)
                elif not self._pass_body_on():
                    break
        except BadRequest as error:
            if error.status == _MALFORMED and not self._site.is_model:
                self._backend.streams.note("malformed", self._site.host, self._site.port)
            self._refuse(error.status, "invalid", error.message)
        self._client.watch()

    def _begin(self, head: Head) -> None:
        self._head = head
        self._taken = False
        self._bodiless = head.length == 0 and head.upgrade != _WEBSOCKET
        self._framing, self._answered, self._recorded_bytes = None, 0, None
        self._continuing = head.expects_continue
        target = self._target(head)
        self._path = target
        record = self._backend.classify(self._site, head._replace(target=target))
        if record is not None:
            self._recorded_bytes = 0
            self._limit_recorded(head.length or 0)
            self._backend.settle(self)
        fields: dict[str, Any] = {
            "scheme": self._site.scheme,
            "host": self._site.host,
            "port": self._site.port,
            "method": head.method,
            "target": target,
            "headers": [[name, value] for name, value in head.end_to_end],
        }
        if head.length is None:
            fields["headers"].append(["transfer-encoding", "chunked"])
        if head.upgrade == _WEBSOCKET and record is None and head.length == 0:
            fields["upgrade"] = _WEBSOCKET
        try:
            self._stream = self._backend.streams.open(self, fields, record)
        except Invalid as error:
            raise BadRequest(400, error.message) from error
        if self._stream.admitted:
            self._continue()

    def _target(self, head: Head) -> str:
        """The path that is asked for. Raises BadRequest for one elsewhere."""
        site = self._site
        target = head.target
        if not target.startswith("/") and not (target == "*" and head.method == "OPTIONS"):
            scheme, sep, rest = target.partition("://")
            authority, slash, path = rest.partition("/")
            if not sep or head.method == "CONNECT":
                raise BadRequest(400, f"{target[:80]!a} is not a path")
            if scheme.lower() != site.scheme or not site.named_by(authority):
                self._misdirected(authority)
            target = slash + path if slash else "/"
        if not site.is_model:
            host = head.get("host")
            if head.modern and not any(name == "host" for name, _ in head.headers):
                raise BadRequest(400, "the request names no host")
            if host and not site.named_by(host):
                self._misdirected(host)
        return target

    def _misdirected(self, other: str) -> None:
        site = self._site
        self._backend.streams.note("misdirected", other, site.port)
        raise BadRequest(
            421, f"a connection to {site.host} port {site.port} cannot ask for {other[:200]!a}"
        )

    def _limit_recorded(self, size: int) -> None:
        if size > RECORDED_BYTES_MAX:
            raise BadRequest(413, f"the request's body exceeds {RECORDED_BYTES_MAX:,} bytes")

    def _pass_body_on(self) -> bool:
        """Whether it got further with the request that is being served."""
        stream = self._stream
        if stream is None or stream.over or self._taken:
            return False
        if not (stream.admitted or self._bodiless):
            return False
        room = min(stream.room, DATA_BYTES)
        event = self._parser.next(room) if room > 0 or self._parser.at_end else None
        if event is None:
            return False
        if isinstance(event, bytes):
            if self._recorded_bytes is not None:
                self._recorded_bytes += len(event)
                self._limit_recorded(self._recorded_bytes)
            stream.send(event)
        elif event is END:
            self._taken = True
            if not self._upgrading:
                stream.end()
        return True

    @property
    def _upgrading(self) -> bool:
        """The client has asked for another protocol, and it is not known whether it gets it."""
        head = self._head
        return (
            head is not None
            and head.upgrade == _WEBSOCKET
            and self._framing is None
            and self._recorded_bytes is None
            and head.length == 0
        )

    # Answers.

    def admitted(self) -> None:
        self._continue()
        self._advance()

    def _continue(self) -> None:
        if self._continuing and self._framing is None:
            self._client.send(CONTINUE)
        self._continuing = False

    def head(self, status: int, headers: list[tuple[str, str]]) -> None:
        head, stream = self._head, self._stream
        if head is None or stream is None or self._framing is not None:
            return  # after a thaw it may come twice
        if status == 101:
            self._switch(stream, headers)
            return
        upgrading = self._upgrading
        answer, self._framing = answer_head(head, status, headers)
        if upgrading and self._taken:
            stream.end()
        self._client.send(answer)

    def _switch(self, stream: Stream, headers: list[tuple[str, str]]) -> None:
        if not self._upgrading:
            stream.drop("protocol", "an answer changes to a protocol that was not asked for")
            self.broken()
            return
        bytes_ = Bytes(self._client, self._parser.rest())
        bytes_.join(stream)
        self._stream = None
        self._client.send(switching_head(headers))
        self._client.serve(bytes_)
        bytes_.admitted()

    def data(self, data: bytes) -> None:
        framing = self._framing
        if framing is None or self._stream is None:
            self.broken()
            return
        self._answered += len(data)
        if framing.length is not None and self._answered > framing.length:
            self._stream.drop("protocol", "the answer is longer than it says")
            self.broken()
            return
        self._client.send(framing.piece(data))
        if self._client.pending < PENDING_BYTES_MAX:
            self._stream.grant()

    def end(self) -> None:
        framing, stream = self._framing, self._stream
        if framing is None or stream is None:
            self.broken()
            return
        if framing.length not in (None, self._answered) and not framing.bodiless:
            stream.close()
            self.broken()
            return
        self._client.send(framing.last)
        self._end_exchange(framing.keep_alive and self._taken)

    def refused(self, fields: Mapping[str, Any]) -> None:
        if self._framing is not None:
            self.broken()
            return
        status, retry = fields["status"], fields.get("retry", True)
        self._refuse(status, fields["code"], fields["message"], retry=retry)

    def broken(self) -> None:
        self._stream = self._head = None
        self._client.reset()

    def _refuse(self, status: int, code: str, message: str, *, retry: bool = True) -> None:
        """Answer in torpor's own name, and close, unless all that was sent is accounted for."""
        head, stream = self._head, self._stream
        if stream is not None:
            stream.drop(code, message[:200])
        if self._framing is not None:  # in the middle of an answer
            self.broken()
            return
        # What comes before there is a run must not keep a connection: it would be in the template.
        whole = head is not None and (self._taken or head.length == 0)
        kept = whole and head is not None and head.keep_alive and status != refusals.NOT_YET_STATUS
        if kept and not self._taken:
            self._parser.next()  # its END
        self._client.send(
            error_response(
                self._path,
                status,
                code,
                message,
                keep_alive=kept,
                head=head is not None and head.method == "HEAD",
                retry=retry,
            )
        )
        self._end_exchange(kept)

    def _end_exchange(self, keep_alive: bool) -> None:
        if self._stream is not None and self._client.pending:
            self._untaken = self._stream
        elif self._stream is not None:
            self._stream.close()
        self._head = self._stream = self._framing = None
        if keep_alive:
            self._advance()  # a further request may have come with the last one
        else:
            self._client.finish()
