"""The broker's app in front of a real HTTP server on loopback: what goes out, what comes back."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torpor.core.errors import Invalid
from torpor.egress.app import ALLOWED, create_app
from torpor.egress.protocol import BODY_BYTES_MAX
from torpor.egress.standin import SAYS, StandIn
from torpor.egress.upstream import OpenAIUpstream, Upstream

KEY = "sk-test-5f0c1d8e9ab34c77"
CHAT = "/v1/chat/completions"
ASKED = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


class Api:
    """A server that answers as told and keeps what it was sent."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: list[tuple[str, str, Mapping[str, str], bytes]] = []
        self.status = 200
        self.headers: dict[str, str] = {"content-type": "application/json"}
        self.body = b'{"usage": {"total_tokens": 3}}'


@contextmanager
def serving() -> Iterator[Api]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {k.lower(): v for k, v in self.headers.items()}
            api.seen.append((self.command, self.path, headers, body))
            self.send_response(api.status)
            for name, value in api.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(api.body)))
            self.end_headers()
            self.wfile.write(api.body)

        do_GET = do_POST = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        api = Api(f"http://127.0.0.1:{server.server_port}/base/v1")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(name="api")
def api_fixture(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as running:
        yield running


def ask(
    upstream: Upstream, do: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]
) -> httpx.Response:
    """`do` what a machine does: its requests are calls of a run."""

    async def call(request: httpx.Request) -> None:
        if request.url.path in ("/health", "/calls"):
            return
        asked = {"method": request.method, "path": request.url.raw_path.decode()}
        request.method = "POST"
        request.url = httpx.URL("http://broker/calls", params={"run": "r", "op": "o"} | asked)

    async def main() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(upstream))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://broker", event_hooks={"request": [call]}
        ) as client:
            try:
                return await do(client)
            finally:
                await upstream.close()

    return asyncio.run(main())


def test_the_key_goes_out_and_the_callers_credentials_do_not(api: Api) -> None:
    headers = {
        "Authorization": "Bearer torpor",
        "X-Api-Key": "mine",
        "Cookie": "a=b",
        "X-Name": "é",
    }
    reply = ask(
        OpenAIUpstream(api.url, KEY),
        lambda c: c.post(f"{CHAT}?a=1", json=ASKED, headers=httpx.Headers(headers, "latin-1")),
    )
    [(method, path, sent, body)] = api.seen
    assert (method, path) == ("POST", "/base/v1/chat/completions?a=1")
    assert sent["authorization"] == f"Bearer {KEY}"
    assert not {"x-api-key", "cookie"} & set(sent)
    assert sent["x-name"] == "é"
    assert sent["content-type"] == "application/json"
    assert json.loads(body) == ASKED
    assert reply.status_code == 200
    assert reply.json() == {"usage": {"total_tokens": 3}}


def test_without_a_key_no_authorization_goes_out(api: Api) -> None:
    ask(
        OpenAIUpstream(api.url, ""),
        lambda c: c.get("/v1/models", headers={"authorization": "Bearer torpor"}),
    )
    assert "authorization" not in api.seen[0][2]


def test_a_key_that_the_upstream_quotes_is_taken_out(api: Api) -> None:
    api.status = 401
    api.body = json.dumps({"error": {"message": f"Incorrect key: {KEY}."}}).encode()
    api.headers["x-you-sent"] = f"Bearer {KEY}"
    reply = ask(OpenAIUpstream(api.url, KEY), lambda c: c.post(CHAT, json=ASKED))
    assert reply.status_code == 401
    assert reply.json() == {"error": {"message": "Incorrect key: [redacted]."}}
    assert KEY not in str(reply.headers)


def test_a_placeholder_key_is_a_word_like_any_other(api: Api) -> None:
    api.body = b'"ask ollama"'
    reply = ask(OpenAIUpstream(api.url, "ollama"), lambda c: c.post(CHAT, json=ASKED))
    assert reply.json() == "ask ollama"


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
def test_the_upstreams_errors_pass_through_as_they_are(api: Api, status: int) -> None:
    api.status = status
    api.body = b'{"error": {"message": "as it is"}}'
    api.headers["retry-after"] = "7"
    reply = ask(OpenAIUpstream(api.url, KEY), lambda c: c.post(CHAT, json=ASKED))
    assert (reply.status_code, reply.content) == (status, api.body)
    assert reply.headers["retry-after"] == "7"
    assert len(api.seen) == 1  # it answered: asking again is the caller's choice


def test_hop_by_hop_headers_and_cookies_do_not_come_back(api: Api) -> None:
    api.headers |= {"keep-alive": "timeout=5", "set-cookie": "session=1", "x-request-id": "r"}
    reply = ask(OpenAIUpstream(api.url, KEY), lambda c: c.post(CHAT, json=ASKED))
    assert not {"keep-alive", "set-cookie"} & set(reply.headers)
    assert reply.headers["x-request-id"] == "r"


@given(
    method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"]),
    path=st.one_of(
        st.sampled_from([path for _, path in ALLOWED]),
        st.sampled_from(["/v1/files", "/v1/models/", "/v1/x/../models", "//v1/models", "/"]),
        st.text("/v1.modelschat%2e", max_size=20).map(lambda tail: f"/{tail}"),
    ),
)
@settings(max_examples=60, deadline=None)
def test_only_what_is_allowed_reaches_the_upstream(method: str, path: str) -> None:
    class Recorder(StandIn):
        reached: list[tuple[str, str]] = []  # noqa: RUF012

        async def send(self, request: Any) -> Any:
            assert (request.method, request.path) in ALLOWED
            self.reached.append((request.method, request.path))
            return await super().send(request)

    Recorder.reached = []
    asked = {"run": "r", "op": "o", "method": method, "path": path}
    reply = ask(Recorder(), lambda c: c.post("/calls", params=asked))
    assert (reply.status_code == 403) == (not Recorder.reached)


def test_a_refusal_says_what_is_allowed_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="torpor.egress"):
        reply = ask(StandIn(), lambda c: c.delete("/v1/files/7"))
    assert reply.status_code == 403
    told = reply.json()["error"]
    assert (told["type"], told["code"], told["param"]) == ("permission_error", "not_allowed", None)
    assert "DELETE /v1/files/7" in told["message"]
    assert all(path in told["message"] for _, path in ALLOWED)
    assert "DELETE /v1/files/7: 403 refused" in caplog.text


def test_a_refusal_has_the_shape_of_the_api_that_was_called() -> None:
    reply = ask(StandIn(), lambda c: c.post("/v1/messages", json=ASKED))
    told = reply.json()
    assert (reply.status_code, told["type"]) == (403, "error")
    assert told["error"]["type"] == "permission_error"
    assert "POST /v1/messages may not leave a machine" in told["error"]["message"]


def test_a_body_over_the_limit_is_refused() -> None:
    reply = ask(StandIn(), lambda c: c.post(CHAT, content=bytes(BODY_BYTES_MAX + 1)))
    assert reply.status_code == 413


def test_a_reply_over_the_limit_is_refused(api: Api) -> None:
    api.body = bytes(BODY_BYTES_MAX + 1)
    reply = ask(OpenAIUpstream(api.url, KEY), lambda c: c.post(CHAT, json=ASKED))
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "reply_too_large")


def test_an_upstream_that_cannot_be_connected_is_a_problem_without_the_key() -> None:
    with serving() as gone:
        pass
    upstream = OpenAIUpstream(gone.url, KEY, retry_delays_s=(0, 0))
    reply = ask(upstream, lambda c: c.post(CHAT, json=ASKED))
    told = reply.json()["error"]
    assert (reply.status_code, told["code"]) == (502, "upstream_unreachable")
    assert "OPENAI_BASE_URL" in told["message"]
    assert KEY not in reply.text


@pytest.mark.parametrize(
    "url",
    ["", "api.openai.com/v1", "ftp://x/v1", "http://", "https://me:pw@x/v1", "http://x/v1?k=1"],
)
def test_a_base_url_that_is_none_or_may_hold_a_password_is_refused(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        OpenAIUpstream(url, KEY)
    assert "pw" not in f"{caught.value.message} {caught.value.hint}"


def test_a_key_that_no_header_can_hold_is_refused_without_being_shown() -> None:
    with pytest.raises(Invalid) as caught:
        OpenAIUpstream("https://x/v1", f"{KEY}\nX-Evil: 1")
    assert KEY not in f"{caught.value.message} {caught.value.hint}"


def test_the_stand_in_says_that_it_is_one() -> None:
    reply = ask(StandIn(), lambda c: c.post(CHAT, json=ASKED)).json()
    text = reply["choices"][0]["message"]["content"]
    assert text.startswith(SAYS)
    assert "hello" in text
    assert reply["usage"]["total_tokens"] == sum(
        reply["usage"][k] for k in ("prompt_tokens", "completion_tokens")
    )


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (CHAT, b"not json", 400),
        (CHAT, b'{"messages": []}', 400),
        (CHAT, b"[]", 400),
        (CHAT, json.dumps(ASKED | {"stream": True}).encode(), 501),
        ("/v1/embeddings", b"{}", 501),
    ],
)
def test_the_stand_in_refuses_what_it_cannot_do(path: str, body: bytes, status: int) -> None:
    reply = ask(StandIn(), lambda c: c.post(path, content=body))
    assert reply.status_code == status
    assert "OPENAI_API_KEY" in reply.json()["error"]["message"]


def test_health_names_the_upstream() -> None:
    upstream = OpenAIUpstream("https://llm.example/v1", KEY)
    reply = ask(upstream, lambda c: c.get("/health"))
    assert reply.json()["upstream"] == "openai-compatible at https://llm.example/v1"
