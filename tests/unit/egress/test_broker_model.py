"""The deployment's own model, a real HTTP server on loopback: what goes out, what comes back."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.egress.brokers import Collected, brokered, model_call

from torpor.core.errors import Invalid
from torpor.egress.admission import DenyAll
from torpor.egress.answer import Listener, Seen
from torpor.egress.protocol import BODY_BYTES_MAX
from torpor.egress.standin import SAYS, StandIn
from torpor.egress.upstream import ALLOWED, OpenAIUpstream, Redactor, Request, Upstream

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
    upstream: Upstream,
    method: str = "POST",
    path: str = CHAT,
    headers: Mapping[str, str] | None = None,
    body: bytes = json.dumps(ASKED).encode(),
) -> Collected:
    """What a machine asks: its requests are calls of a run."""

    async def main() -> Collected:
        async with brokered(upstream, DenyAll()) as (_, client):
            return await model_call(client, method, path, headers, body)

    return asyncio.run(main())


def test_the_key_goes_out_and_the_callers_credentials_do_not(api: Api) -> None:
    headers = {
        "authorization": "Bearer torpor",
        "x-api-key": "mine",
        "cookie": "a=b",
        "x-name": "é".encode().decode("latin-1"),
        "content-type": "application/json",
    }
    reply = ask(OpenAIUpstream(api.url, KEY), path=f"{CHAT}?a=1", headers=headers)
    [(method, path, sent, body)] = api.seen
    assert (method, path) == ("POST", "/base/v1/chat/completions?a=1")
    assert sent["authorization"] == f"Bearer {KEY}"
    assert not {"x-api-key", "cookie"} & set(sent)
    assert sent["x-name"] == headers["x-name"]
    assert sent["content-type"] == "application/json"
    assert json.loads(body) == ASKED
    assert reply.status == 200
    assert json.loads(reply.body) == {"usage": {"total_tokens": 3}}


def test_without_a_key_no_authorization_goes_out(api: Api) -> None:
    headers = {"authorization": "Bearer torpor"}
    ask(OpenAIUpstream(api.url, ""), "GET", "/v1/models", headers, b"")
    assert "authorization" not in api.seen[0][2]


def test_a_key_that_the_upstream_quotes_is_taken_out(api: Api) -> None:
    api.status = 401
    api.body = json.dumps({"error": {"message": f"Incorrect key: {KEY}."}}).encode()
    api.headers["x-you-sent"] = f"Bearer {KEY}"
    reply = ask(OpenAIUpstream(api.url, KEY))
    assert reply.status == 401
    assert json.loads(reply.body) == {"error": {"message": "Incorrect key: [redacted]."}}
    assert KEY not in str(reply.headers)


def test_a_placeholder_key_is_a_word_like_any_other(api: Api) -> None:
    api.body = b'"ask ollama"'
    reply = ask(OpenAIUpstream(api.url, "ollama"))
    assert json.loads(reply.body) == "ask ollama"


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
def test_the_upstreams_errors_pass_through_as_they_are(api: Api, status: int) -> None:
    api.status = status
    api.body = b'{"error": {"message": "as it is"}}'
    api.headers["retry-after"] = "7"
    reply = ask(OpenAIUpstream(api.url, KEY))
    assert (reply.status, reply.body) == (status, api.body)
    assert reply.headers["retry-after"] == "7"
    assert len(api.seen) == 1  # it answered: asking again is the caller's choice


def test_hop_by_hop_headers_and_cookies_do_not_come_back(api: Api) -> None:
    api.headers |= {"keep-alive": "timeout=5", "set-cookie": "session=1", "x-request-id": "r"}
    reply = ask(OpenAIUpstream(api.url, KEY))
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
        async def answer(self, request: Request, listener: Listener, seen: Seen) -> None:
            assert (request.method, request.path) in ALLOWED
            reached.append((request.method, request.path))
            await super().answer(request, listener, seen)

    reached: list[tuple[str, str]] = []
    reply = ask(Recorder(), method, path, body=b"")
    assert (reply.status == 403) == (not reached)


def test_a_refusal_says_what_is_allowed_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="torpor.egress"):
        reply = ask(StandIn(), "DELETE", "/v1/files/7")
    assert reply.status == 403
    assert (reply.verdict["verdict"], reply.refusal["code"]) == ("deny", "not_allowed")
    assert "DELETE /v1/files/7" in reply.refusal["message"]
    assert all(path in reply.refusal["message"] for _, path in ALLOWED)
    assert "DELETE model.torpor/v1/files/7: refused, not_allowed" in caplog.text


def test_a_body_over_the_limit_is_refused() -> None:
    with pytest.raises(Invalid):
        ask(StandIn(), body=bytes(BODY_BYTES_MAX + 1))


def test_a_reply_over_the_limit_is_refused(api: Api) -> None:
    api.body = bytes(BODY_BYTES_MAX + 1)
    reply = ask(OpenAIUpstream(api.url, KEY))
    assert (reply.status, reply.refusal["code"]) == (502, "reply_too_large")


def test_an_upstream_that_cannot_be_connected_is_a_problem_without_the_key() -> None:
    with serving() as gone:
        pass
    upstream = OpenAIUpstream(gone.url, KEY, retry_delays_s=(0, 0))
    reply = ask(upstream)
    assert (reply.status, reply.refusal["code"]) == (502, "upstream_unreachable")
    assert "OPENAI_BASE_URL" in reply.refusal["message"]
    assert KEY not in repr(reply)


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
    reply = json.loads(ask(StandIn()).body)
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
        ("/v1/embeddings", b"{}", 501),
    ],
)
def test_the_stand_in_refuses_what_it_cannot_do(path: str, body: bytes, status: int) -> None:
    reply = ask(StandIn(), path=path, body=body)
    assert reply.status == status
    assert "OPENAI_API_KEY" in reply.refusal["message"]


def test_the_stand_in_streams_as_the_api_does() -> None:
    body = ASKED | {"stream": True, "stream_options": {"include_usage": True}}
    reply = ask(StandIn(), body=json.dumps(body).encode())
    assert reply.headers["content-type"] == "text/event-stream"
    *events, last, rest = reply.body.decode().split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    words = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    whole = json.loads(ask(StandIn()).body)
    assert (
        "".join(word.get("content", "") for word in words)
        == (whole["choices"][0]["message"]["content"])
    )
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], whole["usage"])
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"


@given(
    text=st.lists(st.sampled_from([KEY, KEY[:7], KEY[3:], "x", "sk-"]), max_size=8).map("".join),
    cuts=st.lists(st.integers(1, 9), max_size=60),
)
def test_a_key_is_taken_out_wherever_an_answer_is_cut(text: str, cuts: list[int]) -> None:
    redactor, rest, out = Redactor(KEY), text.encode(), b""
    for cut in cuts:
        out += redactor.feed(rest[:cut])
        rest = rest[cut:]
        assert KEY.encode() not in out
    out += redactor.feed(rest) + redactor.close()
    assert out == text.encode().replace(KEY.encode(), b"[redacted]")


def test_health_names_the_upstream() -> None:
    async def main() -> None:
        upstream = OpenAIUpstream("https://llm.example/v1", KEY)
        async with brokered(upstream) as (_, client):
            health = await client.health()
            assert health["upstream"] == "openai-compatible at https://llm.example/v1"
            assert client.upstream == health["upstream"]

    asyncio.run(main())
