"""How the rest of torpor asked the broker before there were frames; `client` takes its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from torpor.core.errors import HostError, Missing
from torpor.core.ids import OpId, RunId

# However long a model takes: the broker answers for its upstream's silence itself, and if it dies,
# the socket tells. All else it answers at once.
_CALL = httpx.Timeout(None, connect=10)
_AT_ONCE = httpx.Timeout(10, pool=None)
# Marks the answer of a call: no header of an upstream's comes through that begins so.
ANSWERED = {"torpor-call": "answered"}
BY = "torpor-broker"  # who says so: `torpor.egress.calls.Calls.id`

Answer = tuple[int, dict[str, str], bytes]  # status, headers, body


class BrokerClient:
    """Many requests may be under way at once. Use it within one event loop, and close it.

    Each method raises Missing when no broker listens, HostError when it went away before it
    answered."""

    def __init__(self, socket: Path) -> None:
        self.broker = ""  # which broker answered last, if one did
        self._socket = socket
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(
                uds=str(socket),
                # As many as there are calls, and none that the broker closes just as it is used
                # again: nobody would know whether it had heard of the call.
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            ),
            base_url="http://broker",
        )

    async def make(
        self, run: RunId, op: OpId, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        """The answer of this call, whatever its status; joined if it is under way, given again if
        it was not acknowledged yet."""
        query = {"run": run, "op": op, "method": method, "path": path}
        answer = _answer(await self._request("POST", query, headers, body))
        if answer is None:
            raise HostError("the broker gave up the call", hint="The broker was being stopped.")
        return answer

    async def adopt(self, run: RunId, op: OpId) -> Answer | None:
        """As `make`, of a call that was made before; None if the broker does not know of it."""
        return _answer(await self._request("GET", {"run": run, "op": op}))

    async def acknowledge(self, run: RunId, op: OpId) -> None:
        """The call's answer is recorded."""
        await self._request("DELETE", {"run": run, "op": op})

    async def forget(self, run: RunId) -> None:
        """The run has ended: its calls are given up."""
        await self._request("DELETE", {"run": run})

    async def health(self) -> dict[str, Any]:
        """{upstream: what answers, for people; pid: of the broker}."""
        _, _, body = await self._request("GET", None)
        health: dict[str, Any] = json.loads(body)
        return health

    async def _request(
        self,
        method: str,
        call: Mapping[str, str] | None,
        sent: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        url = "/health" if call is None else "/calls"
        timeout = _AT_ONCE if call is None or method == "DELETE" else _CALL
        try:
            response = await self._client.request(
                method, url, params=call, headers=sent, content=body, timeout=timeout
            )
        except httpx.ConnectError as error:
            self.broker = ""
            raise Missing(
                f"no broker answers at {self._socket}", hint="`torpor up` starts it."
            ) from error
        except httpx.TransportError as error:
            self.broker = ""
            raise HostError(
                f"the broker did not finish its reply: {error or type(error).__name__}",
                hint=f"See {self._socket.with_name('broker.log')}, and try again.",
            ) from error
        headers = dict(response.headers)
        self.broker = headers.pop(BY, "")
        return response.status_code, headers, response.content

    async def close(self) -> None:
        await self._client.aclose()


def _answer(response: Answer) -> Answer | None:
    status, headers, body = response
    if not ANSWERED.items() <= headers.items():
        return None
    return status, {name: text for name, text in headers.items() if name not in ANSWERED}, body
