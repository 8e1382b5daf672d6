"""How what an agent asks for on the network is shown: in logs, traces, the dashboard and spans."""

from __future__ import annotations

from typing import Any

import pytest

from torpor.cli import timeline as cli_timeline
from torpor.cli.logs import entry_text
from torpor.control.observe.spans import spans
from torpor.dashboard.timeline import BAD, BUSY, GOOD, Timeline

URL = "https://api.github.com/repos/acme/site/issues?q=secret-words"
GET = {"id": "7", "method": "GET", "url": URL, "rule": "host api.github.com", "secret": "GITHUB"}
DONE = {"id": "7", "status": 200, "sent": 0, "received": 512, "ms": 31}
MISSING = DONE | {"status": 404}
BROKEN = {"id": "7", "sent": 0, "received": 3, "ms": 4, "problem": "the host closed it"}
REFUSED = {"method": "POST", "url": "https://evil.test/x", "code": "no_rule"}
WHY = 'no rule allows evil.test. Add [[tool.torpor.egress]] host = "evil.test" to the file.'


def entries(*given: tuple[str, dict[str, Any]], op: str | None = None) -> list[dict[str, Any]]:
    return [
        {"seq": n, "at": 10.0 + n, "epoch": 1, "kind": kind, "op": op, "data": data}
        for n, (kind, data) in enumerate(given, 1)
    ]


PLAIN = entries(
    ("run.started", {}),
    ("egress.request", GET),
    ("egress.end", DONE),
    ("egress.refused", REFUSED | {"reason": WHY}),
)


def test_a_log_says_what_line_to_add() -> None:
    request, end, refused = map(entry_text, PLAIN[1:])
    assert request == f"7  GET {URL} (rule host api.github.com, secret GITHUB)"
    assert end == "7  HTTP 200 in 31 ms, 0 B sent, 512 B received"
    assert refused == f"POST https://evil.test/x was refused: {WHY}"
    [broken] = entries(("egress.end", BROKEN))
    assert entry_text(broken).endswith("3 B received: the host closed it")


def test_a_trace_has_requests_among_operations() -> None:
    read = cli_timeline.read(PLAIN)
    request, refused = read.machines[0].items
    assert isinstance(request, cli_timeline.Operation)
    assert isinstance(refused, cli_timeline.Operation)
    assert (request.op, request.ok, request.ended_at) == (f"GET {URL}", True, 13.0)
    assert request.way == " (rule host api.github.com, secret GITHUB)"
    assert (refused.ok, refused.outcome) == (False, f"refused: {WHY}")


@pytest.mark.parametrize(("end", "outcome"), [(MISSING, "HTTP 404"), (BROKEN, BROKEN["problem"])])
def test_a_request_that_came_to_nothing(end: dict[str, Any], outcome: str) -> None:
    log = entries(("run.started", {}), ("egress.request", GET), ("egress.end", end))
    (request,) = cli_timeline.read(log).machines[0].items
    assert isinstance(request, cli_timeline.Operation)
    assert (request.ok, request.outcome) == (False, outcome)
    *_, item = Timeline.of(log).items.values()
    assert item.tone == BAD


def test_the_page_of_a_run_has_them() -> None:
    under_way = list(Timeline.of(PLAIN[:2]).items.values())[-1]
    assert (under_way.title, under_way.tone) == (f"GET {URL}"[:80], BUSY)
    _, request, refused = Timeline.of(PLAIN).items.values()
    assert (request.kind, request.tone, request.figures) == ("request", GOOD, ("HTTP 200", "31 ms"))
    assert request.blocks[0].text == "rule: host api.github.com\nsecret: GITHUB"
    assert (refused.kind, refused.tone) == ("request", BAD)
    assert refused.brief.startswith("refused: no rule allows evil.test")


def test_a_recorded_request_shows_how_it_was_let_out() -> None:
    data = {"scheme": "https", "host": "a.test", "port": 443, "method": "PUT", "path": "/v1?q=1"}
    begin = {"kind": "http", "name": "a.test/v1@01", "digest": "d", "data": data}
    out = {"rule": "host a.test", "ms": 12, "sent": 2, "received": 7}
    end = {"ok": True, "value": {"status": 201, "headers": {}, "body": ""}, "egress": out}
    log = entries(("op.begin", begin), ("op.end", end), op="http:a.test/v1@01#1")
    (item,) = Timeline.of(log).items.values()
    assert (item.kind, item.title, item.tone) == ("request", "PUT https://a.test/v1?q=1", GOOD)
    assert "rule: host a.test" in [block.text for block in item.blocks]
    (machine,) = cli_timeline.read(log).machines
    (operation,) = machine.items
    assert isinstance(operation, cli_timeline.Operation)
    assert operation.way == " (rule host a.test)"


def test_spans_of_requests_are_a_clients_and_have_no_queries() -> None:
    run = {"id": "run_1", "agent": "a", "version": "v", "engine": "qemu", "created_at": 10.0}
    log = [*PLAIN, *entries(("run.completed", {}))]
    log[-1]["at"] = 20.0
    request, refused, _, _ = spans(run, log)
    assert (request.name, request.client, request.error) == ("GET api.github.com", True, None)
    assert request.attributes["url.path"] == "/repos/acme/site/issues"
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["torpor.egress.secret"] == "GITHUB"
    assert not any("secret-words" in str(value) for value in request.attributes.values())
    assert (refused.name, refused.error) == ("POST evil.test", WHY)
    # What has no end ends with the run
    request, *_ = spans(run, [*PLAIN[:2], log[-1]])
    assert (request.ended, request.error) == (20.0, "the run ended before it did")
