"""How the rest of torpor asks the broker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from torpor.model.errors import HostError, Missing

# Longer than the broker waits for its upstream: it answers for that one's silence itself.
TIMEOUT = httpx.Timeout(660, connect=10, pool=None)


class BrokerClient:
    """Many requests may be under way at once. Use it within one event loop, and close it."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(socket)),
            base_url="http://broker",
            timeout=TIMEOUT,
        )

    async def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) as the broker answers, whatever the status.

        Raises Missing when no broker listens, HostError when it went away before it answered.
        """
        try:
            response = await self._client.request(method, path, headers=headers, content=body)
        except httpx.ConnectError as error:
            raise Missing(
                f"no broker answers at {self._socket}", hint="It is started by `torpor up`."
            ) from error
        except httpx.TransportError as error:
            raise HostError(
                f"the broker did not finish its answer: {error or type(error).__name__}",
                hint=f"See {self._socket.with_name('broker.log')}, and ask again.",
            ) from error
        return response.status_code, dict(response.headers), response.content

    async def health(self) -> dict[str, Any]:
        """{upstream: what answers, for people; pid: of the broker}. Raises as `request` does."""
        _, _, body = await self.request("GET", "/health", {}, b"")
        health: dict[str, Any] = json.loads(body)
        return health

    async def close(self) -> None:
        await self._client.aclose()
