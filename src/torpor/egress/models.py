"""Calls of the deployment's own model, whole: what `worker.calls` makes of a broker's frames.

One whose broker dies while it has the call is *unanswered*: whether the model was asked, nobody
knows, and what is done then is its run's to decide and to record (`torpor.worker.calls`).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

from torpor.core import refusals
from torpor.core.egress import MODEL, MODEL_HOST
from torpor.core.errors import HostError, Invalid, TorporError
from torpor.core.home import Home
from torpor.core.ids import OpId, RunId
from torpor.egress.client import BrokerClient
from torpor.egress.connection import Lost, Stream
from torpor.egress.protocol import BODY_BYTES_MAX
from torpor.wire.streams import DATA, HEAD, REFUSE, RESET

GIVEN_UP = "given_up"


class Unanswered(HostError):
    """The broker went away with a call: it may have been made."""


class Model:
    def __init__(self, client: BrokerClient) -> None:
        self._client = client

    @property
    def client(self) -> BrokerClient:
        return self._client

    @classmethod
    async def open(cls, home: Home) -> Model:
        """Raises HostError."""
        client = BrokerClient.of(home)
        await client.connect()
        return cls(client)

    @property
    def upstream(self) -> str:
        """What answers, for people."""
        return self._client.upstream

    @property
    def broker(self) -> str:
        """Which broker answered last. What one and the same does not know of was never made."""
        return self._client.broker

    async def make(self, run: RunId, op: OpId, call: Mapping[str, Any]) -> dict[str, Any]:
        """The outcome of a `model` operation, `call` as in its begin message: an HTTP response,
        made here where there is no broker. Raises Unanswered."""
        path = call["path"]
        request = {
            "scheme": "http",
            "host": MODEL_HOST,
            "port": 80,
            "method": call["method"],
            "target": path,
            "headers": [[name, value] for name, value in call["headers"].items()],
        }
        try:
            body = call["body"].encode() if "body" in call else b64decode(call["body_b64"])
            if len(body) > BODY_BYTES_MAX:
                problem = Invalid(f"the request's body is larger than {BODY_BYTES_MAX:,} bytes")
                return no_answer(path, 413, problem)
            stream, _ = await self._client.call(run, op, MODEL, request, body)
            return await _outcome(stream, path)
        except Lost as error:
            raise Unanswered(error.message, hint=error.hint) from error
        except (ValueError, Invalid) as error:
            return no_answer(path, 400, error)
        except Unanswered:
            raise
        except TorporError as error:  # so it did not get there
            return no_answer(path, 503, error)

    async def adopt(self, run: RunId, op: OpId) -> dict[str, Any] | None:
        """The outcome of a call that was made before, if the broker has it or is at it."""
        try:
            stream = await self._client.attach(run, op)
            return None if stream is None else await _outcome(stream, op)
        except HostError:
            return None

    async def acknowledge(self, run: RunId, op: OpId) -> None:
        """The outcome is recorded. A broker that is gone has forgotten it."""
        await self._client.acknowledge(run, op)

    async def forget(self, run: RunId) -> None:
        """The run has ended: its calls are given up."""
        await self._client.forget(run)

    async def close(self) -> None:
        await self._client.close()


async def _outcome(stream: Stream, path: str) -> dict[str, Any]:
    """Raises Lost, Unanswered."""
    body, answer = bytearray(), {"status": 502, "headers": refusals.headers()}
    try:
        async for frame in stream:
            fields = frame.fields
            if frame.kind == HEAD:
                answer = {"status": fields["status"], "headers": dict(fields["headers"])}
            elif frame.kind == DATA:
                body += frame.data
            elif frame.kind == REFUSE:
                body = bytearray(
                    refusals.encoded(path, fields["status"], fields["code"], fields["message"])
                )
                retry = fields.get("retry", False)
                answer = {"status": fields["status"], "headers": refusals.headers(retry=retry)}
            elif frame.kind == RESET:
                if fields["code"] == GIVEN_UP:
                    raise Unanswered("the broker gave up the call")
                body = bytearray(refusals.encoded(path, 502, fields["code"], fields["message"]))
                retry = fields["code"] == "upstream_broken"
                answer = {"status": 502, "headers": refusals.headers(retry=retry)}
    finally:
        stream.leave()
    try:
        return {**answer, "body": bytes(body).decode()}
    except UnicodeDecodeError:
        return {**answer, "body_b64": b64encode(body).decode()}


def no_answer(
    path: str, status: int, error: TorporError | ValueError, *, retry: bool = True
) -> dict[str, Any]:
    """What a model's client gets when there is no answer for it."""
    body = refusals.encoded(path, status, getattr(error, "code", "invalid"), str(error))
    return {"status": status, "headers": refusals.headers(retry=retry), "body": body.decode()}
