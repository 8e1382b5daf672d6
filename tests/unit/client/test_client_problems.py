"""What a client says of what it is answered: by torpor, by a proxy before it, by something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.client.test_client_transport import Server

import torpor
from torpor.client import Client, Unreachable
from torpor.client.problems import from_problem
from torpor.client.remote import KEY, URL, Remote
from torpor.core.errors import Invalid, NotFound, TorporError, Unauthorized, problem
from torpor.core.home import Home


def asked(
    monkeypatch: pytest.MonkeyPatch, status: str, body: str = "", *headers: str, key: str = ""
) -> TorporError:
    """What a client at such a server raises."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", body]
    server = Server(("127.0.0.1", 0), [("\r\n".join(head).encode(), False)])
    monkeypatch.setenv(URL, f"{server.url}/torpor")
    monkeypatch.setenv(KEY, key)
    try:
        with pytest.raises(TorporError) as raised:
            Client(Home(Path("/nowhere"))).health()
    finally:
        server.close()
    assert server.requests[0].startswith(b"GET /torpor/v1/health ")
    return raised.value


def refused(error: TorporError) -> str:
    return json.dumps(problem(error))


def test_another_version_is_named_with_what_it_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    said = refused(NotFound("there is no such page", hint="Look."))
    error = asked(monkeypatch, "404 Not Found", said, "Torpor-Version: 9.9.9")
    assert isinstance(error, NotFound) and error.message == "there is no such page"
    assert error.hint.startswith("Look. The server is torpor 9.9.9, this is ")
    same = f"torpor-version: {torpor.__version__}"
    assert asked(monkeypatch, "404 Not Found", said, same).hint == "Look."


@pytest.mark.parametrize(("key", "hint"), [("", f"Set {KEY}"), ("torpor_x", "does not take")])
def test_a_key_that_is_not_taken(monkeypatch: pytest.MonkeyPatch, key: str, hint: str) -> None:
    said = refused(Unauthorized("this needs a key"))
    error = asked(monkeypatch, "401 Unauthorized", said, key=key)
    assert isinstance(error, Unauthorized) and hint in error.hint
    assert "torpor_x" not in error.hint


@pytest.mark.parametrize("status", ["502 Bad Gateway", "503 Service Unavailable", "504 Late"])
def test_a_proxy_whose_server_is_gone(monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    error = asked(monkeypatch, status, "<html>")
    assert isinstance(error, Unreachable) and status in error.message


def test_a_proxy_that_leads_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    to = "Location: https://agents.example.com/torpor/v1/health"
    error = asked(monkeypatch, "301 Moved Permanently", "", to)
    assert isinstance(error, Invalid)
    assert f"{URL}=https://agents.example.com/torpor" in error.hint


@pytest.mark.parametrize(
    ("status", "body"),
    [("404 Not Found", "<html>"), ("403 Forbidden", '{"detail": "x"}'), ("200 OK", "<html>")],
)
def test_what_is_no_torpor(monkeypatch: pytest.MonkeyPatch, status: str, body: str) -> None:
    error = asked(monkeypatch, status, body)
    assert isinstance(error, Invalid) and "is not a torpor server" in error.message


def test_a_key_is_not_shown_with_where_it_is_for() -> None:
    assert "torpor_x" not in repr(Remote.of("https://example.com", "torpor_x"))


def test_an_address_may_be_given_with_a_path_and_the_apis_own() -> None:
    for given in ("https://example.com/t", "https://example.com/t/", "https://example.com/t/v1"):
        assert Remote.of(given).url == "https://example.com/t"


def test_an_error_is_the_one_that_its_code_is_of() -> None:
    """`Unfit` has the code of `Invalid`: a client sees an invalid request, nothing else."""
    details = {"code": "invalid", "detail": "no"}
    assert type(from_problem(details)) is Invalid
