"""A run as a trace: its spans, and that a collector hears of each, once, over OTLP."""

from __future__ import annotations

import asyncio
import gzip
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from sqlalchemy import Connection
from tests.unit.query.conftest import VERSION, Log, completion, conversation

from torpor.contextlog.agents import NewAgent, put_agent
from torpor.contextlog.runs import claim, create_run, transition
from torpor.control.observe.spans import Span, span_id, trace_id
from torpor.control.observe.telemetry import Otlp, Telemetry, wanted
from torpor.core.errors import Missing
from torpor.core.ids import RunId
from torpor.core.states import RunState
from torpor.logstore.sqlite import SqliteStore
from torpor.testing.clock import ManualClock


class World:
    """A run that sleeps once, written as the clock goes on."""

    def __init__(self, path: Path) -> None:
        self.store = SqliteStore.open(path)
        self.clock = ManualClock(10.0)
        self.sent: list[Span] = []
        self.away = False
        self.runner = asyncio.Runner()
        self.telemetry = Telemetry(self.store, self, self.clock)
        self.run = RunId("")

    def send(self, run: str, ended: Sequence[Span]) -> bool:
        if not self.away:
            assert run == self.run
            self.sent += ended
        return not self.away

    def look(self) -> list[str]:
        """The names of what is sent now."""
        self.sent.clear()
        assert self.runner.run(self.telemetry.look()) == len(self.sent)
        return [span.name for span in self.sent]

    def write(self, fn: Any) -> Any:
        return self.runner.run(self.store.write(fn))

    def begin(self) -> None:
        def write(c: Connection) -> None:
            put_agent(
                c,
                NewAgent(
                    engine="qemu", version=VERSION, name="a", entry="a.py", source=b"", spec={}
                ),
                1.0,
            )
            self.run = create_run(c, version=VERSION, agent="asker", input={}, now=100.0).id
            log = Log(c, self.run, claim(c, self.run, 101.0), 101.0)
            log.step("search")
            log.step("search", 2, error={"type": "ValueError", "message": "no luck"})
            log.call(1, conversation(2), completion({"content": "Yes."}))
            log.begin("wait", "go")
            transition(c, self.run, log.epoch, RunState.SUSPENDED, 120.0)

        self.write(write)

    def go_on(self) -> None:
        def write(c: Connection) -> None:
            log = Log(c, self.run, None, 130.0)  # type: ignore[arg-type]
            log.end("wait:go#1", {"approved": True})
            log.epoch = claim(c, self.run, 140.0)
            log.now = 141.0
            log.begin("step", "cut off")
            failed = {"type": "KeyError", "message": "x"}
            transition(c, self.run, log.epoch, RunState.FAILED, 150.0, error=failed)

        self.write(write)

    def at(self, when: float) -> None:
        self.clock.skip(when - self.clock.now())

    def close(self) -> None:
        self.runner.close()
        self.store.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "torpor.db")
    yield world
    world.close()


FIRST = ["step search", "step search", "chat gpt", "machine 1"]
SECOND = ["wait go", "step cut off", "machine 2", "invoke_agent asker"]


def test_each_turn_is_told_when_it_is_over(world: World) -> None:
    assert world.look() == []  # what was before it was switched on is not told
    world.begin()
    world.at(115.0)
    assert world.look() == []
    world.at(125.0)
    assert world.look() == FIRST
    one, two, call, machine = list(world.sent)
    assert world.look() == []
    assert one.id != two.id and one.parent == call.parent == machine.id
    assert two.error == "ValueError: no luck" and two.attributes["error.type"] == "ValueError"
    told = {key: value for key, value in call.attributes.items() if key.startswith("gen_ai.")}
    assert call.client and told == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt",
        "gen_ai.response.model": "gpt-2025-01-01",
        "gen_ai.usage.input_tokens": 1000,
        "gen_ai.usage.output_tokens": 100,
        "gen_ai.response.finish_reasons": ["stop"],
    }
    assert (machine.began, machine.ended, machine.parent) == (
        101.0,
        120.0,
        span_id(world.run, "run"),
    )
    world.go_on()
    world.at(160.0)
    assert world.look() == SECOND
    wait, cut_off, second, root = world.sent
    # It began before the freeze and ended after it; the second turn follows the first.
    assert wait.parent == machine.id and (wait.began < 120.0 < wait.ended)
    assert second.links == (machine.id,)
    assert cut_off.error == "the run ended before it did"
    assert root.parent is None and (root.began, root.ended) == (100.0, 150.0)
    assert root.error == "KeyError: x" and root.attributes["gen_ai.agent.name"] == "asker"


def test_an_answer_while_it_sleeps_is_told_though_nobody_looked_in_time(world: World) -> None:
    world.look()
    world.begin()
    world.at(137.0)  # after the answer, before the run goes on
    world.go_on()
    assert world.look() == FIRST
    world.at(160.0)
    assert world.look() == SECOND


def test_a_collector_that_is_away_hears_of_it_later(world: World) -> None:
    world.look()
    world.begin()
    world.away = True
    world.at(125.0)
    assert world.runner.run(world.telemetry.look()) == 0
    world.away = False
    assert world.look() == FIRST
    # The next server goes on from there.
    world.telemetry = Telemetry(world.store, world, world.clock)
    assert world.look() == []


class Collector(HTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[ExportTraceServiceRequest] = []


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_they_arrive_over_otlp(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with Collector() as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{collector.server_port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        assert wanted()
        world.telemetry = Telemetry(world.store, Otlp(), world.clock)
        world.runner.run(world.telemetry.look())
        world.begin()
        world.at(125.0)
        assert world.runner.run(world.telemetry.look()) == len(FIRST)
        collector.shutdown()
    [request] = collector.requests
    [resource] = request.resource_spans
    named = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert named["service.name"] == "torpor"
    told = [span for scope in resource.scope_spans for span in scope.spans]
    assert [span.name for span in told] == FIRST
    assert {span.trace_id for span in told} == {trace_id(world.run).to_bytes(16)}
    assert told[0].start_time_unix_nano == 102 * 10**9
    assert told[0].parent_span_id == told[3].span_id


def test_without_its_packages_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(Missing, match="OpenTelemetry"):
        Otlp()
    assert not wanted({})
