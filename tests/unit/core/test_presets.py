"""Rules for known services."""

from __future__ import annotations

from typing import Any

import pytest

from torpor.core.egress import ALLOW, ASK, DENY, Request, judge, parse_egress, parse_request
from torpor.core.environment import check_name
from torpor.core.presets import environment, hinted, placement, presets

MODELS = [
    ("openai", "api.openai.com", "/v1/responses"),
    ("openai", "api.openai.com", "/v1/embeddings"),
    ("anthropic", "api.anthropic.com", "/v1/messages?beta=true"),
    (
        "google",
        "generativelanguage.googleapis.com",
        "/v1beta/models/gemini-2.5-pro:generateContent",
    ),
    (
        *("google", "generativelanguage.googleapis.com"),
        "/v1beta/models/gemini-2.5-pro%3AstreamGenerateContent?alt=sse",
    ),
    ("azure", "acme.openai.azure.com", "/openai/deployments/gpt/chat/completions?api-version=1"),
    ("mistral", "api.mistral.ai", "/v1/chat/completions"),
    ("groq", "api.groq.com", "/openai/v1/chat/completions"),
    ("openrouter", "openrouter.ai", "/api/v1/chat/completions"),
    ("deepseek", "api.deepseek.com", "/chat/completions"),
    ("xai", "api.x.ai", "/v1/chat/completions"),
    ("together", "api.together.xyz", "/v1/chat/completions"),
    ("huggingface", "router.huggingface.co", "/v1/chat/completions"),
]
OTHERS = [
    ("github", "api.github.com", "GET", "/repos/acme/site"),
    ("github", "github.com", "POST", "/acme/site.git/git-upload-pack"),
    ("gitlab", "gitlab.com", "GET", "/api/v4/projects/acme%2Fsite"),
    ("slack", "slack.com", "POST", "/api/chat.postMessage"),
    ("stripe", "api.stripe.com", "POST", "/v1/charges"),
    ("pypi", "pypi.org", "GET", "/simple/requests/"),
    ("pypi", "files.pythonhosted.org", "GET", "/packages/a/b.whl"),
    ("huggingface", "huggingface.co", "GET", "/gpt2/resolve/main/config.json"),
    ("openai", "api.openai.com", "GET", "/v1/models"),
]


def entry(name: str, **more: Any) -> dict[str, Any]:
    own = {"host": "acme.openai.azure.com"} if name == "azure" else {}
    return {"preset": name, **own, **more}


@pytest.mark.parametrize(("name", "host", "target"), MODELS)
def test_a_models_calls_are_recorded_and_have_their_secret(
    name: str, host: str, target: str
) -> None:
    rules = parse_egress([entry(name, secret=True)], "egress")
    found = judge(rules, Request("https", host, 443, "POST", target))
    assert (found.decision, found.record) == (ALLOW, "model")
    assert found.secret == presets()[name].secret and found.rule == f"preset {name}"


@pytest.mark.parametrize(("name", "host", "method", "target"), OTHERS)
def test_other_requests_are_allowed_and_not_recorded(
    name: str, host: str, method: str, target: str
) -> None:
    found = judge(parse_egress([entry(name)], ""), Request("https", host, 443, method, target))
    assert (found.decision, found.record) == (ALLOW, "")


def test_a_forge_can_be_read_without_being_written_to() -> None:
    rules = parse_egress([entry("github-read", secret=True)], "")

    def decision(host: str, method: str, target: str) -> str:
        return judge(rules, Request("https", host, 443, method, target)).decision

    assert decision("github.com", "POST", "/acme/site.git/git-upload-pack") == ALLOW
    assert decision("raw.githubusercontent.com", "GET", "/acme/site/main/x") == ALLOW
    assert decision("github.com", "POST", "/acme/site.git/git-receive-pack") == DENY
    assert decision("api.github.com", "POST", "/gists") == DENY


def test_a_local_server_is_reached_by_a_name() -> None:
    request = Request("http", "ollama.internal", 11434, "POST", "/api/chat")
    assert judge(parse_egress([{"preset": "ollama"}], ""), request).record == "model"
    own = {"preset": "openai-compatible", "host": "llm.corp.example", "port": 8000, "secret": "KEY"}
    request = Request("https", "llm.corp.example", 8000, "POST", "/v1/chat/completions")
    found = judge(parse_egress([own], ""), request)
    assert (found.record, found.secret) == ("model", "KEY")


def test_an_entry_narrows_its_preset() -> None:
    request = Request("https", "api.github.com", 443, "GET", "/user")
    plain, with_secret = [entry("github")], [entry("github", secret=True, methods=["GET"])]
    assert judge(parse_egress(plain, ""), request).secret == ""
    assert judge(parse_egress(with_secret, ""), request).secret == "GITHUB_TOKEN"
    post = Request("https", "api.github.com", 443, "POST", "/gists")
    assert judge(parse_egress(with_secret, ""), post).code == "method"
    asking = judge(parse_egress([entry("openai", ask=True)], ""), REQUEST)
    assert (asking.decision, asking.record) == (ASK, "model")
    assert judge(parse_egress([entry("openai", secret="TEAM")], ""), REQUEST).secret == "TEAM"
    assert judge(parse_egress([entry("openai", secret=False)], ""), REQUEST).secret == ""


REQUEST = Request("https", "api.openai.com", 443, "POST", "/v1/responses")


@pytest.mark.parametrize("name", presets())
def test_a_preset_is_whole(name: str) -> None:
    preset = presets()[name]
    assert preset.about and preset.rules
    assert bool(preset.secret) == (len(preset.placement) == 1)
    assert all(bool(rule.host) != preset.own_host for rule in preset.rules)
    assert (
        parse_egress([entry(name, **({} if preset.host else HOST))], "") if preset.own_host else 1
    )
    if preset.secret:
        found = placement(preset.secret)
        assert found is not None and found.placement == preset.placement
        assert preset.own_host or preset.hosts


HOST = {"host": "own.example.com"}


def test_clients_are_given_a_placeholder_where_a_key_would_stand() -> None:
    assert environment([entry("openai"), entry("anthropic"), {"host": "a.example"}]) == {
        "OPENAI_API_KEY": "torpor",
        "ANTHROPIC_API_KEY": "torpor",
    }
    assert environment([entry("github")]) == {}
    assert environment([entry("github", secret=True)])["GH_TOKEN"] == "torpor"
    plain = parse_egress([entry("github"), {"host": "api.openai.com"}], "egress")
    assert not any(rule.record == "model" for rule in plain)
    for name in {name for p in presets().values() for name in p.environment} - {"OPENAI_API_KEY"}:
        check_name(name, "env")


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("https://API.anthropic.com/v1/messages", 'preset = "anthropic"'),
        ("http://api.anthropic.com/", 'preset = "anthropic"'),  # which then says: over https
        ("https://raw.githubusercontent.com/x", 'preset = "github"'),
        ("https://gitlab.com/x", 'preset = "gitlab"'),
        ("http://ollama.internal:11434/api/tags", 'preset = "ollama"'),
        ("https://api.github.com:8443/", 'host = "api.github.com", port = 8443'),
        ("tcp://api.github.com:443", 'host = "api.github.com", protocol = "tcp", port = 443'),
        ("https://evil.example/", 'host = "evil.example"'),
    ],
)
def test_what_no_rule_allows_is_hinted_with_the_preset_for_it(url: str, entry: str) -> None:
    request = parse_request("GET", url)
    found = hinted(judge((), request), request)
    assert found.code == "no_rule"
    assert found.hint == f"Add [[tool.torpor.egress]] {entry} to the agent's file, and deploy it."


def test_what_a_rule_is_near_has_its_own_hint() -> None:
    request = parse_request("GET", "http://api.anthropic.com/")
    found = judge(parse_egress([entry("anthropic")], "egress"), request)
    assert hinted(found, request) == found and "https only" in found.reason
