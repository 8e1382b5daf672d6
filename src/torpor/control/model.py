"""The way to the model: the broker, started when it is not there.

The broker is a process of its own and may die; a model call that finds none starts one and asks
again. One whose broker died while it was under way has failed: whether the model was asked, nobody
knows, and the caller is told so.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

from torpor.broker.client import BrokerClient
from torpor.broker.launch import ensure_broker
from torpor.model.errors import Missing, TorporError
from torpor.model.home import Home


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

    async def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) of the answer, whatever the status. Raises HostError."""
        try:
            return await self._client.request(method, path, headers, body)
        except Missing:
            async with self._starting:
                await (await ensure_broker(self._home)).close()
            return await self._client.request(method, path, headers, body)

    async def answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The outcome of a `model` operation, `asked` as in its begin message: an HTTP response,
        made here where the broker has none."""
        try:
            body = asked["body"].encode() if "body" in asked else b64decode(asked["body_b64"])
            status, headers, answer = await self.request(
                asked["method"], asked["path"], asked["headers"], body
            )
        except (TorporError, ValueError) as error:
            return no_answer(503, error)
        try:
            return {"status": status, "headers": headers, "body": answer.decode()}
        except UnicodeDecodeError:
            encoded = b64encode(answer).decode()
            return {"status": status, "headers": headers, "body_b64": encoded}

    async def close(self) -> None:
        await self._client.close()


def no_answer(status: int, error: TorporError | ValueError) -> dict[str, Any]:
    """What a model's client is told when there is no answer that it could be given."""
    told = {"message": str(error), "type": getattr(error, "code", "invalid")}
    headers = {"content-type": "application/json"}
    return {"status": status, "headers": headers, "body": json.dumps({"error": told})}
