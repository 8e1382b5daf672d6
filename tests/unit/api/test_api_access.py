"""Who may ask for what, over TCP: keys, scopes, what they are restricted to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import Mount, Route

from torpor.api.access import ROUTES, On
from torpor.api.app import create_app
from torpor.api.public import Outside
from torpor.control.service.keys import ApiKeys
from torpor.core.access import RESTRICTABLE, Grant, Scope, digest, parse_key
from torpor.core.errors import Forbidden, Invalid, NotFound, Unauthorized
from torpor.core.home import Home
from torpor.service.keys import NewKey
from torpor.service.runs import Run, RunRequest
from torpor.service.waits import Wait, WaitFilter
from torpor.testing.clock import ManualClock
from torpor.testing.fakes.service import VERSION, MemoryService

pytestmark = pytest.mark.anyio

# What has keys of its own, or shows nothing of anybody's.
ELSEWHERE = {"/ui", "/w", "/docs", "/openapi.json"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def service(home: Home) -> AsyncIterator[MemoryService]:
    service = await MemoryService.open(home)
    yield service
    await service.stop()


@pytest.fixture
def app(service: MemoryService) -> FastAPI:
    return create_app(service)


@pytest.fixture
async def outside(app: FastAPI, service: MemoryService) -> AsyncIterator[httpx.AsyncClient]:
    # What the service in memory lacks fails; but whoever may not ask does not come so far.
    entrance = Outside(service, app)
    transport = httpx.ASGITransport(entrance, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://torpor") as client:
        yield client


async def key(service: MemoryService, *scopes: Scope, **options: Any) -> dict[str, str]:
    made = await service.keys.create("test", scopes, **options)
    return {"authorization": f"Bearer {made['key']}"}


async def asked(service: MemoryService, run: Run) -> Wait:
    """The run's wait, once it has come to it."""
    for _ in range(100):
        if waits := await service.waits.list(WaitFilter(run["id"])):
            return waits[0]
        await asyncio.sleep(0)
    raise AssertionError("it does not wait")


async def test_every_route_is_in_the_table_and_the_table_has_no_other(app: FastAPI) -> None:
    """A new route needs a line in `torpor.api.access.ROUTES`; without one it is refused."""
    described = {
        (method.upper(), path)
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }
    assert described == set(ROUTES)
    for route in app.routes:
        if isinstance(route, Mount) or (isinstance(route, Route) and not route.include_in_schema):
            assert route.path in ELSEWHERE, f"{route.path}: who may ask for it?"


async def test_what_a_restricted_key_may_not_have_is_about_everything() -> None:
    for route, need in ROUTES.items():
        if need.scope not in RESTRICTABLE:
            assert need.on is On.ALL, route


@pytest.mark.parametrize("route", [*sorted(ROUTES), ("GET", "/openapi.json"), ("GET", "/v1/no")])
async def test_nothing_is_answered_without_a_key(
    outside: httpx.AsyncClient, route: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    method, path = route
    caplog.set_level(logging.WARNING)
    for headers in ({}, {"authorization": "Bearer torpor_1_x"}, {"authorization": "Basic eA=="}):
        caplog.clear()
        answer = await outside.request(method, path, headers=headers)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["code"] == "unauthorized"
        assert f"refused {method}" in caplog.text and "torpor_1_x" not in caplog.text


@pytest.mark.parametrize("route", sorted(ROUTES), ids=" ".join)
async def test_a_route_needs_its_scope_or_admin(
    outside: httpx.AsyncClient,
    service: MemoryService,
    route: tuple[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    method, path = route
    path = path.replace("{", "").replace("}", "")
    for scope in Scope:
        caplog.clear()
        allowed = scope in (ROUTES[route].scope, Scope.ADMIN)
        if allowed and path == "/v1/shutdown":
            continue
        answer = await outside.request(method, path, headers=await key(service, scope))
        assert (answer.status_code != 403) is allowed, (scope, answer.text)
        assert answer.status_code != 401
        assert ("refused" in caplog.text) is not allowed


async def test_what_is_public_needs_no_key_and_other_pages_are_not_there(
    outside: httpx.AsyncClient, service: MemoryService
) -> None:
    assert (await outside.get("/w/nothing")).status_code == 404
    admin = await key(service, Scope.ADMIN)
    for path in ("/", "/ui/runs", "/ui/login", "//v1/runs", "/V1/runs", "/ui/%2e%2e/v1/runs"):
        for headers in ({}, admin):
            assert (await outside.get(path, headers=headers)).status_code == 404, path


async def test_the_local_socket_needs_no_key(app: FastAPI) -> None:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://torpor") as client:
        made = await client.post("/v1/keys", json={"name": "ci", "scopes": ["observe"]})
        assert made.status_code == 201
        [listed] = (await client.get("/v1/keys")).json()
        assert "key" not in listed and "digest" not in listed
        assert listed | {"key": made.json()["key"]} == made.json()


async def test_a_key_is_of_no_use_once_it_was_revoked_or_has_expired(
    outside: httpx.AsyncClient, service: MemoryService
) -> None:
    clock = ManualClock()
    service.keys = ApiKeys(service.keys._store, clock)
    transport = httpx.ASGITransport(Outside(service, create_app(service)))
    async with httpx.AsyncClient(transport=transport, base_url="http://torpor") as client:
        short = await key(service, Scope.OBSERVE, expires_s=10)
        made = await service.keys.create("other", [Scope.OBSERVE])
        other = {"authorization": f"bearer {made['key']}"}
        for headers in (short, other):
            assert (await client.get("/v1/runs", headers=headers)).status_code == 200
        clock.skip(10.0)
        expired = await client.get("/v1/runs", headers=short)
        assert expired.status_code == 401 and "expired" in expired.json()["detail"]
        assert (await client.delete("/v1/keys/other", headers=other)).status_code == 403
        await service.keys.revoke("other")
        revoked = await client.get("/v1/runs", headers=other)
        assert revoked.status_code == 401 and "revoked" in revoked.json()["detail"]
    with pytest.raises(NotFound):
        await service.keys.revoke("nobody")


async def test_a_key_for_an_agent_is_for_no_other(
    outside: httpx.AsyncClient, service: MemoryService
) -> None:
    script = {"script": [["approve", "Go?", None], ["return", 1]]}
    mine = await service.runs.start(RunRequest(script, version=VERSION, agent="mine"))
    other = await service.runs.start(RunRequest(script, version=VERSION, agent="other"))
    scopes = (Scope.OBSERVE, Scope.TRIGGER, Scope.OPERATE)
    headers = await key(service, *scopes, agents=["mine"])

    async def ask(method: str, path: str, **options: Any) -> int:
        return (await outside.request(method, path, headers=headers, **options)).status_code

    for run, status in ((mine, 200), (other, 403)):
        for path in ("", "/log", "/snapshots"):
            assert await ask("GET", f"/v1/runs/{run['id']}{path}") == status
        wait = await asked(service, run)
        assert await ask("GET", f"/v1/waits/{wait['id']}") == status
        assert await ask("GET", f"/v1/waits?run={run['id']}") == status
        answered = {"json": {"approved": True}}
        assert await ask("POST", f"/v1/waits/{wait['id']}/complete", **answered) == status
    assert await ask("GET", "/v1/runs?agent=mine") == 200
    assert await ask("GET", "/v1/runs?agent=other") == await ask("GET", "/v1/runs") == 403
    assert await ask("GET", "/v1/waits") == await ask("GET", "/v1/totals") == 403
    for agent, status in (("mine", 201), ("other", 403), (None, 403)):
        body = {"version": VERSION, "agent": agent, "input": script}
        assert await ask("POST", "/v1/runs", json=body) == status
    assert await ask("POST", "/v1/runs", content=b"{") == 403
    assert await ask("GET", "/v1/runs/nothing") == 404
    for scope in (Scope.ADMIN, Scope.QUERY, Scope.DEPLOY):
        with pytest.raises(Invalid, match="restricted"):
            await service.keys.create("too much", [scope], agents=["mine"])


async def test_tokens_for_one_run_and_for_one_wait(
    outside: httpx.AsyncClient, service: MemoryService
) -> None:
    """The rows are real; whether there is such a run is the service's to know."""
    script = {"script": [["approve", "Go?", None], ["return", 1]]}
    run = await service.runs.start(RunRequest(script, version=VERSION))
    other = await service.runs.start(RunRequest(script, version=VERSION))
    wait, another = await asked(service, run), await asked(service, other)
    keep, observe, operate = service.keys._keep, Scope.OBSERVE, Scope.OPERATE
    of_run = await keep("token", [observe], run=run["id"], expires_s=60)
    of_wait = await keep("token", [observe, operate], wait=wait["id"], expires_s=60)

    async def ask(made: NewKey, method: str, path: str, **options: Any) -> int:
        headers = {"authorization": f"Bearer {made['key']}"}
        return (await outside.request(method, path, headers=headers, **options)).status_code

    assert await ask(of_run, "GET", f"/v1/runs/{run['id']}") == 200
    assert await ask(of_run, "GET", f"/v1/runs/{run['id']}/log") == 200
    assert await ask(of_run, "GET", f"/v1/waits/{wait['id']}") == 200
    yes = {"json": {"approved": True}}
    assert await ask(of_run, "POST", f"/v1/waits/{wait['id']}/complete", **yes) == 403
    assert await ask(of_run, "POST", f"/v1/runs/{run['id']}/cancel") == 403
    assert await ask(of_run, "GET", f"/v1/runs/{other['id']}") == 403
    for path in ("/v1/runs", "/v1/waits", "/v1/agents", "/metrics", f"/v1/waits/{another['id']}"):
        assert await ask(of_run, "GET", path) == 403, path
    assert await ask(of_wait, "GET", f"/v1/waits/{wait['id']}") == 200
    for path in (f"/v1/runs/{run['id']}", f"/v1/waits/{another['id']}"):
        assert await ask(of_wait, "GET", path) == 403, path
    assert await ask(of_wait, "POST", f"/v1/runs/{run['id']}/cancel") == 403
    assert await ask(of_wait, "POST", f"/v1/waits/{another['id']}/complete", **yes) == 403
    assert await ask(of_wait, "POST", f"/v1/waits/{wait['id']}/complete", **yes) == 200
    with pytest.raises(Invalid):
        await service.keys.create_token(None, None, 60)
    with pytest.raises(NotFound):
        await service.keys.create_token("run_nothing", None, 60)


async def test_only_a_hash_of_a_key_is_kept(service: MemoryService, home: Home) -> None:
    made = await service.keys.create("ci", [Scope.OBSERVE])
    parsed = parse_key(made["key"])
    assert parsed is not None
    id, secret = parsed
    assert id == made["id"] and len(secret) >= 43
    files = [path.read_bytes() for path in home.root.glob("torpor.db*")]
    assert any(digest(secret).encode() in each for each in files)
    assert not any(secret.encode() in each for each in files)
    for wrong in (made["key"][:-1], made["key"] + "x", f"torpor_{id}_", secret, "", "torpor__"):
        with pytest.raises(Unauthorized):
            await service.keys.recognize(wrong)


async def test_a_grant_of_nothing_allows_nothing() -> None:
    grant = Grant("nobody", frozenset())
    for scope in Scope:
        with pytest.raises(Forbidden):
            grant.require(scope)
