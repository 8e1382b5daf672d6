"""Traces for who collects them: runs' spans (`torpor.control.observe.spans`), sent by OTLP.

    OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318     turns it on; needs torpor[otel]
    OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, …  are OpenTelemetry's

They come from the log, not from the code that runs: every few seconds the server looks which runs
came into another state, reads their logs, and sends what has ended since it looked before. How far
that is, is in the database, so that a server that was killed goes on from there. What could not be
sent is sent the next time; a collector that is away harms no run.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from sqlalchemy import Connection

from torpor.contextlog import entries, runs, settings
from torpor.control.observe.spans import Span, spans, trace_id
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.errors import Missing
from torpor.core.ids import RunId
from torpor.core.limits import LIMITS, ServerLimits
from torpor.logstore.protocol import Store

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PAGE = 5000
_MARK = "traces_sent_until"


class Sender(Protocol):
    def send(self, run: str, ended: Sequence[Span]) -> bool:
        """Whether they have arrived. Blocks."""
        ...


def wanted(environment: Mapping[str, str] = os.environ) -> bool:
    return any(environment.get(each) for each in ENDPOINTS)


class Telemetry:
    def __init__(
        self,
        store: Store,
        sender: Sender,
        clock: Clock = SYSTEM_CLOCK,
        limits: ServerLimits = LIMITS,
    ) -> None:
        self._store, self._sender = store, sender
        self._clock, self._limits = clock, limits

    async def tend(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:  # ours to mend, and nothing that others should suffer from
                log.exception("traces could not be sent")
            await self._clock.sleep(self._limits.traces_every_s)

    async def look(self) -> int:
        """Send what has ended since the last time, or from now on; how many spans that were."""
        until = self._clock.now() - self._limits.traces_late_s
        mark = await self._store.read(lambda c: settings.read(c, _MARK))
        if mark is None:
            await self._store.write(lambda c: settings.write(c, _MARK, str(until)))
            return 0
        since, sent = float(mark), 0
        for run in await self._store.read(lambda c: runs.changed_since(c, since)):
            every = await self._store.read(partial(_spans, run=run))
            ended = [span for span in every if since < span.known_at <= until]
            if ended and not await asyncio.to_thread(self._sender.send, run, ended):
                log.warning("traces could not be sent; they are tried again")
                return sent
            sent += len(ended)
        await self._store.write(lambda c: settings.write(c, _MARK, str(until)))
        return sent


def _spans(c: Connection, run: RunId) -> list[Span]:
    read: list[dict[str, Any]] = []
    while True:
        after = read[-1]["seq"] if read else 0
        page = entries.read_entries(c, run, after, None, _PAGE)
        read += [entry.to_json() for entry in page]
        if len(page) < _PAGE:
            return spans(runs.get_run(c, run).to_json(), read)


class Otlp:
    """Sends by OTLP over HTTP, as OpenTelemetry's environment says. Raises Missing."""

    def __init__(self) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
        except ImportError as error:
            raise Missing(
                f"{ENDPOINTS[0]} is set, but OpenTelemetry's packages are not installed",
                hint="Install torpor[otel], or unset it.",
            ) from error
        self._exporter = OTLPSpanExporter()
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "torpor"}
        self._resource = Resource.create(named)

    def send(self, run: str, ended: Sequence[Span]) -> bool:
        from opentelemetry.sdk.trace.export import SpanExportResult

        readable = [self._readable(trace_id(run), span) for span in ended]
        return self._exporter.export(readable) is SpanExportResult.SUCCESS

    def _readable(self, trace: int, span: Span) -> Any:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

        def context(id: int) -> SpanContext:
            return SpanContext(trace, id, is_remote=False, trace_flags=TraceFlags(1))

        return ReadableSpan(
            name=span.name,
            context=context(span.id),
            parent=None if span.parent is None else context(span.parent),
            resource=self._resource,
            attributes=span.attributes,
            links=[Link(context(link)) for link in span.links],
            kind=SpanKind.CLIENT if span.client else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.OK),
            start_time=int(span.began * 1e9),
            end_time=int(span.ended * 1e9),
        )
