"""A log of format 1 keeps replaying.

`log-1.jsonl` is what `torpor logs RUN --json` gave of a run of `log_agent.py` on a real machine, an
entry a line. That machine was killed in the middle of a step; the step was asked about, and run
again. `log-talk-1.jsonl` is of `talk_agent.py`, by the engine `process`, killed once between two
turns: conversations, events and children are younger. No machine here: the log goes through the
database, the agent's process through the runtime.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert, update
from tests.unit.guest.conftest import Driver

from torpor.contextlog import agents, runs, schema
from torpor.contextlog.entries import journal
from torpor.core.ids import AgentVersion, RunId
from torpor.logstore.migrate import prepare
from torpor.logstore.sqlite import make_engine

HERE = Path(__file__).parent
SOURCE = (HERE / "log_agent.py").read_text()
ENTRIES = [json.loads(line) for line in (HERE / "log-1.jsonl").read_text().splitlines()]
TALK = [json.loads(line) for line in (HERE / "log-talk-1.jsonl").read_text().splitlines()]
RESULT = ENTRIES[-1]["data"]["result"]
READ = slice(7, 10)  # of the result: what came of the time and chance

Object = dict[str, Any]


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = make_engine(tmp_path / "log.db", connections=1, begin="BEGIN IMMEDIATE")
    with engine.begin() as c:
        prepare(c)
        yield c
    engine.dispose()


def records(c: Connection, log: list[Object]) -> list[Object]:
    """The journal of a run with this log."""
    version = AgentVersion("f" * 32)
    agents.put_agent(
        c,
        agents.NewAgent(
            engine="qemu", version=version, name="a", entry="a.py", source=b"", spec={}
        ),
        1.0,
    )
    run = runs.create_run(c, version=version, agent=None, input={}, now=1.0).id
    rows = [{**entry, "run": run} for entry in log[1:]]  # it has its own first
    c.execute(insert(schema.entries), rows)
    c.execute(update(schema.runs).where(schema.runs.c.id == RunId(run)).values(last_seq=len(log)))
    return [{k: v for k, v in r.items() if k != "printed"} for r in journal(c, run, 0)]


def ops(kind: str, upto: int | None = None) -> set[str]:
    return {entry["op"] for entry in ENTRIES[:upto] if entry["kind"] == kind}


def test_the_log_is_a_whole_one() -> None:
    kinds = {entry["kind"] for entry in ENTRIES}
    assert {"run.created", "op.again", "run.recovered", "run.suspended", "run.completed"} <= kinds
    begun = {entry["data"]["kind"] for entry in ENTRIES if entry["kind"] == "op.begin"}
    assert begun == {"step", "read", "model", "checkpoint", "wait", "sleep", "doubt"}


def test_it_replays_whole(connection: Connection, tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    try:
        assert driver.value(SOURCE, journal=records(connection, ENTRIES), most=3) == RESULT
        assert not driver.said("begin")
    finally:
        driver.close()


def test_conversations_events_and_children_replay(connection: Connection, tmp_path: Path) -> None:
    begun = {entry["data"]["kind"] for entry in TALK if entry["kind"] == "op.begin"}
    assert begun == {"step", "context", "event", "child", "wait"}
    assert any(entry["kind"] == "run.recovered" for entry in TALK)
    driver = Driver(tmp_path)
    try:
        source = (HERE / "talk_agent.py").read_text()
        value = driver.value(source, journal=records(connection, TALK), turns=3)
        assert value == TALK[-1]["data"]["result"]
        assert not driver.said("begin")
    finally:
        driver.close()


def cuts() -> list[int]:
    """After the first operation, in the middle of side lines, asleep, in doubt, before the end."""
    ends = [i for i, entry in enumerate(ENTRIES, 1) if entry["kind"] == "op.end"]
    lost = next(i for i, entry in enumerate(ENTRIES) if entry["kind"] == "run.recovered")
    return [ends[0], ends[5], ends[len(ends) // 2], lost, ends[-2]]


@pytest.mark.parametrize("upto", cuts())
def test_its_beginning_replays_and_the_rest_happens(
    connection: Connection, tmp_path: Path, upto: int
) -> None:
    outcomes = {entry["op"]: entry["data"] for entry in ENTRIES if entry["kind"] == "op.end"}

    def answer(begin: Object) -> Any:
        # Cut off in the repeat, it is asked about a second time.
        return outcomes[begin["op"].replace("pay#1#2", "pay#1#1")]["value"]

    driver = Driver(tmp_path)
    driver.answer = answer
    try:
        value = driver.value(SOURCE, journal=records(connection, ENTRIES[:upto]), most=3)
    finally:
        driver.close()
    if ops("op.end", upto) >= {op for op in outcomes if op.startswith("read:")}:
        assert value == RESULT
    else:
        value[READ] = RESULT[READ]
        assert value == RESULT
    happened = {each["op"] for each in driver.said("begin")}
    asked = {op for op in ops("op.begin") - ops("op.end", upto) if not op.startswith("doubt:")}
    assert happened - {op for op in happened if op.startswith("doubt:")} == asked
