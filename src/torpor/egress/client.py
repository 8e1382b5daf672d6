"""How the rest of torpor asks the broker: started when it is not there, connected again when it
died, and reminded of the policies and secrets that it has to know.

The broker is a process of its own and may die. What was never sent is asked for again by itself;
of what may have been sent, `Lost` tells, and what is done then is the caller's to decide and to
record: a recorded call is never sent twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from torpor.core.egress import Request
from torpor.core.errors import HostError, Missing, TorporError
from torpor.core.home import Home
from torpor.core.ids import OpId, RunId
from torpor.egress.connection import Connection, Lost, Stream
from torpor.egress.launch import ensure_broker
from torpor.egress.protocol import BEGIN, VERDICT
from torpor.wire.streams import ATTACH, REFUSE, Frame

_TRIES = 3

Fields = Mapping[str, Any]
Policy = Callable[[], Awaitable[Fields]]
Dial = Callable[[], Awaitable[Connection]]


class BrokerClient:
    """Use it within one event loop, and close it. Its methods raise Missing when there is no broker
    and none could be started: then nothing was sent."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._policies: dict[RunId, Policy] = {}
        self._secrets: Sequence[Fields] | None = None

    @classmethod
    def of(cls, home: Home) -> BrokerClient:
        """Of the broker that serves `home`."""
        return cls(lambda: ensure_broker(home))

    @property
    def broker(self) -> str:
        """The identity of the broker that is connected, or "". What one and the same does not know
        of was never begun there."""
        connection = self._connection
        return "" if connection is None or connection.lost else connection.broker

    @property
    def upstream(self) -> str:
        """What answers for the deployment's own model, for people."""
        return "" if self._connection is None else self._connection.upstream

    async def connect(self) -> Connection:
        """Raises Missing."""
        async with self._connecting:
            connection = self._connection
            if connection is None or connection.lost:
                connection = await self._dial()
                if self._secrets is not None:
                    connection.post("secrets", {"entries": self._secrets})
                for run, policy in list(self._policies.items()):
                    with contextlib.suppress(TorporError):  # the log cannot be read: all is denied
                        connection.post("policy", {"run": run, "policy": await policy()})
                self._connection = connection
            return connection

    async def open(self, run: RunId, request: Fields, *, permit: str = "") -> Stream:
        """A plain stream, for a guest's OPEN. Of a broker that is just dying, its frames raise
        Lost."""
        return await self._begin(BEGIN, {"run": run, "request": request} | _permit(permit))

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
    ) -> tuple[Stream, Frame]:
        """A recorded call: its stream, and its first frame: VERDICT. It is made once, and joined if
        it is under way; its answer comes from `offset` on. Raises Lost if it may have been sent."""
        fields = {"run": run, "op": op, "kind": kind, "request": request, "length": len(body)}
        for _ in range(_TRIES):
            stream = await self._begin(BEGIN, fields | {"offset": offset} | _permit(permit))
            try:
                verdict = await _first(stream)
            except Lost:  # nothing was sent: another broker may
                continue
            if verdict.fields.get("verdict") == "allow" and not verdict.fields.get("joined"):
                stream.send(0, body)
                stream.end(len(body))
            return stream, verdict
        raise Missing("the broker dies again and again", hint="See run/broker.log.")

    async def attach(self, run: RunId, op: OpId, offset: int = 0) -> tuple[Stream, Frame] | None:
        """A recorded call that was begun before, from `offset` on, with its VERDICT; None if no
        broker knows of it."""
        stream = await self._begin(ATTACH, {"run": run, "op": op, "offset": offset})
        try:
            first = await _first(stream)
        except Lost:
            return None
        return None if first.kind == REFUSE else (stream, first)

    async def set_policy(self, run: RunId, policy: Fields) -> None:
        """What the run may do, and what it has used, as `torpor.egress.judge` has it. Until then it
        may reach nothing but the deployment's own model. Raises Invalid, HostError."""
        try:
            connection = await self.connect()
        finally:  # whatever becomes of it: the next connection has this
            self._policies[run] = _always(policy)
        await connection.call("policy", run=run, policy=policy)

    def post_policy(self, run: RunId, policy: Fields, renewed: Policy | None = None) -> None:
        """As `set_policy`, and waits for no reply, nor for a broker: whatever is asked for later
        comes after it. One that the broker cannot read denies all, and says why. A broker that
        comes after this one gets it `renewed`."""
        self._policies[run] = renewed or _always(policy)
        if self._connection is not None:
            self._connection.post("policy", {"run": run, "policy": policy})

    async def drop_policy(self, run: RunId) -> None:
        """The run is carried no more, for now: what is under way goes on."""
        self._policies.pop(run, None)
        await self._remind("policy", {"run": run, "policy": None})

    async def set_secrets(self, entries: Sequence[Fields]) -> None:
        """All of them, sealed. Raises Invalid, HostError."""
        try:
            connection = await self.connect()
        finally:
            self._secrets = entries
        await connection.call("secrets", entries=entries)

    async def acknowledge(self, run: RunId, op: OpId) -> None:
        """The answer is recorded. A broker that is gone has forgotten it."""
        await self._remind("acknowledge", {"run": run, "op": op})

    async def forget(self, run: RunId) -> None:
        """The run has ended: its calls are given up, its policy is dropped."""
        self._policies.pop(run, None)
        await self._remind("forget", {"run": run})

    async def health(self) -> dict[str, Any]:
        """{upstream: what answers, for people; pid: of the broker; …}."""
        return await (await self.connect()).call("health")

    async def explain(self, policy: Fields, request: Request) -> dict[str, Any]:
        """What would become of a request of a run with this policy: the fields of a `Verdict`.
        Nothing is sent. Raises Invalid, HostError."""
        given: dict[str, Any] = {"scheme": request.scheme, "host": request.host}
        given["port"] = request.port
        if request.method:
            given |= {"method": request.method, "target": request.target, "headers": []}
        return await (await self.connect()).call("explain", policy=policy, request=given)

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    async def _begin(self, kind: int, fields: Fields) -> Stream:
        for _ in range(_TRIES):
            with contextlib.suppress(Lost):
                return (await self.connect()).stream(kind, fields)
        raise Missing("the broker dies again and again", hint="See run/broker.log.")

    async def _remind(self, do: str, fields: Fields) -> None:
        connection = self._connection
        if connection is not None and not connection.lost:
            with contextlib.suppress(HostError):
                await connection.post(do, fields)


def _always(policy: Fields) -> Policy:
    async def current() -> Fields:
        return policy

    return current


async def _first(stream: Stream) -> Frame:
    try:
        frame = await stream.next()
    except BaseException:
        stream.leave()
        raise
    assert frame is not None and frame.kind in (VERDICT, REFUSE)
    return frame


def _permit(digest: str) -> dict[str, str]:
    return {"permit": digest} if digest else {}
