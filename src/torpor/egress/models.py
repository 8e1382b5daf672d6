"""The way to the model: the broker, started when it is not there.

The broker is a process of its own and may die; a model call that finds none starts one. One whose
broker dies while it has the call is *unanswered*: whether the model was asked, nobody knows, and
what is done then is its run's to decide and to record (`torpor.worker.calls`).
"""

from __future__ import annotations

import asyncio
import contextlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

from torpor.core import refusals
from torpor.core.errors import HostError, Missing, TorporError
from torpor.core.home import Home
from torpor.core.ids import OpId, RunId
from torpor.egress.launch import ensure_broker
from torpor.egress.whole import Answer, BrokerClient


class Unanswered(HostError):
    """The broker went away with a call: it may have been made."""


class Model:
    def __init__(self, home: Home, client: BrokerClient, upstream: str) -> None:
        self.upstream = upstream  # what answers, for people
        self._home = home
        self._client = client
        self._starting = asyncio.Lock()

    @classmethod
    async def open(cls, home: Home) -> Model:
        """Raises HostError."""
        client = await ensure_broker(home)
        return cls(home, client, (await client.health())["upstream"])

    @property
    def broker(self) -> str:
        """Which broker answered last. What one and the same does not know of was never made."""
        return self._client.broker

    async def make(self, run: RunId, op: OpId, call: Mapping[str, Any]) -> dict[str, Any]:
        """The outcome of a `model` operation, `call` as in its begin message: an HTTP response,
        made here where there is no broker. Raises Unanswered."""
        path = call["path"]
        try:
            body = call["body"].encode() if "body" in call else b64decode(call["body_b64"])
        except ValueError as error:
            return no_answer(path, 400, error)
        request = (run, op, call["method"], path, call["headers"], body)
        try:
            return _response(await self._client.make(*request))
        except Missing:  # so it did not get there
            pass
        except HostError as error:
            raise Unanswered(error.message, hint=error.hint) from error
        try:
            async with self._starting:
                await (await ensure_broker(self._home)).close()
        except TorporError as error:
            return no_answer(path, 503, error)
        try:
            return _response(await self._client.make(*request))
        except Missing as error:
            return no_answer(path, 503, error)
        except HostError as error:
            raise Unanswered(error.message, hint=error.hint) from error

    async def adopt(self, run: RunId, op: OpId) -> dict[str, Any] | None:
        """The outcome of a call that was made before, if the broker has it or is at it."""
        try:
            answer = await self._client.adopt(run, op)
        except HostError:
            return None
        return None if answer is None else _response(answer)

    async def acknowledge(self, run: RunId, op: OpId) -> None:
        """The outcome is recorded. A broker that is gone has forgotten it."""
        with contextlib.suppress(HostError):
            await self._client.acknowledge(run, op)

    async def forget(self, run: RunId) -> None:
        """The run has ended: its calls are given up."""
        with contextlib.suppress(HostError):
            await self._client.forget(run)

    async def close(self) -> None:
        await self._client.close()


def _response(answer: Answer) -> dict[str, Any]:
    status, headers, body = answer
    try:
        return {"status": status, "headers": headers, "body": body.decode()}
    except UnicodeDecodeError:
        return {"status": status, "headers": headers, "body_b64": b64encode(body).decode()}


def no_answer(
    path: str, status: int, error: TorporError | ValueError, *, retry: bool = True
) -> dict[str, Any]:
    """What a model's client gets when there is no answer for it."""
    body = refusals.encoded(path, status, getattr(error, "code", "invalid"), str(error))
    return {"status": status, "headers": refusals.headers(retry=retry), "body": body.decode()}
