"""The view `egress`: what went out, and what was refused, of a run whose log is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from tests.unit.query.conftest import PRICES, VERSION, Ask, Log, completion, fork

from torpor.contextlog import egress
from torpor.contextlog.agents import NewAgent, put_agent
from torpor.contextlog.runs import claim, create_run, transition
from torpor.contextlog.spent import spent
from torpor.contextlog.waits import NewWait, answer_wait, complete_wait, create_wait
from torpor.core.ids import OpId, RunId
from torpor.core.states import RunState
from torpor.logstore.sqlite import SqliteStore
from torpor.query.ask import Asking, Question

GITHUB = "https://api.github.com/repos/acme/site/issues?state=open"


def write(log: Log, kind: str, **data: Any) -> None:
    entry = egress.entry(kind, **data)
    log.entry(entry.kind, entry.op, dict(entry.data))


def fill(c: Connection) -> RunId:
    rules = {"budget": {"cost": "2 USD", "requests": 100, "ask": True}}
    agent = NewAgent(
        engine="qemu", version=VERSION, name="a", entry="a.py", source=b"", spec={"rules": rules}
    )
    put_agent(c, agent, 1.0)
    run = create_run(c, version=VERSION, agent="a", input={}, now=99.0).id
    log = Log(c, run, claim(c, run, 100.0))
    allowed = {"method": "GET", "url": GITHUB, "rule": "host api.github.com", "secret": "GITHUB"}
    write(log, egress.REQUEST, id="1", **allowed)  # at 101
    write(log, egress.REQUEST, id="2", method="", url="tcp://db:5432", rule="host db")
    write(log, egress.ENDED, id="1", status=200, sent=0, received=512, ms=31, cost=0.25)
    write(
        log,
        egress.REFUSED,
        method="POST",
        url="https://evil.test:8443/x",
        code="denied",
        reason="no rule allows it",
    )
    write(log, egress.REFUSED, name="evil.test", code="name", reason="no rule names it", times=9)
    log.call(1, [{"role": "user", "content": "Hi"}], completion({"content": "Hello."}))
    log.call(2, [{"role": "user", "content": "Hm"}], "no tokens")
    exchange: dict[str, Any] = {"scheme": "https", "host": "a.test", "port": 443, "path": "/v1?q=1"}
    log.begin("http", "a.test/v1@01", method="PUT", headers={}, body="{}", **exchange)
    out = {"rule": "host a.test", "address": "192.0.2.1", "ms": 12, "sent": 2, "received": 7}
    out["used"] = {"requests": 1, "tokens": 10, "cost": 0.5}
    value = {"status": 201, "headers": {}, "body": "created"}
    log.entry("op.end", "http:a.test/v1@01#1", {"ok": True, "value": value, "egress": out})
    return run


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunId, RunId]:
    path = tmp_path_factory.mktemp("egress") / "torpor.db"
    store = SqliteStore.open(path)

    async def make() -> tuple[RunId, RunId]:
        run = await store.write(fill)
        return run, await store.write(lambda c: fork(c, run))

    run, made = asyncio.run(make())
    store.close()
    return path, run, made


@pytest.fixture
def ask(filled: tuple[Path, RunId, RunId]) -> Ask:
    def ask(sql: str, *parameters: Any) -> Any:
        return asyncio.run(Asking(filled[0]).ask(Question(sql, parameters), PRICES))

    return ask


@pytest.mark.parametrize("which", [1, 2])  # the run, and a fork that shares it all
def test_each_class_of_exchange_is_a_row(
    ask: Ask, filled: tuple[Path, RunId, RunId], which: int
) -> None:
    sql = (
        "SELECT verdict, method, url, host, path, status, rule, secret, sent_bytes, "
        "received_bytes, ms, at FROM egress WHERE run = ? ORDER BY seq"
    )
    model = "http://model.torpor/v1/chat/completions"
    rows = ask(sql, filled[which]).rows
    assert [row[:-4] for row in rows] == [
        [
            *("allow", "GET", GITHUB, "api.github.com", "/repos/acme/site/issues"),
            *(200, "host api.github.com", "GITHUB"),
        ],
        ["allow", None, "tcp://db:5432", "db", None, None, "host db", None],
        ["deny", "POST", "https://evil.test:8443/x", "evil.test", "/x", None, None, None],
        ["deny", None, None, "evil.test", None, None, None, None],
        *[["allow", "POST", model, "model.torpor", "/v1/chat/completions", 200, None, None]] * 2,
        ["allow", "PUT", "https://a.test/v1?q=1", "a.test", "/v1", 201, "host a.test", None],
    ]
    assert rows[0][-4:] == [0, 512, 31, 101.0]
    assert rows[1][-4:-1] == [None, None, None]
    assert rows[6][-4:-1] == [2, 7, 12]


def test_refusals_say_why_and_calls_what_they_cost(
    ask: Ask, filled: tuple[Path, RunId, RunId]
) -> None:
    sql = "SELECT code, reason, times FROM egress WHERE run = ? AND verdict = 'deny' ORDER BY seq"
    assert ask(sql, filled[1]).rows == [
        ["denied", "no rule allows it", 1],
        ["name", "no rule names it", 9],
    ]
    sql = "SELECT round(sum(cost_usd), 6), count(cost_usd) FROM egress WHERE run = ?"
    assert ask(sql, filled[1]).rows == [[0.003, 1]]


def test_why_a_recorded_answer_was_cut_off(tmp_path: Path) -> None:
    def fill(c: Connection) -> RunId:
        agent = NewAgent(
            engine="qemu", version=VERSION, name="a", entry="a.py", source=b"", spec={}
        )
        put_agent(c, agent, 1.0)
        run = create_run(c, version=VERSION, agent="a", input={}, now=99.0).id
        log = Log(c, run, claim(c, run, 100.0))
        log.begin("http", "a.test/1@01", scheme="https", host="a.test", port=443, path="/1")
        value = {"status": 201, "headers": {}, "body": "", "cut": "the secret KEY is in it"}
        log.entry("op.end", "http:a.test/1@01#1", {"ok": True, "value": value})
        return run

    path = tmp_path / "torpor.db"
    store = SqliteStore.open(path)
    asyncio.run(store.write(fill))
    store.close()
    sql = "SELECT path, status, reason FROM egress"
    rows = asyncio.run(Asking(path).ask(Question(sql), PRICES)).rows
    assert rows == [["/1", 201, "the secret KEY is in it"]]


def test_who_permitted_a_request_when_and_from_where(tmp_path: Path) -> None:
    """Attempts that a person decides about: one allowed, one denied, one not decided."""
    request = {"scheme": "https", "host": "a.test", "port": 443, "method": "POST"}
    request |= {"headers": {}, "body": "{}"}

    def fill(c: Connection) -> RunId:
        agent = NewAgent(
            engine="qemu", version=VERSION, name="a", entry="a.py", source=b"", spec={}
        )
        put_agent(c, agent, 1.0)
        run = create_run(c, version=VERSION, agent="a", input={}, now=99.0).id
        log = Log(c, run, claim(c, run, 100.0))
        for n, decision in enumerate(("once", "deny", None), 1):
            action = {"request": {**request, "target": f"/{n}"}}
            op, name = OpId(f"permission:p{n}#1"), f"p{n}"
            new = NewWait(op, name, "d" * 32, "permission", data=action, approve=True)
            wait = create_wait(c, run, log.epoch, new, 110.0)
            if decision is not None:
                value = {"data": {"decision": decision}, "approved": decision != "deny"}
                answer_wait(c, wait, value=value, now=120.0, by="ana", origin="its link, from ::1")
        allowed: Any = {key: request[key] for key in ("scheme", "host", "port", "method")}
        allowed |= {"headers": {}, "body": "{}", "path": "/1", "permission": "permission:p1#1"}
        log.begin("http", "a.test/1@01", **allowed)
        return run

    path = tmp_path / "torpor.db"
    store = SqliteStore.open(path)
    asyncio.run(store.write(fill))
    store.close()
    sql = (
        "SELECT path, verdict, permitted_by, permitted_at, permitted_from FROM egress ORDER BY path"
    )
    assert asyncio.run(Asking(path).ask(Question(sql), PRICES)).rows == [
        ["/1", "allow", "ana", 120.0, "its link, from ::1"],
        ["/2", "deny", "ana", 120.0, "its link, from ::1"],
        ["/3", "ask", None, None, None],
    ]


def view(tmp_path: Path, sql: str, fill: Callable[[Connection, Log], None]) -> list[list[Any]]:
    """What the view says of a run with this log."""

    def write(c: Connection) -> None:
        agent = NewAgent(
            engine="qemu", version=VERSION, name="a", entry="a.py", source=b"", spec={}
        )
        put_agent(c, agent, 1.0)
        run = create_run(c, version=VERSION, agent="a", input={}, now=99.0).id
        fill(c, Log(c, run, claim(c, run, 100.0)))

    path = tmp_path / "torpor.db"
    store = SqliteStore.open(path)
    asyncio.run(store.write(write))
    store.close()
    return [list(row) for row in asyncio.run(Asking(path).ask(Question(sql), PRICES)).rows]


ASKED: dict[str, Any] = {"scheme": "https", "host": "a.test", "port": 443, "headers": {}}


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (RunState.CANCELLED, "the run was cancelled before its end was in the log"),
        (RunState.FAILED, "the run ended before its end was in the log"),
        (None, None),
    ],
)
def test_what_was_under_way_ended_with_its_run(
    tmp_path: Path, state: RunState | None, why: str | None
) -> None:
    def fill(c: Connection, log: Log) -> None:
        log.begin("http", "a.test/1@01", method="GET", path="/1", **ASKED)
        log.begin("model", "/v1/x@01", method="POST", path="/v1/x", headers={}, body="{}")
        write(log, egress.REQUEST, id="1", method="GET", url="https://a.test/2", rule="host a.test")
        if state is not None:
            error = {"type": "E", "message": "m"} if state is RunState.FAILED else None
            transition(c, log.run, log.epoch, state, 500.0, error=error)

    sql = "SELECT verdict, status, code, reason, ended_at FROM egress"
    ended = None if state is None else 500.0
    code = None if state is None else "cancelled"
    assert view(tmp_path, sql, fill) == [["allow", None, code, why, ended]] * 3


def test_a_recorded_request_that_was_refused_is_one_row(tmp_path: Path) -> None:
    def fill(c: Connection, log: Log) -> None:
        log.begin("http", "a.test/1@01", method="PUT", path="/1", body="{}", **ASKED)
        why = {"code": "denied", "reason": "it is denied by a rule"}
        op = "http:a.test/1@01#1"
        refused = {"method": "PUT", "url": "https://a.test/1", "rule": "host a.test", "op": op}
        write(log, egress.REFUSED, **refused, **why)
        value = {"status": 403, "headers": {}, "body": "it is denied by a rule"}
        out = {"rule": "host a.test", **why}
        log.entry("op.end", op, {"ok": True, "value": value, "egress": out})

    sql = (
        "SELECT op, method, url, verdict, code, reason, rule, times, status, sent_bytes, "
        "received_bytes FROM egress"
    )
    assert view(tmp_path, sql, fill) == [
        [
            *("http:a.test/1@01#1", "PUT", "https://a.test/1"),
            *("deny", "denied", "it is denied by a rule", "host a.test", 1),
            *(None, None, None),
        ]
    ]


def test_a_permission_that_nobody_decided_about_says_so(tmp_path: Path) -> None:
    def fill(c: Connection, log: Log) -> None:
        for n, status in enumerate(("timeout", "cancelled", "completed"), 1):
            action = {"request": {**ASKED, "method": "POST", "target": f"/{n}", "body": "{}"}}
            new = NewWait(OpId(f"permission:p{n}#1"), f"p{n}", "d" * 32, "permission", data=action)
            wait = create_wait(c, log.run, log.epoch, new, 110.0)
            value: dict[str, Any] = {"status": status}
            if status == "completed":
                value["data"] = {"decision": "deny", "reason": "not on a Friday"}
            complete_wait(c, wait.id, value=value, now=120.0)

    assert view(tmp_path, "SELECT verdict, code, reason FROM egress ORDER BY path", fill) == [
        ["deny", "timeout", "nobody decided in time"],
        ["deny", "cancelled", "it was cancelled before anybody decided"],
        ["deny", "denied", "not on a Friday"],
    ]


def test_a_budget_states_what_is_used_of_it(ask: Ask, filled: tuple[Path, RunId, RunId]) -> None:
    sql = "SELECT kind, used, allowed, asks FROM budgets WHERE run = ?"
    used = {
        kind: (amount, allowed, asks) for kind, amount, allowed, asks in ask(sql, filled[1]).rows
    }
    assert used == {
        # A call without tokens counts as one whose price nobody knows.
        "cost": (pytest.approx(0.753 + PRICES.unknown), 2.0, 1),
        "tokens": (1110, None, 1),
        "requests": (5, 100, 1),
        "bytes_out": (2, None, 1),
        "bytes_in": (519, None, 1),
    }
    # A fork has used nothing yet.
    assert [row[1] for row in ask(sql, filled[2]).rows] == [0] * 5


def test_what_the_view_says_is_what_a_run_shows(filled: tuple[Path, RunId, RunId]) -> None:
    store = SqliteStore.open(filled[0])
    try:
        found = asyncio.run(store.read(lambda c: spent(c, filled[1])))
    finally:
        store.close()
    assert (found.requests, found.bytes_out, found.bytes_in, found.tokens) == (5, 2, 519, 1110)
    assert found.cost(PRICES) == pytest.approx(0.753 + PRICES.unknown)
