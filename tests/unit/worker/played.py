"""A broker without its process: what drivers ask of a `BrokerClient`, with an upstream that is
played. Recorded calls are made once and kept until they are acknowledged, as by the real one.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from torpor.core.egress import MODEL_HOST
from torpor.core.ids import OpId, RunId
from torpor.egress.connection import Lost
from torpor.egress.protocol import DONE, VERDICT
from torpor.egress.upstream import Request
from torpor.testing.fakes.broker import Reply
from torpor.wire.streams import (
    DATA,
    DATA_BYTES,
    END,
    HEAD,
    RECORD,
    REFUSE,
    RESET,
    WINDOW,
    WINDOW_BYTES,
    Frame,
)

Fields = Mapping[str, Any]
_ALLOW: Fields = {"verdict": "allow", "rule": "played"}


class PlayedUpstream:
    """Answers each request as `answers` does, whole or, where `pieces` gives some, in these; keeps
    the `requests` that came."""

    def __init__(self, answers: Callable[[Request], Awaitable[Reply]]) -> None:
        self.requests: list[Request] = []
        self.came = asyncio.Event()  # one of them
        self.given_up: list[Request] = []
        self.answers = answers
        self.pieces: Callable[[Request], AsyncIterator[bytes]] | None = None

    async def send(self, request: Request) -> AsyncIterator[Frame]:
        """HEAD, DATA and END."""
        self.requests.append(request)
        self.came.set()
        try:
            if self.pieces is None:
                reply = await self.answers(request)
                yield _head(reply.status, reply.headers)
                at = 0
                for piece in _cut(reply.body):
                    yield Frame(DATA, 0, {}, at, piece)
                    at += len(piece)
            else:
                yield _head(200, {"content-type": "text/event-stream"})
                at = 0
                async for piece in self.pieces(request):
                    yield Frame(DATA, 0, {}, at, piece)
                    at += len(piece)
            yield Frame(END, 0, {}, at)
        except asyncio.CancelledError:
            self.given_up.append(request)
            raise


class PlayedStream:
    """See `torpor.egress.connection.Stream`."""

    def __init__(self, listener: Callable[[Frame], None] | None = None) -> None:
        self.ended = False
        self.verdict: Fields = {}
        self._frames: deque[Frame] = deque()
        self._arrived = asyncio.Event()
        self._lost: Lost | None = None
        self._listener = listener
        self.forwarded: list[Frame] = []
        self.left = False

    def give(self, *frames: Frame) -> None:
        for frame in frames:
            self._frames.append(frame)
            self.ended |= frame.kind in (DONE, RECORD)
        self._arrived.set()

    def lose(self, *, sent: bool) -> None:
        self._lost = Lost(sent=sent)
        self._arrived.set()

    async def next(self) -> Frame | None:
        while not self._frames:
            if self.ended:
                return None
            if self._lost is not None:
                raise self._lost
            self._arrived.clear()
            await self._arrived.wait()
        return self._frames.popleft()

    def __aiter__(self) -> PlayedStream:
        return self

    async def __anext__(self) -> Frame:
        frame = await self.next()
        if frame is None:
            raise StopAsyncIteration
        return frame

    def forward(self, frame: Frame) -> None:
        self.forwarded.append(frame)
        if self._listener is not None:
            self._listener(frame)

    def leave(self) -> None:
        self.left = True


class _Call:
    """A recorded one: all of its frames, and who gets them."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.streams: list[PlayedStream] = []
        self.task: asyncio.Task[None] | None = None

    def give(self, frame: Frame) -> None:
        self.frames.append(frame)
        for stream in self.streams:
            stream.give(frame)

    def join(self) -> PlayedStream:
        stream = PlayedStream()
        stream.verdict = dict(_ALLOW)
        stream.give(*self.frames)
        self.streams.append(stream)
        return stream


class PlayedBroker:
    """`verdicts` gives that of a request, and what it is refused with; allowed, as long as it gives
    nothing. Plain streams are answered by the upstream too, once their body has ended."""

    upstream = "played"

    def __init__(self, upstream: PlayedUpstream) -> None:
        self.played = upstream
        self.broker = secrets.token_hex(8)
        self.calls: dict[tuple[RunId, OpId], _Call] = {}
        self.plain: list[PlayedStream] = []
        self.policies: dict[RunId, Fields] = {}
        self.verdicts: Callable[[Fields], tuple[Fields, Fields] | None] = lambda request: None
        self._tasks: set[asyncio.Task[None]] = set()

    async def die(self) -> None:
        """With all that it had; another is there at once."""
        calls, self.calls = self.calls, {}
        self.broker = secrets.token_hex(8)
        for call in calls.values():
            if call.task is not None:
                call.task.cancel()
            for stream in call.streams:
                stream.lose(sent=True)
        plain, self.plain = self.plain, []
        for stream in plain:
            stream.lose(sent=True)

    async def open(self, run: RunId, request: Fields, *, permit: str = "") -> PlayedStream:
        body = bytearray()
        ended = asyncio.Event()

        def listen(frame: Frame) -> None:
            body.extend(frame.data)
            if frame.kind == DATA:
                stream.give(Frame(WINDOW, 0, {}, len(body) + WINDOW_BYTES))
            if frame.kind == END:
                ended.set()

        stream = PlayedStream(listen)
        self.plain.append(stream)

        async def serve() -> None:
            stream.give(Frame(VERDICT, 0, dict(_ALLOW)), Frame(WINDOW, 0, {}, WINDOW_BYTES))
            await ended.wait()
            received = 0
            async for frame in self.played.send(_request(request, bytes(body))):
                received += len(frame.data)
                stream.give(frame)
            stream.give(Frame(DONE, 0, _done(200, len(body), received)))

        if (decided := self.verdicts(request)) is None:
            self._spawn(serve())
        else:
            stream.give(*_refused(*decided))
        return stream

    async def call(
        self,
        run: RunId,
        op: OpId,
        kind: str,
        request: Fields,
        body: bytes,
        *,
        offset: int = 0,
        permit: str = "",
    ) -> tuple[PlayedStream, Frame]:
        call = self.calls.get((run, op))
        if call is None:
            decided = self.verdicts(request)
            if decided is not None and not permit:
                stream = PlayedStream()
                verdict, refusal = _refused(*decided)
                stream.verdict = verdict.fields
                stream.give(refusal, Frame(DONE, 0, _done(None, 0, 0)))
                return stream, verdict
            call = self.calls[run, op] = _Call()
            call.task = self._spawn(self._make(call, _request(request, body)))
        return call.join(), Frame(VERDICT, 0, dict(_ALLOW))

    async def attach(
        self, run: RunId, op: OpId, offset: int = 0
    ) -> tuple[PlayedStream, Frame] | None:
        call = self.calls.get((run, op))
        return None if call is None else (call.join(), Frame(VERDICT, 0, dict(_ALLOW)))

    async def acknowledge(self, run: RunId, op: OpId) -> None:
        call = self.calls.pop((run, op), None)
        if call is not None and call.task is not None:
            call.task.cancel()

    async def forget(self, run: RunId) -> None:
        self.policies.pop(run, None)
        for of, op in list(self.calls):
            if of == run:
                await self.acknowledge(of, op)

    async def set_policy(self, run: RunId, policy: Fields) -> None:
        self.policies[run] = policy

    def post_policy(self, run: RunId, policy: Fields, renewed: object = None) -> None:
        self.policies[run] = policy

    async def drop_policy(self, run: RunId) -> None:
        self.policies.pop(run, None)

    async def set_secrets(self, entries: Sequence[Fields]) -> None: ...

    async def _make(self, call: _Call, request: Request) -> None:
        received = 0
        async for frame in self.played.send(request):
            received += len(frame.data)
            call.give(frame)
        call.give(Frame(DONE, 0, _done(200, len(request.body), received)))

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _request(request: Fields, body: bytes) -> Request:
    """Its host is in `headers`, where it is not the deployment's own model."""
    path, _, query = request.get("target", "").partition("?")
    headers = dict(request.get("headers", ()))
    if request["host"] != MODEL_HOST:
        headers["host"] = request["host"]
    return Request(request.get("method", ""), path, query, headers, body)


def _refused(verdict: Fields, refusal: Fields) -> tuple[Frame, Frame]:
    kind = RECORD if "kind" in refusal else REFUSE
    return Frame(VERDICT, 0, dict(verdict)), Frame(kind, 0, dict(refusal))


def reset(message: str) -> Frame:
    return Frame(RESET, 0, {"code": "cut", "message": message})


def _head(status: int, headers: Mapping[str, str]) -> Frame:
    return Frame(HEAD, 0, {"status": status, "headers": [list(each) for each in headers.items()]})


def _cut(body: bytes) -> list[bytes]:
    return [body[at : at + DATA_BYTES] for at in range(0, len(body), DATA_BYTES)]


def _done(status: int | None, sent: int, received: int) -> dict[str, Any]:
    done = {"sent": sent, "received": received, "ms": 1}
    return done if status is None else done | {"status": status}
