"""The host's own rules: egress.toml."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torpor.core.errors import Invalid
from torpor.egress.authority import Authority
from torpor.egress.budgets import DAY, KEY, RUN, Limit
from torpor.egress.hostfile import HostFile, parse

WHOLE = """
[[host]]
name = "api.internal.example"
addresses = ["127.0.0.1", "::1"]
ports = [8443]
ca = "internal-ca.pem"
[[host]]
name = "Ollama.Internal."
addresses = ["10.0.0.7"]
[[deny]]
host = "**.example.net"
[[deny]]
host = "**"
methods = ["DELETE"]
paths = ["/admin/**"]
[[ask]]
host = "api.github.com"
methods = ["DELETE"]
[limits]
cost_per_day = "20 USD"
requests_per_run = 10000
tokens_per_key = "5M"
bytes_out_per_day = "1G"
price_unknown = "0.10 USD"
ask = true
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "internal-ca.pem").write_text(Authority.new().certificate)
    return tmp_path / "egress.toml"


def test_the_whole_of_it(path: Path) -> None:
    path.write_text(WHOLE)
    rules = HostFile(path).current()
    assert rules.problem == ""
    named = rules.hosts["api.internal.example"]
    assert named.addresses == ("127.0.0.1", "::1") and named.ports == (8443,)
    assert named.authority.startswith("-----BEGIN CERTIFICATE")
    assert rules.hosts["ollama.internal"].addresses == ("10.0.0.7",)
    everything, deletions, asking = rules.ceilings
    assert (everything.host, everything.port, everything.protocol) == ("**.example.net", 0, "")
    assert everything.deny and deletions.paths == ("/admin/**",)
    assert asking.ask and not asking.deny and asking.origin == "egress.toml ask api.github.com"
    assert set(rules.limits) == {
        Limit(DAY, "cost", 20.0, True, "egress.toml"),
        Limit(RUN, "requests", 10_000, True, "egress.toml"),
        Limit(KEY, "tokens", 5_000_000, True, "egress.toml"),
        Limit(DAY, "bytes_out", 1 << 30, True, "egress.toml"),
    }
    assert rules.price_unknown == 0.10


def test_no_file_is_no_rules(path: Path) -> None:
    rules = HostFile(path).current()
    assert (rules.problem, rules.hosts, rules.ceilings, rules.limits) == ("", {}, (), ())


def test_it_is_read_anew_when_it_or_what_it_names_has_changed(path: Path) -> None:
    file = HostFile(path)
    assert not file.current().hosts
    path.write_text(WHOLE)
    first = file.current()
    assert len(first.hosts) == 2 and file.current() is first
    authority = path.with_name("internal-ca.pem")
    authority.write_text(Authority.new().certificate)
    os.utime(authority, ns=(1, 1))
    second = file.current().hosts["api.internal.example"]
    assert second.authority != first.hosts["api.internal.example"].authority
    # As editors save: another file under the same name, perhaps of the same size and time.
    other = path.with_name("new.toml")
    other.write_text(WHOLE.replace("example.net", "example.org"))
    os.utime(other, ns=(path.stat().st_mtime_ns,) * 2)
    other.replace(path)
    assert file.current().ceilings[0].host == "**.example.org"
    path.unlink()
    assert not file.current().hosts


@pytest.mark.parametrize(
    "text",
    [
        *("[", "[[hosts]]", "host = 3", "[host]", "deny = [3]", "limits = 3", "x = 1", "\ud800"),
        *("[[host]]", '[[host]]\nname = "*.example.com"', '[[host]]\nname = "127.0.0.1"'),
        *('[[host]]\nname = "a.example"\naddresses = []',),
        *('[[host]]\nname = "a.example"\naddresses = ["b.example"]',),
        *('[[host]]\nname = "a.example"\naddresses = ["0.0.0.0"]',),
        *('[[host]]\nname = "a.example"\naddresses = ["224.0.0.1"]',),
        *('[[host]]\nname = "a.example"\naddresses = ["127.1"]',),
        *('[[host]]\nname = "a.example"\nports = ["443"]',),
        *('[[host]]\nname = "a.example"\nca = "missing.pem"',),
        *('[[host]]\nname = "a.example"\nca = "egress.toml"',),
        *('[[host]]\nname = "a.example"\n[[host]]\nname = "A.example."',),
        *('[[deny]]\nhost = "a.example"\nsecret = "KEY"', '[[deny]]\nmethods = ["GET"]'),
        *('[[ask]]\nhost = "a.example"\nmethods = []', '[[allow]]\nhost = "a.example"'),
        *(
            '[limits]\ncost = "1 USD"',
            "[limits]\ncost_per_day = 1",
            "[limits]\nrequests_per_run = -1",
        ),
        *("[limits]\nprice_unknown = 0", '[limits]\nask = "yes"', "[limits]\ntokens_per_year = 1"),
    ],
)
def test_attempt_11_one_that_cannot_be_read_says_so_and_denies_all(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    problem = HostFile(path).current().problem
    assert problem.startswith(str(path))


def test_what_is_wrong_with_it_is_said_with_what_to_do(path: Path) -> None:
    path.write_text('[[host]]\nname = "a.example"\nadresses = ["10.0.0.7"]')
    problem = HostFile(path).current().problem
    assert "host[0] does not know 'adresses'. It knows name," in problem


def test_attempt_11_one_that_may_not_be_read_denies_all(path: Path) -> None:
    path.mkdir()
    assert HostFile(path).current().problem
    path.rmdir()
    path.write_text("#" * (1 << 20) + "\n")
    assert "larger" in HostFile(path).current().problem


def test_attempt_11_another_file_behind_a_link_is_read(path: Path) -> None:
    one, other = path.with_name("one"), path.with_name("other")
    one.write_text('[[deny]]\nhost = "**"\n')
    other.write_text('[[ask]]\nhost = "a.io"\n')  # as large
    for each in (one, other):
        os.utime(each, ns=(1, 1))
    path.symlink_to(one)
    file = HostFile(path)
    assert file.current().ceilings[0].deny
    path.unlink()
    path.symlink_to(other)
    assert file.current().ceilings[0].ask
    path.unlink()
    path.symlink_to(path)
    assert file.current().problem


VALUES = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=10) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["host", "name", "addresses", "ca", "ports", "methods", "x"]), inner
        )
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["host", "deny", "ask", "limits", "x"]), VALUES))
def test_anything_is_read_or_refused(path: Path, document: dict[str, Any]) -> None:
    try:
        parse(document, path)
    except Invalid as refusal:
        assert refusal.message.startswith(str(path))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_deny(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    rules = HostFile(path).current()
    assert rules.problem or not rules.limits
