"""The public port: opened where it was asked for, and nowhere else."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest

from torpor.api.listening import LISTEN, PUBLIC_URL, listener
from torpor.api.public import public_app
from torpor.core.errors import HostError, Invalid
from torpor.core.home import Home
from torpor.testing.fakes.service import MemoryService


def test_nothing_is_opened_unasked() -> None:
    assert listener({}) is None
    assert listener({LISTEN: "", PUBLIC_URL: ""}) is None
    behind = listener({PUBLIC_URL: "https://agents.example.com/torpor/"})
    assert behind is not None
    assert (behind.url, behind.bound) == ("https://agents.example.com/torpor", None)


@pytest.mark.parametrize("text", ["8080", ":8080", "127.0.0.1:", "127.0.0.1:99999", "a:b"])
def test_what_is_no_address_is_said(text: str) -> None:
    with pytest.raises(Invalid, match="is not an address"):
        listener({LISTEN: text})


@pytest.mark.parametrize("url", ["agents.example.com", "ftp://x", "https://x?y", "https://", "x"])
def test_what_is_no_url_is_said(url: str) -> None:
    with pytest.raises(Invalid, match="not a URL"):
        listener({PUBLIC_URL: url})


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(HostError, match="cannot listen at"):
            listener({LISTEN: address})
    with pytest.raises(HostError, match="cannot listen at"):
        listener({LISTEN: "no.such.host.invalid:0"})


def test_it_serves_what_is_public_until_the_server_stops(home: Home) -> None:
    async def main() -> None:
        public = listener({LISTEN: "127.0.0.1:0"})
        assert public is not None and public.url.startswith("http://127.0.0.1:")
        closing = asyncio.Event()
        serving = asyncio.create_task(public.serve(public_app(MemoryService(home)), closing))
        async with httpx.AsyncClient(base_url=public.url) as http:
            style = await http.get("/w/static/public.css")
            assert (style.status_code, "server" in style.headers) == (200, False)
            assert (await http.get("/v1/health")).status_code == 404
            assert (await http.post("/v1/shutdown")).status_code == 404
            assert (await http.post("/hooks/h", json={})).status_code == 401
            signed = {"webhook-signature": "good"}
            assert (await http.post("/hooks/h", json={}, headers=signed)).status_code == 202
            assert (await http.get("/hooks/h")).status_code == 405
        closing.set()
        await serving
        async with httpx.AsyncClient(base_url=public.url) as http:
            with pytest.raises(httpx.ConnectError):
                await http.get("/w/static/public.css")

    asyncio.run(main())
