"""How a request goes out, or why it does not: the parts of the judge put together."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from torpor.core.egress import Request, Verdict, parse_request
from torpor.core.errors import Invalid
from torpor.core.home import Home
from torpor.core.prices import Prices
from torpor.egress.admission import Admission, Outgoing, Refusal
from torpor.egress.authority import Authority
from torpor.egress.budgets import Budgets
from torpor.egress.hostfile import HostFile
from torpor.egress.judge import PolicyJudge
from torpor.egress.protocol import NEEDS_PERMISSION
from torpor.egress.resolve import Resolver
from torpor.egress.secrets import Secrets

PUBLIC = "93.184.216.34"
VALUE = "sk-abcdefghijklmnopqrst"
PRICES = Prices({"gpt": {"input": 1.0, "output": 10.0}})
EGRESS: list[dict[str, Any]] = [
    {"preset": "openai"},
    {"host": "api.github.com", "secret": "GITHUB_TOKEN"},
    {"host": "api.github.com", "methods": ["DELETE"], "ask": True},
    {"host": "plain.example.com"},
    {"host": "recorded.example.com", "record": True},
    {"host": "db.example.com", "port": 5432, "protocol": "tcp"},
    {"host": "api.internal.example", "port": 8443},
    {"host": "x.example.net"},
]


def secret(name: str, host: str, **more: Any) -> dict[str, Any]:
    sealed = base64.b64encode(VALUE.encode()).decode()
    placement = {"header": "Authorization: Bearer {}"}
    entry = {"name": name, "hosts": [host], "agents": None, "placement": placement}
    return entry | {"sealed": sealed} | more


@dataclass
class Bench:
    path: Path
    addresses: Sequence[str] = (PUBLIC,)
    looked_up: list[str] = field(default_factory=list)
    ports: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        async def look_up(host: str) -> Sequence[str]:
            self.looked_up.append(host)
            await asyncio.sleep(0)
            return self.addresses

        self.judge = PolicyJudge(
            HostFile(self.path),
            Secrets(lambda name, sealed: sealed.decode()),
            Resolver(look_up, is_ours=lambda address: False),
            Budgets(lambda: PRICES),
            own_ports=lambda: self.ports,
            now=lambda: 1_800_000_000.0,
        )
        self.judge.set_secrets(
            [secret("OPENAI_API_KEY", "api.openai.com"), secret("GITHUB_TOKEN", "api.github.com")]
        )
        self.policy()

    def policy(self, **more: Any) -> None:
        self.judge.set_policy("r", {"agent": "writer", "egress": EGRESS} | more)

    def host(self, text: str) -> None:
        self.path.write_text(text)

    def admit(self, url: str, method: str = "GET", **more: Any) -> Admission | Refusal:
        return asyncio.run(self.judge.admit(outgoing(url, method, **more)))

    def admitted(self, url: str, method: str = "GET", **more: Any) -> Admission:
        found = self.admit(url, method, **more)
        assert isinstance(found, Admission), found
        return found

    def refused(self, url: str, method: str = "GET", **more: Any) -> Refusal:
        found = self.admit(url, method, **more)
        assert isinstance(found, Refusal), found
        if found.status:
            assert found.verdict["verdict"] in ("deny", "ask") and found.message
        return found


def outgoing(url: str, method: str = "GET", **more: Any) -> Outgoing:
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    host, _, port = place.partition(":")
    number = int(port) if port else {"https": 443, "http": 80}[scheme]
    request = Request(scheme, host, number, method, slash + path) if scheme != "tcp" else None
    request = request or Request("tcp", host, number)
    run: str = more.pop("run", "r")
    return Outgoing(run, request, **more)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "egress.toml")


def test_a_plain_request_goes_out_as_it_is_to_a_checked_address(bench: Bench) -> None:
    headers = [("accept", "*/*"), ("authorization", "Bearer own"), ("accept-encoding", "gzip")]
    found = bench.admitted("https://plain.example.com/a?b=c", headers=headers)
    assert found.verdict == {
        "verdict": "allow",
        "rule": "host plain.example.com",
        "address": PUBLIC,
    }
    assert (found.addresses, found.headers, found.target) == ((PUBLIC,), headers, "/a?b=c")
    assert found.tls is None and found.redaction is None


def test_attempt_01_what_no_rule_names_is_refused_and_not_asked_of_dns(bench: Bench) -> None:
    found = bench.refused("https://unlisted.example/")
    assert (found.status, found.code) == (403, "no_rule")
    assert 'preset = "anthropic"' in bench.refused("https://api.anthropic.com/").message
    assert found.verdict["reason"] == found.message and "unlisted.example" in found.message
    assert bench.looked_up == []
    assert bench.refused("https://plain.example.com/", run="other").code == "no_policy"


def test_attempt_11_rules_that_cannot_be_read_let_nothing_out(bench: Bench) -> None:
    bench.host("[[deny]]\nhots = 'x'")
    found = bench.refused("https://plain.example.com/")
    assert found.code == "unreadable_rules" and "hots" in found.message
    bench.host("")
    bench.admitted("https://plain.example.com/")
    with pytest.raises(Invalid):
        bench.judge.set_policy("r", {"agent": "writer", "egress": [{"hots": "x"}]})
    assert bench.refused("https://plain.example.com/").code == "unreadable_rules"
    for policy in ({}, {"agent": 3}, {"agent": "a", "budget": {"x": 1}}):
        with pytest.raises(Invalid):
            bench.judge.set_policy("r", policy)


def test_attempt_16_a_connection_header_does_not_take_out_ours(bench: Bench) -> None:
    headers = [
        ("connection", "Authorization, x-own"),
        ("proxy-authorization", "Basic x"),
        ("authorization", "Bearer theirs"),
        ("x-own", "1"),
        ("te", "trailers"),
        ("x-kept", "1"),
    ]
    found = bench.admitted("https://api.github.com/", headers=headers)
    assert found.headers == [
        ("x-kept", "1"),
        ("authorization", f"Bearer {VALUE}"),
        ("accept-encoding", "identity"),
    ]


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1"])
def test_attempt_20_a_name_that_leads_inside_is_refused_until_the_host_names_it(
    bench: Bench, address: str
) -> None:
    bench.addresses = (PUBLIC, address)
    url = "https://api.internal.example:8443/"
    found = bench.refused(url)
    assert (found.status, found.code) == (403, "private_address") and address in found.message
    bench.host(f'[[host]]\nname = "api.internal.example"\naddresses = ["{address}"]')
    bench.looked_up.clear()
    assert bench.admitted(url).addresses == (address,)
    assert bench.looked_up == []  # a name of the host's file is not asked of DNS
    # It allows the address, not the host: that is the agent's rules' to do.
    bench.host('[[host]]\nname = "other.internal"\naddresses = ["127.0.0.1"]')
    assert bench.refused("https://other.internal/").code == "no_rule"


def test_attempt_23_no_name_is_looked_up_before_it_is_allowed(bench: Bench) -> None:
    """A name can carry data to whoever has its domain."""
    bench.policy(egress=[{"host": "**.evil.example", "ask": True}], budget={"requests": 0})
    assert bench.refused("https://data.evil.example/").status
    bench.policy(egress=[{"host": "**.evil.example", "ask": True}])
    assert bench.refused("https://data.evil.example/").verdict["verdict"] == "ask"
    assert bench.looked_up == []


def test_attempt_25_torpors_own_ports_are_not_reached_by_a_name_of_the_hosts_file(
    bench: Bench,
) -> None:
    bench.host('[[host]]\nname = "api.internal.example"\naddresses = ["127.0.0.1"]\nports = [8443]')
    bench.admitted("https://api.internal.example:8443/")
    bench.ports = (8443,)
    assert bench.refused("https://api.internal.example:8443/").code == "port"
    bench.policy(egress=[{"host": "api.internal.example", "port": 22, "protocol": "tcp"}])
    assert bench.refused("tcp://api.internal.example:22").code == "port"


def test_attempt_26_where_a_redirect_leads_is_judged_like_any_request(bench: Bench) -> None:
    """The broker follows none: the client's next request comes here."""
    bench.admitted("https://plain.example.com/redirect")
    assert bench.refused("https://evil.example/landing").code == "no_rule"
    assert bench.refused("http://plain.example.com/").code == "plain_http"
    assert bench.refused("http://169.254.169.254/latest").code == "bad_host"


def test_attempt_27_a_key_of_the_agents_own_is_replaced_by_ours(bench: Bench) -> None:
    headers = [("Authorization".lower(), "Bearer sk-theirs"), ("x-api-key", "k"), ("cookie", "c=1")]
    found = bench.admitted("https://api.github.com/x?access_token=t&a=b", headers=headers)
    assert found.headers == [("authorization", f"Bearer {VALUE}"), ("accept-encoding", "identity")]
    assert found.target == "/x?a=b" and found.verdict["secret"] == "GITHUB_TOKEN"
    assert VALUE not in str(found.verdict)


def test_attempt_29_no_encoding_is_asked_for_where_a_secret_goes(bench: Bench) -> None:
    headers = [("accept-encoding", "gzip, br"), ("accept", "*/*")]
    headers.append(("sec-websocket-extensions", "permessage-deflate"))
    found = bench.admitted("https://api.github.com/", headers=headers)
    assert ("accept-encoding", "identity") in found.headers and len(found.headers) == 3
    assert found.redaction is not None


def test_attempt_30_a_secret_goes_only_where_it_is_bound_to_and_only_for_its_agents(
    bench: Bench,
) -> None:
    url = "https://api.github.com/"
    bench.judge.set_secrets([secret("GITHUB_TOKEN", "github.com")])
    found = bench.refused(url)
    assert found.code == "secret_not_bound" and "only for github.com" in found.message
    bench.judge.set_secrets([secret("GITHUB_TOKEN", "api.github.com", agents=["reader"])])
    assert "not for the agent writer" in bench.refused(url).message
    bench.judge.set_secrets([])
    found = bench.refused(url)
    assert found.code == "no_secret"
    assert "torpor secrets set GITHUB_TOKEN --host api.github.com" in found.message
    assert "secret" not in found.verdict


def test_attempt_31_a_certificate_is_verified_by_the_systems_authorities_or_one_that_is_named(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text(Authority.new().certificate)
    bench.host(
        '[[host]]\nname = "api.internal.example"\naddresses = ["127.0.0.1"]\nca = "ca.pem"\n'
    )
    url = "https://api.internal.example:8443/"
    tls = bench.admitted(url).tls
    assert tls is not None and tls.verify_mode == ssl.CERT_REQUIRED and tls.check_hostname
    assert bench.admitted(url).tls is tls  # made once
    assert bench.admitted("https://plain.example.com/").tls is None
    (tmp_path / "ca.pem").write_text(Authority.new().certificate + "\n")
    assert bench.admitted(url).tls is not tls


def test_attempt_34_what_a_person_allowed_comes_from_the_worker_alone(bench: Bench) -> None:
    url = "https://api.github.com/repos/acme/x"
    found = bench.refused(url, "DELETE")
    assert (found.status, found.fields) == (0, {"kind": "http", "ask": True, "secret": True})
    assert found.verdict["verdict"] == "ask"
    # Begun as an operation, but nobody was asked.
    found = bench.refused(url, "DELETE", record="http")
    assert (found.status, found.code) == (403, NEEDS_PERMISSION)
    headers = [("permit", "abc"), ("x-torpor-permit", "abc")]
    assert bench.refused(url, "DELETE", headers=headers).verdict["verdict"] == "ask"
    permitted = bench.admitted(url, "DELETE", record="http", permit="abc")
    assert permitted.verdict["verdict"] == "allow"  # the body of no other is sent


def test_what_is_recorded_is_begun_as_an_operation(bench: Bench) -> None:
    url = "https://recorded.example.com/"
    found = bench.refused(url)
    assert (found.status, found.fields) == (0, {"kind": "http"})
    assert found.verdict["record"] == "http" and found.verdict["verdict"] == "allow"
    bench.admitted(url, record="http")
    model = "https://api.openai.com/v1/responses"
    assert bench.refused(model, "POST").fields == {"kind": "model", "secret": True}
    # As something else it would not be counted as what it is.
    assert bench.refused(model, "POST", record="http").code == "not_recorded"
    found_model = bench.admitted(model, "POST", record="model")
    assert found_model.redaction is not None and found_model.charge is not None


def test_the_hosts_file_denies_and_asks_whatever_agents_say(bench: Bench) -> None:
    bench.admitted("https://x.example.net/")
    bench.host(
        '[[deny]]\nhost = "**.example.net"\n[[ask]]\nhost = "plain.example.com"\nmethods = ["PUT"]'
    )
    found = bench.refused("https://x.example.net/")
    assert found.code == "denied" and found.verdict["rule"] == "egress.toml deny **.example.net"
    assert bench.refused("https://plain.example.com/", "PUT").fields["ask"] is True
    bench.admitted("https://plain.example.com/")


def test_attempt_40_requests_at_once_do_not_pass_a_limit_of_the_host(bench: Bench) -> None:
    bench.host("[limits]\nrequests_per_day = 10")

    async def all_at_once() -> list[Admission | Refusal]:
        judged = (bench.judge.admit(outgoing("https://plain.example.com/")) for _ in range(100))
        return await asyncio.gather(*judged)

    found = asyncio.run(all_at_once())
    assert sum(isinstance(each, Admission) for each in found) == 10
    refused = next(each for each in found if isinstance(each, Refusal))
    assert (refused.status, refused.code) == (402, "over_budget")
    assert refused.message.startswith("the agent today may use 10 requests (egress.toml)")


def test_a_budget_that_asks_freezes_what_would_pass_it(bench: Bench) -> None:
    bench.policy(budget={"cost": "0.005 USD", "ask": True})
    url = "https://api.openai.com/v1/chat/completions"
    sent = json.dumps({"model": "gpt", "max_tokens": 1000}).encode()
    first = bench.admitted(url, "POST", record="model")
    assert first.charge is not None and "a person decides" in first.charge.sent(sent)
    assert first.charge.asks
    found = bench.refused(url, "POST", record="model")
    assert found.code == NEEDS_PERMISSION and found.fields.get("ask") is True
    bench.admitted("https://plain.example.com/")  # costs nothing
    allowed = bench.admitted(url, "POST", record="model", permit="abc")
    assert allowed.charge is not None and allowed.charge.sent(sent) == ""


def test_what_a_person_allows_does_not_pass_a_limit_that_denies(bench: Bench) -> None:
    bench.host("[limits]\nrequests_per_run = 0")
    url = "https://api.github.com/x"
    found = bench.refused(url, "DELETE", record="http", permit="abc")
    assert (found.code, found.verdict["verdict"]) == ("over_budget", "deny")
    bench.host("[limits]\nrequests_per_run = 0\nask = true")
    bench.admitted(url, "DELETE", record="http", permit="abc")


def test_what_the_log_knows_to_be_used_counts(bench: Bench) -> None:
    bench.policy(budget={"requests": 5}, used={"run": {"requests": 5}, "agent": None})
    assert bench.refused("https://plain.example.com/").code == "over_budget"
    bench.judge.forget("r")
    bench.policy(budget={"requests": 5})
    bench.admitted("https://plain.example.com/")


def test_a_models_api_is_not_free_where_its_price_is_unknown(bench: Bench) -> None:
    bench.host('[limits]\nprice_unknown = "0.30 USD"\ncost_per_run = "0.50 USD"')
    url = "https://api.openai.com/v1/images/generations"
    first, second = (bench.admitted(url, "POST").charge for _ in range(2))
    assert first is not None and second is not None
    assert first.sent(b"{}") == "" and "0.5 USD" in second.sent(b"{}")
    files = bench.admitted("https://api.openai.com/v1/files", "POST").charge
    assert files is not None and files.sent(b"{}") == ""


def test_the_deployments_own_model_needs_no_rule_and_is_counted(bench: Bench) -> None:
    bench.policy(egress=[], budget={"requests": 1})
    url = "http://model.torpor:8400/v1/chat/completions"
    assert bench.refused(url, "POST").fields == {"kind": "model"}
    found = bench.admitted(url, "POST", record="model")
    assert found.addresses == () and bench.looked_up == []
    assert bench.refused(url, "POST", record="model").code == "over_budget"
    assert bench.refused("tcp://model.torpor:8400").code == "no_rule"
    # Nor does it need a policy, which may come later.
    assert bench.admitted(url, "POST", record="model", run="other").addresses == ()
    bench.host("[")
    assert bench.refused(url, "POST", record="model", run="other").code == "unreadable_rules"


def test_a_connection_is_admitted_by_host_and_port(bench: Bench) -> None:
    found = bench.admitted("tcp://db.example.com:5432")
    assert found.addresses == (PUBLIC,) and found.redaction is None
    assert bench.refused("tcp://db.example.com:22").code == "port"


def test_a_name_without_an_address_is_said_to_have_none(bench: Bench) -> None:
    bench.addresses = ()
    found = bench.refused("https://plain.example.com/")
    assert (found.status, found.code, found.retry) == (502, "unresolved", True)


def test_a_policy_that_is_taken_back_denies(bench: Bench) -> None:
    bench.judge.set_policy("r", None)
    assert bench.refused("https://plain.example.com/").code == "no_policy"


def test_the_judge_of_a_data_directory(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").create()
    judge = PolicyJudge.of(home, lambda name, sealed: sealed.decode())
    judge.set_policy("r", {"agent": "a", "egress": []})
    found = asyncio.run(judge.admit(outgoing("https://a.example/")))
    assert isinstance(found, Refusal) and found.code == "no_rule"
    # The port on which its server listens is torpor's own.
    home.egress.write_text('[[host]]\nname = "own.internal"\naddresses = ["127.0.0.1"]')
    judge.set_policy("r", {"agent": "a", "egress": [{"host": "own.internal", "port": 8080}]})
    url = "https://own.internal:8080/"
    assert isinstance(asyncio.run(judge.admit(outgoing(url))), Admission)
    (home.run / "server.json").write_text('{"ports": [8080]}')
    found = asyncio.run(judge.admit(outgoing(url)))
    assert isinstance(found, Refusal) and "torpor's own" in found.message
    judge.budgets.close()
    assert home.egress_usage.exists()


def test_what_would_be_decided_is_explained_without_doing_anything(bench: Bench) -> None:
    def explained(method: str, url: str) -> Verdict:
        request = parse_request(method, url)
        return bench.judge.explain({"agent": "writer", "egress": EGRESS}, request)

    assert explained("GET", "https://api.github.com/user").secret == "GITHUB_TOKEN"
    assert explained("DELETE", "https://api.github.com/user").decision == "ask"
    assert explained("POST", "https://evil.example/").code == "no_rule"
    assert 'preset = "anthropic"' in explained("GET", "https://api.anthropic.com/").hint
    bench.host('[[deny]]\nhost = "**.example.net"\n')
    assert explained("GET", "https://x.example.net/").code == "denied"
    bench.host("[[deny]]\n")
    assert explained("GET", "https://api.github.com/user").code == "unreadable_rules"
    bench.host("")
    bench.judge.set_secrets([])
    assert explained("GET", "https://api.github.com/user").code == "no_secret"
    assert bench.looked_up == []
    assert bench.judge.budgets.used(("per_run", "")) == {}


def test_attempt_40_a_web_socket_takes_no_budget_unseen(bench: Bench) -> None:
    """It is no POST, and nobody can tell what is asked for over it."""
    url = "https://api.openai.com/v1/realtime"
    assert bench.admitted(url, upgrade="websocket").charge is not None
    for budget in ({"cost": "2 USD"}, {"tokens": 1000}):
        bench.policy(budget=budget)
        refused = bench.refused(url, upgrade="websocket")
        assert refused.code == "not_counted" and "cannot be counted" in refused.message
        bench.admitted("https://plain.example.com/", upgrade="websocket")
    bench.policy()
    bench.host('[limits]\ncost_per_day = "2 USD"\n')
    assert bench.refused(url, upgrade="websocket").code == "not_counted"
