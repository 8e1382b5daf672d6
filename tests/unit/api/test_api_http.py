"""What HTTP gives beside bodies: tags, links to more, one start a key, streams that go on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from torpor.api.app import create_app
from torpor.client import parse_events
from torpor.core.home import Home
from torpor.testing.fakes.service import VERSION, MemoryService

pytestmark = pytest.mark.anyio
START = {"version": VERSION, "input": {"script": [["print", "a"], ["print", "b"], ["return", 1]]}}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client(home: Home) -> AsyncIterator[httpx.AsyncClient]:
    service = await MemoryService.open(home)
    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://torpor") as client:
        yield client
    await service.stop()


async def ended(client: httpx.AsyncClient) -> str:
    run: str = (await client.post("/v1/runs", json=START)).json()["id"]
    await client.get(f"/v1/runs/{run}/log?follow=true")  # to its end
    return run


async def test_what_is_as_it_was_is_not_sent_again(client: httpx.AsyncClient) -> None:
    run = await ended(client)
    for path in (f"/v1/runs/{run}", "/v1/runs", "/v1/waits", f"/v1/runs/{run}/log"):
        first = await client.get(path)
        tag = first.headers["etag"]
        for known in (tag, f'"other", W/{tag}'):
            again = await client.get(path, headers={"if-none-match": known})
            assert again.status_code == 304 and not again.content
            assert again.headers["etag"] == tag
        other = await client.get(path, headers={"if-none-match": '"other"'})
        assert other.status_code == 200 and other.json() == first.json()
    await ended(client)
    changed = await client.get("/v1/runs", headers={"if-none-match": tag})
    assert changed.status_code == 200 and changed.headers["etag"] != tag
    assert "etag" not in (await client.get("/v1/runs/nothing")).headers


async def test_a_full_page_leads_to_the_next(client: httpx.AsyncClient) -> None:
    runs = [await ended(client) for _ in range(5)]
    found, path = [], "/v1/runs?limit=2&states=completed"
    while path:
        page = await client.get(path)
        found += [run["id"] for run in page.json()]
        path = page.links.get("next", {}).get("url", "")
    assert found == sorted(runs, reverse=True)
    seqs, path = [], f"/v1/runs/{runs[0]}/log?limit=2"
    while path:
        page = await client.get(path)
        seqs += [entry["seq"] for entry in page.json()]
        path = page.links.get("next", {}).get("url", "")
    assert seqs == list(range(1, len(seqs) + 1)) and len(seqs) > 3


async def test_the_same_key_starts_once(client: httpx.AsyncClient) -> None:
    once = {"idempotency-key": "k1"}
    first, again, other = [
        (await client.post("/v1/runs", json=START, headers=headers)).json()["id"]
        for headers in (once, once, {"idempotency-key": "k2"})
    ]
    assert first == again != other
    same = await client.post("/v1/runs", json=START | {"id_key": "k1"}, headers=once)
    assert same.json()["id"] == first
    two = await client.post("/v1/runs", json=START | {"id_key": "k3"}, headers=once)
    assert two.status_code == 422 and "two keys" in two.json()["detail"]


async def test_a_stream_goes_on_after_the_last_event(client: httpx.AsyncClient) -> None:
    run = await ended(client)
    path = f"/v1/runs/{run}/log?follow=true"
    whole = (await client.get(path)).text
    ids = [line.removeprefix("id: ") for line in whole.splitlines() if line.startswith("id: ")]
    rest = (await client.get(path, headers={"last-event-id": ids[1]})).text
    events = [data for name, data in parse_events(rest.splitlines()) if name == "entry"]
    assert [event["seq"] for event in events] == [int(id) for id in ids[2:]]
    # What is no id of ours is neither a position to go on from.
    assert (await client.get(path, headers={"last-event-id": "x"})).text == whole


async def test_a_length_that_is_none_is_no_failure(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/gc", content=b"{}", headers={"content-length": "two"})
    assert answer.status_code < 500
