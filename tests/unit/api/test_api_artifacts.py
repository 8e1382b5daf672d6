"""Downloads: whole, in ranges, and never a page of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest

from torpor.api.app import create_app
from torpor.core.home import Home
from torpor.testing.fakes.service import VERSION, MemoryService

NEW = b"a,b\n1,2\n"
TAG = f'"{NEW.hex()}"'

Get = Callable[..., httpx.Response]


@pytest.fixture
def get(home: Home) -> Get:
    """GET of a path below a run."""

    async def ask(path: str, headers: dict[str, str]) -> httpx.Response:
        transport = httpx.ASGITransport(create_app(MemoryService(home)))
        async with httpx.AsyncClient(transport=transport, base_url="http://torpor/v1") as http:
            run = (await http.post("/runs", json={"version": VERSION, "input": {}})).json()
            return await http.get(f"/runs/{run['id']}{path}", headers=headers)

    return lambda path, **headers: asyncio.run(
        ask(path, {name.replace("_", "-"): value for name, value in headers.items()})
    )


def test_they_are_listed(get: Get) -> None:
    found = get("/artifacts").json()
    assert (found[0]["name"], found[0]["version"]) == ("report.csv", 2)
    assert [each["name"] for each in found if each["kept"]] == ["out/left.bin"]


def test_a_download_is_an_attachment_without_scripts(get: Get) -> None:
    got = get("/artifacts/out/x.html")
    assert (got.status_code, got.content) == (200, b"<p>")
    assert got.headers["content-disposition"].startswith('attachment; filename="x.html"')
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["content-security-policy"].startswith("sandbox")
    assert got.headers["content-length"] == "3"


def test_versions_and_what_there_is_not(get: Get) -> None:
    assert get("/artifacts/report.csv").content == NEW
    assert get("/artifacts/report.csv?version=1").content == b"a,b\n"
    assert get("/artifacts/report.csv?version=3").status_code == 404
    assert get("/artifacts/nope").json()["code"] == "not_found"
    assert get("/artifacts/report.csv?version=0").status_code == 422


def test_who_has_it_is_told_so(get: Get) -> None:
    assert get("/artifacts/report.csv").headers["etag"] == TAG
    got = get("/artifacts/report.csv", if_none_match=f'"x", W/{TAG}')
    assert (got.status_code, got.content) == (304, b"")


# What is asked for → status, content, content-range.
RANGES = {
    "bytes=0-": (206, NEW, "bytes 0-7/8"),
    "bytes=2-3": (206, b"b\n", "bytes 2-3/8"),
    "bytes=6-100": (206, b"2\n", "bytes 6-7/8"),
    "bytes=-3": (206, b",2\n", "bytes 5-7/8"),
    "bytes=-100": (206, NEW, "bytes 0-7/8"),
    "bytes=8-": (416, b"", "bytes */8"),
    "bytes=-0": (416, b"", "bytes */8"),
    "bytes=3-2": (200, NEW, None),
    "bytes=0-1,3-4": (200, NEW, None),
    "lines=1-2": (200, NEW, None),
    "bytes=-": (200, NEW, None),
}


@pytest.mark.parametrize("asked", RANGES)
def test_a_range(get: Get, asked: str) -> None:
    got = get("/artifacts/report.csv", range=asked)
    assert (got.status_code, got.content, got.headers.get("content-range")) == RANGES[asked]
    assert got.headers.get("content-length") == str(len(got.content))


def test_a_range_of_what_has_changed_is_all_of_it(get: Get) -> None:
    got = get("/artifacts/report.csv", range="bytes=2-3", if_range='"another"')
    assert (got.status_code, got.content) == (200, NEW)
