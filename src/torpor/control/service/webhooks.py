"""Webhooks out: who is told, over HTTP, that a run waits, and reminded of it.

    notice due ──► POST, signed ──► 2xx: delivered
                        └────────► else: again after a while, then failed for good

Messages are as Standard Webhooks has them (`torpor.policy.signing`). Where they go stands in the
agent's file (`torpor.core.webhooks`), under the name that the wait gives; nothing in a machine can
change it, nothing of the answer goes back into one, and redirects are not followed. A message
may come twice, after a crash between its way and its record: with the same `webhook-id`.

Each URL has a secret of its own, derived from the host's key, so that no receiver can sign what
another believes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from datetime import UTC, datetime
from typing import Any, cast

import httpx
from sqlalchemy import Connection

from torpor.contextlog import agents, notices, runs, waits
from torpor.contextlog.news import Due, News
from torpor.contextlog.notices import NoticeRow
from torpor.control.service.hooks import url_key
from torpor.control.service.waits import Waits
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.errors import HostError
from torpor.core.limits import LIMITS, ServerLimits
from torpor.logstore.protocol import Store
from torpor.policy import signing
from torpor.worker.sealing import SealingKeys
from torpor.worker.tasks import Tasks

log = logging.getLogger(__name__)

GONE = 410  # whoever answers so wants no more of it
# Of a wait, in a message about it.
_SHOWN = (
    "id",
    "run",
    "kind",
    "prompt",
    "data",
    "schema",
    "approve",
    "tags",
    "created_at",
    "due_at",
)


class Webhooks:
    def __init__(
        self,
        store: Store,
        keys: SealingKeys,
        waits: Waits,
        *,
        clock: Clock = SYSTEM_CLOCK,
        limits: ServerLimits = LIMITS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._store = store
        self._keys = keys
        self._waits = waits
        self._clock, self._limits = clock, limits
        self._transport = transport
        self._http: httpx.AsyncClient | None = None  # made when there is something to send
        self._wake = asyncio.Event()
        self._sending: set[str] = set()
        self._tasks = Tasks(_log_failure)

    async def tend(self) -> None:
        """Send what is due, for as long as the server lives."""
        self._store.listen(self._hear)
        while True:
            self._wake.clear()
            try:
                due_at = await self.look()
            except HostError as error:
                log.warning("webhooks wait for the host: %s", error)
                await self._clock.sleep(self._limits.host_retry_s[0])
                continue
            net_s = self._limits.safety_net_s
            left_s = net_s if due_at is None else due_at - self._clock.now()
            with contextlib.suppress(TimeoutError):
                async with self._clock.timeout(min(max(0.0, left_s), net_s)):
                    await self._wake.wait()

    def _hear(self, news: News) -> None:
        if isinstance(news, Due):
            self._wake.set()

    async def look(self) -> float | None:
        """Remind of what is due, begin to send what is due, and say when something will be."""
        now = self._clock.now()
        due_at = await self._store.read(notices.next_notice)
        if due_at is None or due_at > now:
            return due_at
        await self._store.write(lambda c: notices.remind_due(c, now))
        # Those that are on their way are still due.
        at_once = self._limits.webhooks_at_once
        most = at_once + len(self._sending)
        for notice in await self._store.read(lambda c: notices.due_notices(c, now, most)):
            if notice.id not in self._sending and len(self._sending) < at_once:
                self._sending.add(notice.id)
                self._tasks.spawn(self._send(notice))
        # The end of each that is under way wakes.
        return None if self._sending else await self._store.read(notices.next_notice)

    async def settled(self) -> None:
        """Return once nothing is on its way."""
        await self._tasks.finish()

    async def stop(self) -> None:
        await self._tasks.cut_off()
        if self._http is not None:
            await self._http.aclose()

    async def _send(self, notice: NoticeRow) -> None:
        try:
            await self._try(notice)
        except Exception as error:  # the host cannot; it is still due
            log.warning("notice %s waits: %r", notice.id, error)
            await self._clock.sleep(self._limits.host_retry_s[0])
        finally:
            self._sending.discard(notice.id)
            self._wake.set()

    async def _try(self, notice: NoticeRow) -> None:
        target = await self._store.read(lambda c: _target(c, notice))
        if target is None:
            await self._store.write(lambda c: notices.drop_notice(c, notice.id))
            return
        url, wait = target
        if url is None:
            why = f"the agent's file names no webhook {notice.webhook!r} any more"
            await self._failed(notice, why, None)
            return
        body = json.dumps(await self._message(notice, wait)).encode()
        status = await self._post(notice, url, body)
        if isinstance(status, int) and 200 <= status < 300:
            now = self._clock.now()
            await self._store.write(lambda c: notices.delivered(c, notice, status, now))
        else:
            why = f"it answered {status}" if isinstance(status, int) else status
            await self._failed(notice, why, None if status == GONE else self._again(notice))

    async def _post(self, notice: NoticeRow, url: str, body: bytes) -> int | str:
        """The status, or why there is none."""
        headers = signing.sign(await url_key(self._keys, url), notice.id, self._clock.now(), body)
        headers |= {"content-type": "application/json", "user-agent": "torpor"}
        try:
            async with (
                self._clock.timeout(self._limits.webhook_attempt_s),
                self._client().stream("POST", url, content=body, headers=headers) as reply,
            ):
                return reply.status_code  # nobody wants to know what else it says
        except TimeoutError:
            return f"no answer within {self._limits.webhook_attempt_s:g} s"
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return f"{type(error).__name__}: {error}"[:500]

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            self._http = httpx.AsyncClient(
                transport=self._transport, timeout=self._limits.webhook_attempt_s
            )
        return self._http

    async def _failed(self, notice: NoticeRow, why: str, again_at: float | None) -> None:
        now = self._clock.now()
        log.warning("webhook %s of %s: %s", notice.webhook, notice.wait, why)
        await self._store.write(lambda c: notices.not_delivered(c, notice, why, again_at, now))

    def _again(self, notice: NoticeRow) -> float | None:
        pauses_s, jitter = self._limits.webhook_retry_s, self._limits.webhook_jitter
        if notice.attempts >= len(pauses_s):
            return None
        pause_s = pauses_s[notice.attempts] * random.uniform(1 - jitter, 1 + jitter)
        return self._clock.now() + pause_s

    async def _message(self, notice: NoticeRow, wait: waits.WaitRow) -> dict[str, Any]:
        (shown,) = await self._waits.shown([wait])
        agent = await self._store.read(lambda c: runs.get_run(c, wait.run).agent)
        at = datetime.fromtimestamp(notice.created_at, UTC)
        return {
            "type": "wait.reminded" if notice.reminder else "wait.created",
            "timestamp": at.isoformat().replace("+00:00", "Z"),
            "data": {
                **{name: cast(dict[str, Any], shown)[name] for name in _SHOWN},
                "agent": agent,
                "url": shown["url"],
                "reminder": notice.reminder,
            },
        }


def _target(c: Connection, notice: NoticeRow) -> tuple[str | None, waits.WaitRow] | None:
    """Where the notice goes, and the wait that it tells of; None if that is not open any more."""
    wait = waits.get_wait(c, notice.wait)
    if wait.state != waits.OPEN:
        return None
    spec = agents.get_agent(c, runs.get_run(c, wait.run).version).spec
    return spec.get("webhooks", {}).get(notice.webhook), wait


def _log_failure(error: BaseException) -> None:
    log.error("a webhook could not be tended", exc_info=error)
