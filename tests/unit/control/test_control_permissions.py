"""Permissions, through the real service, worker and log: attempts 44 and 45 where people decide."""

from __future__ import annotations

from typing import Any

import pytest

from torpor.control.service.service import Service
from torpor.core.errors import Conflict, Invalid
from torpor.core.states import RunState
from torpor.service.waits import Answer, WaitFilter
from torpor.testing.fakes.world import World

pytestmark = pytest.mark.anyio


@pytest.fixture
def service(world: World) -> Service:
    service = Service(world.home, world.store)
    service._engines.scheduler = world.scheduler
    return service


async def test_a_run_is_frozen_until_a_person_has_decided(world: World, service: Service) -> None:
    run = await world.run([["permission", "refund"]])
    await world.asleep(run)
    (wait,) = await service.waits.list(WaitFilter(run))
    assert (wait["kind"], wait["approve"]) == ("permission", True)
    assert wait["prompt"] == 'refund {"n": 1}'
    shown: Any = wait["data"]
    assert (shown["action"], shown["arguments"]) == ("refund", '{\n  "n": 1\n}')
    assert await service.waits.action(wait["id"]) == 'refund\n{\n  "n": 1\n}\n'
    bad = (None, True, "once", {"decision": "ever"}, {"decision": "once", "x": 1})
    for data in bad:
        with pytest.raises(Invalid):
            await service.waits.complete(wait["id"], Answer(data))
    with pytest.raises(Invalid, match="but the decision is deny"):
        await service.waits.complete(wait["id"], Answer({"decision": "deny"}, True))
    with pytest.raises(Invalid, match="different things"):
        answer = Answer({"decision": "deny", "reason": "a"}, note="b")
        await service.waits.complete(wait["id"], answer)
    await service.waits.complete(wait["id"], Answer(None, False, "no", "ada", "a test"))
    with pytest.raises(Conflict, match="by ada"):
        await service.waits.complete(wait["id"], Answer({"decision": "once"}))
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED
    value: Any = (await service.waits.get(wait["id"]))["value"]
    assert value["data"] == {"decision": "deny", "reason": "no"}
    assert (value["approved"], value["note"], value["by"]) == (False, "no", "ada")
    (ended,) = await world.entries(run, "wait.completed")
    assert ended.data["origin"] == "a test"


async def test_a_decision_for_the_run_is_remembered_and_said_to_be(
    world: World, service: Service
) -> None:
    run = await world.run([["permission", "refund"]], [["permission", "refund "]])
    await world.asleep(run)
    first, other = await service.waits.list(WaitFilter(run))
    await service.waits.complete(first["id"], Answer({"decision": "run"}, by="ada"))
    await world.asleep(run)
    (left,) = await service.waits.list(WaitFilter(run))
    assert left["id"] == other["id"]
    await service.waits.complete(other["id"], Answer(approved=True))
    assert (await world.ended(run)).state is RunState.COMPLETED


async def test_only_permissions_have_an_action(world: World, service: Service) -> None:
    run = await world.run([["wait", "a"]])
    await world.asleep(run)
    (wait,) = await service.waits.list(WaitFilter(run))
    with pytest.raises(Conflict, match="is no permission"):
        await service.waits.action(wait["id"])
