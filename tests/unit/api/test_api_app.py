"""The endpoints over HTTP, in process."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from torpor.api import limits
from torpor.api.app import create_app
from torpor.client import from_problem
from torpor.client.events import parse_events
from torpor.client.problems import _BY_CODE
from torpor.core.home import Home
from torpor.core.runfiles import FILE_BYTES_MAX
from torpor.service.runs import RunRequest
from torpor.testing.fakes.service import VERSION, MemoryService
from torpor.web.problems import MEDIA_TYPE, problem

FILES = {"agent.py": base64.b64encode(b"print(1)").decode()}
DEPLOY = {"entry": "agent.py", "files": FILES}


def ask(home: Home, talk: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def main() -> None:
        app = create_app(MemoryService(home))
        # As a server does: what nobody foresaw is answered, not raised.
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://torpor/v1") as http:
            await talk(http)

    asyncio.run(main())


def test_metrics_are_given_as_prometheus_reads_them(home: Home) -> None:
    async def talk(http: httpx.AsyncClient) -> None:
        answer = await http.get("http://torpor/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert "# TYPE torpor_runs gauge\ntorpor_runs 0.0\n" in answer.text

    ask(home, talk)


def events(response: httpx.Response) -> list[tuple[str, Any]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    return list(parse_events(response.text.split("\n")))


async def played(http: httpx.AsyncClient, *script: Any, **more: Any) -> dict[str, Any]:
    body = {"version": VERSION, "input": {"script": list(script)}, **more}
    response = await http.post("/runs", json=body)
    assert response.status_code == 201
    run: dict[str, Any] = response.json()
    return run


def test_a_run_from_deploy_to_result(home: Home) -> None:
    async def talk(http: httpx.AsyncClient) -> None:
        told = events(await http.post("/agents", json=DEPLOY))
        assert [name for name, _ in told] == ["progress", "progress", "deployed"]
        assert told[0][1] == {"stage": "boot", "message": "booting [the image]", "fraction": None}
        assert told[-1][1]["version"] == VERSION
        assert [a["version"] for a in (await http.get("/agents")).json()] == [VERSION]

        run = await played(http, ["approve", "Send?", {"n": 1}], ["return", 42])
        followed = http.get(f"/runs/{run['id']}/log", params={"follow": "true"})
        log = asyncio.ensure_future(followed)
        waits: list[dict[str, Any]] = []
        while not waits:  # until the run, which plays in this loop too, has come to it
            waits = (await http.get("/waits", params={"run": run["id"]})).json()
        ref = waits[0]["id"]
        assert (await http.get(f"/waits/{ref}")).json()["data"] == {"n": 1}
        answer = {"approved": True, "note": "fine", "by": "ana"}
        done = await http.post(f"/waits/{ref}/complete", json=answer)
        assert done.json()["value"]["note"] == "fine"
        again = await http.post(f"/waits/{ref}/complete", json=answer)
        assert (again.status_code, again.json()["code"]) == (409, "conflict")

        told = events(await log)
        assert told[-1] == ("end", {"state": "completed"})
        seqs = [entry["seq"] for name, entry in told if name == "entry"]
        assert seqs == list(range(1, len(seqs) + 1))
        found = (await http.get(f"/runs/{run['id']}")).json()
        assert (found["state"], found["result"], found["waits"]) == ("completed", 42, [])
        assert len((await http.get(f"/runs/{run['id']}/snapshots")).json()) == 1
        listed = (await http.get("/runs", params={"states": "completed,failed"})).json()
        assert [r["id"] for r in listed] == [run["id"]]
        assert (await http.get("/waits")).json() == []
        assert len((await http.get("/waits", params={"all": "true"})).json()) == 1

    ask(home, talk)


def test_following_with_kinds_still_ends(home: Home) -> None:
    async def talk(http: httpx.AsyncClient) -> None:
        run = await played(http, ["print", "a"], ["print", "b\u2028c"], ["return", 1])
        query: dict[str, str | int] = {"follow": "true", "kinds": "output", "after": 3}
        told = events(await http.get(f"/runs/{run['id']}/log", params=query))
        assert [d["data"]["text"] for n, d in told if n == "entry"] == ["b\u2028c"]
        assert told[-1] == ("end", {"state": "completed"})
        # Past the end as well: the run's state says that nothing more comes.
        query = {"follow": "true", "after": 1000}
        told = events(await http.get(f"/runs/{run['id']}/log", params=query))
        assert told == [("end", {"state": "completed"})]

    ask(home, talk)


def test_a_stream_that_broke_off_goes_on_after_the_last_event_seen(home: Home) -> None:
    async def talk(http: httpx.AsyncClient) -> None:
        run = await played(http, ["print", "a"], ["print", "b"], ["return", 1])
        path, query = f"/runs/{run['id']}/log", {"follow": "true", "kinds": "output"}
        whole = await http.get(path, params=query)
        ids = [int(line[4:]) for line in whole.text.splitlines() if line.startswith("id: ")]
        rest = await http.get(path, params=query, headers={"last-event-id": str(ids[0])})
        assert [d["data"]["text"] for n, d in events(rest) if n == "entry"] == ["b"]
        for nonsense in ("x", "-1", "9" * 99):
            again = await http.get(path, params=query, headers={"last-event-id": nonsense})
            assert again.text == whole.text

    ask(home, talk)


def test_a_page_of_the_log(home: Home) -> None:
    async def talk(http: httpx.AsyncClient) -> None:
        run = await played(http, ["print", "a"], ["return", 1])
        events(await http.get(f"/runs/{run['id']}/log", params={"follow": "true"}))
        page = (await http.get(f"/runs/{run['id']}/log", params={"after": 1, "limit": 1})).json()
        assert [e["seq"] for e in page] == [2]

    ask(home, talk)


def test_the_end_of_a_log(home: Home) -> None:
    async def talk(http: httpx.AsyncClient) -> None:
        run = await played(http, *(["print", str(n)] for n in range(9)), ["return", 1])
        path = f"/runs/{run['id']}/log"
        whole = [data for _, data in events(await http.get(path, params={"follow": "true"}))][:-1]
        asked: list[tuple[dict[str, Any], list[Any]]] = [
            ({"tail": 5}, whole[-5:]),
            ({"tail": 2, "kinds": "output"}, [e for e in whole if e["kind"] == "output"][-2:]),
            ({"since": whole[4]["at"]}, [e for e in whole if e["at"] >= whole[4]["at"]]),
            ({"tail": 0}, []),
        ]
        for query, wanted in asked:
            told = events(await http.get(path, params={**query, "follow": "true"}))
            assert [data for name, data in told if name == "entry"] == wanted
            answer = await http.get(path, params=query)
            found = answer.json()
            while "next" in answer.links:  # which goes on from there, whatever is last by then
                assert "tail" not in answer.links["next"]["url"]
                answer = await http.get(answer.links["next"]["url"].removeprefix("/v1"))
                found += answer.json()
            assert found == wanted

    ask(home, talk)


def test_failures_of_a_deployment_come_as_events(home: Home) -> None:
    async def talk(http: httpx.AsyncClient) -> None:
        body = {"entry": "a.py", "files": {"a.py": base64.b64encode(b"# does not load").decode()}}
        name, details = events(await http.post("/agents", json=body))[-1]
        assert name == "error"
        assert details["code"] == "guest"
        assert details["hint"] == "ImportError: no such module"
        broken = base64.b64encode(b"# breaks the service").decode()
        body = {"entry": "a.py", "files": {"a.py": broken}}
        name, details = events(await http.post("/agents", json=body))[-1]
        assert (name, details["code"]) == ("error", "internal")
        assert "secret" not in json.dumps(details)

    ask(home, talk)


DEEP = b"[" * 65 + b"]" * 65


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("GET", "/runs/run_none", None, 404, "no run run_none"),
        ("GET", "/nowhere", None, 404, "/v1/nowhere"),
        ("DELETE", "/health", None, 405, "DELETE /v1/health"),
        ("POST", "/runs", b"{", 422, "not valid JSON"),
        ("POST", "/runs", b'"text"', 422, "dictionary"),
        ("POST", "/runs", b"{}", 422, "name an agent or a version"),
        ("POST", "/runs", b'{"version": "x", "colour": 1}', 422, "colour: Extra inputs"),
        ("POST", "/runs", b'{"version": "x", "input": []}', 422, "input: "),
        ("POST", "/runs", b'{"version": "x", "input": {"a": NaN}}', 422, "NaN"),
        ("POST", "/runs", b'{"version": "x", "input": {"a": "\\ud800"}}', 422, "surrogate"),
        ("POST", "/runs", b'{"version": "x", "input": ' + b'{"a":' * 100_000, 422, "too deeply"),
        (
            "POST",
            "/runs",
            b'{"version": "x", "input": ' + b'{"a":' * 3000 + b"0" + b"}" * 3001,
            422,
            "deep",
        ),
        ("POST", "/runs", b'{"version": "x", "input": {"a": ' + b"9" * 5000, 422, "4,300 digits"),
        ("POST", "/runs", b'{"version": "\xff"}', 422, "not UTF-8"),
        ("POST", "/runs", b'{"version": "x", "input": {"a": 1e400}}', 422, "input: holds NaN"),
        ("POST", "/waits/w/complete", b'{"data": Infinity}', 422, "data: holds NaN, infinity"),
        (
            "POST",
            "/waits/w/complete",
            b'{"data": ' + DEEP + b"}",
            422,
            "data: is nested more than 64",
        ),
        (
            "POST",
            "/runs/r/events",
            b'{"name": "e", "data": ' + DEEP + b"}",
            422,
            "more than 64 deep",
        ),
        ("POST", "/runs/r/fork", b'{"set": {"a:b#1": ' + DEEP + b"}}", 422, "more than 64 deep"),
        ("POST", "/query", b'{"sql": "SELECT ?", "parameters": [1e400]}', 422, "too large"),
        (
            "POST",
            "/query",
            b'{"sql": "SELECT ?", "parameters": [9223372036854775808]}',
            422,
            "64 bits",
        ),
        ("POST", "/waits/w/complete", b'{"approved": "perhaps"}', 422, "approved: "),
        ("GET", "/runs?states=asleep", None, 422, "unknown state asleep"),
        ("GET", "/runs?limit=0", None, 422, "limit: "),
        ("GET", "/runs?state=running", None, 422, "state: Extra inputs"),
        ("GET", "/runs/x/log?after=-1", None, 422, "after: "),
        ("GET", "/runs/run_none/log?follow=true", None, 404, "no run"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(
    home: Home, method: str, path: str, body: bytes | None, status: int, says: str
) -> None:
    async def talk(http: httpx.AsyncClient) -> None:
        headers = {"content-type": "application/json"}
        response = await http.request(method, path, content=body, headers=headers)
        assert response.headers["content-type"] == MEDIA_TYPE
        details = response.json()
        assert (response.status_code, details["status"]) == (status, status)
        assert says in details["detail"]
        assert "Traceback" not in response.text

    ask(home, talk)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"entry": "other.py"}, "not one of the files"),
        ({"files": {"/etc/passwd": ""}}, "relative path"),
        ({"files": {"a/../../b.py": ""}}, "relative path"),
        ({"files": {"agent.py": "not base64!"}}, "base64"),
        ({"files": {"agent.py": 1}}, "base64"),
        ({"dependencies": ["--index-url=http://elsewhere"]}, "not a requirement"),
        ({"dependencies": ["a\nb"]}, "not a requirement"),
        ({"memory_mib": 1}, "memory_mib"),
        ({"memory_mib": 513}, "memory_mib"),
        ({"disk_mib": "much"}, "disk_mib"),
    ],
)
def test_a_wrong_agent_is_refused(home: Home, change: dict[str, Any], says: str) -> None:
    async def talk(http: httpx.AsyncClient) -> None:
        response = await http.post("/agents", json=DEPLOY | change)
        assert response.status_code == 422
        assert says in response.json()["detail"]

    ask(home, talk)


def test_bodies_beyond_the_limit(home: Home) -> None:
    async def dribble() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * (limits.BODY_BYTES_MAX // 2)

    async def talk(http: httpx.AsyncClient) -> None:
        text = b'"' + b"x" * limits.BODY_BYTES_MAX + b'"'
        told = await http.post("/runs", content=text)
        assert (told.status_code, told.json()["code"]) == (413, "invalid")
        assert told.json()["detail"] == "the body is larger than 2,097,152 bytes; that is the limit"
        assert "torpor run --file" in told.json()["hint"]
        answer = await http.post("/waits/wait_1/complete", content=text)
        assert "send its address" in answer.json()["hint"]
        too_large = {"content-length": str(FILE_BYTES_MAX + 1)}
        file = await http.post("/files", content=dribble(), headers=too_large)
        assert file.status_code == 413 and "Split the file" in file.json()["hint"]

        untold = await http.post("/runs", content=dribble())
        assert untold.status_code == 413
        large = {"files": {"agent.py": base64.b64encode(text).decode()}}
        assert events(await http.post("/agents", json=DEPLOY | large))[-1][0] == "deployed"

    ask(home, talk)


def test_an_unforeseen_failure_tells_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(self: MemoryService) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(MemoryService, "health", fail)

    async def talk(http: httpx.AsyncClient) -> None:
        response = await http.get("/health")
        assert (response.status_code, response.json()["code"]) == (500, "internal")
        assert "secret" not in response.text

    ask(home, talk)


def test_half_a_surrogate_pair_from_an_agent_is_no_obstacle(home: Home) -> None:
    service = MemoryService(home)

    async def main() -> None:
        transport = httpx.ASGITransport(create_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://torpor/v1") as http:
            run = await service.runs.start(
                RunRequest({"script": [["return", "\ud800"]]}, version=VERSION)
            )
            told = events(await http.get(f"/runs/{run['id']}/log", params={"follow": "true"}))
            assert told[-1][0] == "end"
            assert (await http.get(f"/runs/{run['id']}")).json()["result"] == "\ud800"

    asyncio.run(main())


@pytest.mark.parametrize("code", sorted(_BY_CODE))
def test_an_error_survives_the_way_to_the_client(code: str) -> None:
    cls = _BY_CODE[code]
    there = from_problem(problem(cls("what", hint="do")))
    assert (type(there), there.message, there.hint) == (cls, "what", "do")


def test_the_api_describes_itself(home: Home) -> None:
    described = create_app(MemoryService(home)).openapi()
    assert "/v1/waits/{ref}/complete" in described["paths"]
    assert "Problem" in described["components"]["schemas"]


def test_snapshots_are_pinned_and_verified_and_garbage_collected(home: Home) -> None:
    async def talk(http: httpx.AsyncClient) -> None:
        run = await played(http, ["approve", "Send?", None])
        path = f"/runs/{run['id']}"
        while not (taken := (await http.get(f"{path}/snapshots")).json()):
            pass
        one = f"{path}/snapshots/{taken[0]['id']}"
        assert (await http.patch(one, json={"pinned": True})).json()["pinned"]
        assert (await http.get(f"{path}/snapshots")).json()[0]["pinned"]
        assert (await http.patch(one, json={"pinned": "yes", "x": 1})).status_code == 422
        assert (
            await http.patch(f"{path}/snapshots/none", json={"pinned": True})
        ).status_code == 404
        assert (await http.get(f"{path}/verify")).json()["problems"] == []
        assert (await http.post("/gc", json={"dry_run": True})).json()["dry_run"] is True

    ask(home, talk)


def test_an_operations_result_is_given_as_it_is(home: Home) -> None:
    async def talk(http: httpx.AsyncClient) -> None:
        run = await played(http, ["return", 1])
        given = await http.get(f"/runs/{run['id']}/results/step%3Aa%2Fb%231")
        assert given.headers["content-type"] == "application/octet-stream"
        assert given.content == b"\x00\xffend"
        assert (await http.get(f"/runs/{run['id']}/results/step:c")).status_code == 404

    ask(home, talk)


def test_a_run_goes_out_and_comes_in_as_a_stream(home: Home) -> None:
    async def talk(http: httpx.AsyncClient) -> None:
        run = await played(http, ["return", 1])
        events(await http.get(f"/runs/{run['id']}/log", params={"follow": "true"}))
        gone = await http.get(f"/runs/{run['id']}/export")
        assert gone.headers["content-type"] == "application/x-tar"
        assert len(gone.content) > limits.BODY_BYTES_MAX
        again = await http.post("/imports", content=gone.content)
        assert (again.status_code, again.json()["code"]) == (409, "conflict")
        assert (await http.post("/imports", content=b"no")).status_code == 422
        assert (await http.get("/runs/none/export")).status_code == 404
        other = gone.content.replace(run["id"].encode(), b"run_another")
        taken = await http.post("/imports", content=other)
        assert (taken.status_code, taken.json()["id"]) == (201, "run_another")

    ask(home, talk)


def test_a_rule_of_keeping_is_checked(home: Home) -> None:
    async def talk(http: httpx.AsyncClient) -> None:
        assert events(await http.post("/agents", json=DEPLOY | {"keep": "last 3"}))[-1][0] == (
            "deployed"
        )
        refused = await http.post("/agents", json=DEPLOY | {"keep": "for ever"})
        assert refused.status_code == 422
        assert "is not a time to keep snapshots" in refused.json()["detail"]

    ask(home, talk)


def test_a_key_is_the_same_by_header_and_body(home: Home) -> None:
    async def talk(http: httpx.AsyncClient) -> None:
        body = {"version": VERSION, "input": {}}
        key = "Müller 🦥"
        made = await http.post("/runs", json=body | {"id_key": key})
        by_header = {b"Idempotency-Key": key.encode()}
        again = await http.post("/runs", json=body, headers=by_header)
        third = await http.post("/runs", json=body | {"id_key": key}, headers=by_header)
        assert len({each.json()["id"] for each in (made, again, third)}) == 1
        latin = {b"Idempotency-Key": "Müller".encode("latin-1")}
        refused = await http.post("/runs", json=body, headers=latin)
        assert (refused.status_code, "is not UTF-8" in refused.json()["detail"]) == (422, True)

    ask(home, talk)


@pytest.mark.parametrize("path", ["/v1/files", "/v1/imports"])
def test_a_client_that_leaves_in_the_middle_of_a_body_is_no_error(home: Home, path: str) -> None:
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"half", "more_body": True},
        {"type": "http.disconnect"},
    ]
    heard = iter(messages)
    answered: list[int] = []

    async def receive() -> dict[str, Any]:
        return next(heard)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answered.append(message["status"])

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-length", b"8")],
    }
    # Raises what is in a server's log.
    asyncio.run(create_app(MemoryService(home))(scope, receive, send))
    assert answered == [499]
