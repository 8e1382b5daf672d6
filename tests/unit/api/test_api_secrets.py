"""Secrets over HTTP: written by who may, and never given back, not even in an error."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.unit.api.test_api_access import key

from torpor.api.app import create_app
from torpor.api.public import Outside
from torpor.core.access import Scope
from torpor.core.home import Home
from torpor.testing.fakes.service import MemoryService

pytestmark = pytest.mark.anyio

VALUE = "api-4c1f-value-9b"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def service(home: Home) -> AsyncIterator[MemoryService]:
    service = await MemoryService.open(home)
    yield service
    await service.stop()


@pytest.fixture
async def outside(service: MemoryService) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(Outside(service, create_app(service)), client=("10.1.2.3", 9))
    async with httpx.AsyncClient(transport=transport, base_url="http://torpor") as client:
        yield client


async def test_no_answer_has_a_value(outside: httpx.AsyncClient, service: MemoryService) -> None:
    admin = await key(service, Scope.ADMIN)
    terms = {"hosts": ["a.example"], "placement": {"query": "k"}, "agents": ["x"]}
    made = await outside.put("/v1/secrets/T", headers=admin, json={"value": VALUE, **terms})
    assert made.status_code == 200, made.text
    assert made.json()["unknown_agents"] == ["x"]
    assert made.json()["set_by"].startswith("key ")
    answers = [made]
    odd: list[Any] = [
        {"value": VALUE, "hosts": ["a.example"], "extra": VALUE},
        {"value": [VALUE], "hosts": ["a.example"]},
        {"value": VALUE, "hosts": VALUE},
        {"value": VALUE, "hosts": ["a.example"], "placement": {"header": "no"}},
        {"value": VALUE * 2000, "hosts": ["a.example"]},
        {"value": f"{VALUE}\n{VALUE}", "hosts": ["a.example"]},
        [VALUE],
        {},
    ]
    for body in odd:
        refused = await outside.put("/v1/secrets/T", headers=admin, json=body)
        assert refused.status_code in (400, 422), refused.text
        answers.append(refused)
    cut = json.dumps({"value": VALUE})[:-1]
    answers.append(await outside.put("/v1/secrets/T", headers=admin, content=cut))
    rotated = await outside.post("/v1/secrets/T/rotate", headers=admin, json={"value": VALUE})
    answers += [rotated, await outside.get("/v1/secrets", headers=admin)]
    answers.append(await outside.delete("/v1/secrets/T", headers=admin))
    changes = await outside.get("/v1/secret-changes?name=T", headers=admin)
    assert [each["what"] for each in changes.json()] == ["set", "rotated", "removed"]
    assert {each["whence"] for each in changes.json()} == {"10.1.2.3"}
    answers.append(changes)
    assert all(VALUE[:8] not in answer.text for answer in answers)
    # There is no way to one secret, whatever its method.
    assert (await outside.get("/v1/secrets/T", headers=admin)).status_code == 405


@pytest.mark.parametrize("scope", [scope for scope in Scope if scope is not Scope.ADMIN])
async def test_they_are_the_administrator_s(
    outside: httpx.AsyncClient, service: MemoryService, scope: Scope
) -> None:
    mine = await key(service, scope)
    for method, path in (
        ("GET", "/v1/secrets"),
        ("GET", "/v1/secret-changes"),
        ("PUT", "/v1/secrets/T"),
        ("POST", "/v1/secrets/T/rotate"),
        ("DELETE", "/v1/secrets/T"),
    ):
        refused = await outside.request(method, path, headers=mine, json={"value": VALUE})
        assert refused.status_code == 403
    assert await service.secrets.list() == []
