"""A program that uses every public name, to be read by a type checker and never run.

`make check` reads it against the sources, tests/unit/test_wheel.py against the wheel."""

from __future__ import annotations

import datetime
import random
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_type

import torpor
from torpor.client import Client, Outcome, RunFailed, Unreachable
from torpor.testing import (
    TIMEOUT,
    Answer,
    LogLine,
    ModelRequest,
    Op,
    ToolCall,
    Unanswered,
    Unused,
    Wait,
)
from torpor.testing import Outcome as Played
from torpor.testing import run as play


@dataclass
class Booking:
    place: str
    people: int


@torpor.warm
def import_early() -> None:
    """Before the first run."""


@torpor.on_freeze
def close() -> None:
    """Before each freeze."""


@torpor.on_thaw
async def open_again() -> None:
    """After each."""


@torpor.tool(permission="ask")
def cancel_booking(place: str) -> bool:
    return bool(place)


@torpor.step
def book(place: str, people: int) -> Booking:
    if people > 8:
        raise torpor.NonRetryable("too many")
    if people > 6:
        raise torpor.RetryAfter("1h", "fully booked")
    return Booking(place, people)


@torpor.step(retries=3, backoff="2s", on_doubt="ask", key="place")
async def confirm(place: str) -> str:
    return torpor.run.idempotency_key + place


@torpor.agent
def dinner(place: str, people: int = 2) -> str:
    assert_type(book(place, people), Booking)
    assert_type(book(place, people).people, int)
    allowed = torpor.ask_permission("book", {"place": place}, timeout="1d", reason="hunger")
    assert_type(allowed, torpor.Permission)
    try:
        assert_type(cancel_booking(place), bool)
    except torpor.PermissionDenied as denied:
        torpor.log(denied.action, by=denied.by, reason=denied.reason)
    assert_type(torpor.tools(cancel_booking), torpor.Tools)
    assert_type(torpor.tools(cancel_booking).call("cancel_booking", {"place": place}), str)
    verdict = torpor.approve(f"Book {place}?", data={"people": people}, timeout="7d", tags="table")
    assert_type(verdict, torpor.Verdict)
    assert_type(verdict.approved, bool)
    assert_type(verdict.note, str | None)

    paid = torpor.event("paid", timeout=datetime.timedelta(days=1))
    table = torpor.waitpoint("table", "Which table?", schema={"type": "integer"})
    assert_type(paid, torpor.Waitpoint)
    assert_type(paid.name, str)
    ended = torpor.wait_any(paid, table)
    assert_type(ended, torpor.WaitResult)
    assert_type(ended.timed_out, bool)
    assert_type([each.status for each in torpor.wait_all(paid, table)], list[str])

    child = torpor.spawn(lunch, {"place": place}, queue="food")
    children = torpor.spawn_many("lunch", [{"place": place}])
    assert_type(child, torpor.Child)
    assert_type(children, torpor.Children)
    try:
        child.result()
        children.results()
    except torpor.ChildFailed as error:
        assert_type(error.agent, str)
    except torpor.StepError as error:
        assert_type(error.step, str)
    except (torpor.Cancelled, torpor.Divergence, torpor.OutsideRun) as error:
        torpor.log("gave up", level="warning", why=str(error))
        raise

    torpor.sleep("3d")
    torpor.sleep_until(torpor.now() + datetime.timedelta(hours=1))
    torpor.checkpoint()
    torpor.emit({"place": place})
    assert_type(torpor.now(), datetime.datetime)
    assert_type(torpor.random(), random.Random)
    assert_type(torpor.uuid4(), uuid.UUID)
    published = torpor.artifact(Path("menu.pdf"))
    assert_type(published, torpor.Artifact)
    assert_type(published.digest, str)
    torpor.context.append("user", "Where to?")
    assert_type(torpor.context.window(2000), list[dict[str, Any]])
    assert_type(torpor.context.tokens, int)
    assert_type(torpor.run.id, str)
    assert_type(torpor.run.input, dict[str, Any])
    return torpor.run.agent


@torpor.agent(name="lunch")
async def lunch(place: str) -> str:
    assert_type(await torpor.approve(place), torpor.Verdict)
    assert_type(await torpor.ask_permission(place), torpor.Permission)
    assert_type(await torpor.waitpoint(), torpor.WaitResult)
    await torpor.sleep(1)
    return assert_type(await confirm(place), str)


def start_and_answer() -> str:
    client = Client(url="https://agents.example.com", key="torpor_key")
    try:
        started = client.start(agent="dinner", input={"place": "Rosa"})
        outcome = client.join(started["id"], timeout_s=60)
    except Unreachable as error:
        return assert_type(error.hint, str)
    assert_type(outcome, Outcome)
    try:
        outcome.unwrap()
    except RunFailed as error:
        return assert_type(error.outcome.state, str)
    finally:
        client.close()
    return outcome.id


def reply(request: ModelRequest) -> ToolCall | str:
    return (
        ToolCall("book", {"place": "Rosa"})
        if request.path.endswith("/chat/completions")
        else "Nowhere."
    )


def answer(wait: Wait) -> object:
    return TIMEOUT if wait.kind == "event" else Answer(approved=True, after="2h")


def play_it() -> list[LogLine]:
    try:
        outcome = play(dinner, {"place": "Rosa"}, answers=answer, models=reply)
    except (Unanswered, Unused):
        return []
    assert_type(outcome, Played)
    assert_type(outcome.operations, list[Op])
    outcome.replay_all()
    return outcome.log
