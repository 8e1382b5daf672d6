"""Fifty attempts to get out of an agent's confinement, or at a secret, as others' sandboxes have
seen them. Each has a test, or several at different layers, whose name begins with its number."""

from __future__ import annotations

import re

from tests.house.sources import ROOT

ATTEMPTS = {
    # Hosts, and how requests are read.
    1: "a host that no rule names: by name, SNI or CONNECT",
    2: "a NUL in a name: evil.com\\0.allowed.com",
    3: "names that look alike: allowed.com.evil.com, evilallowed.com",
    4: "a trailing dot, capitals, Punycode, blanks in a host",
    5: "Host, SNI and the address that was connected to disagree",
    6: "a target in absolute form that names another host",
    7: "another port of an allowed host",
    8: "plain http where https is allowed",
    9: "a secret in clear to an attacker's address, with an allowed host's name",
    10: "a second proxy, in the machine",
    11: "rules that are empty, malformed, unreadable",
    12: "paths that servers read differently: .., %2e%2e, //, %2F, ;",
    13: "TRACE, unknown methods, X-HTTP-Method-Override",
    14: "two lengths of one body, pipelining",
    15: "CR, LF, NUL in headers",
    16: "Connection: authorization, Proxy-Authorization",
    17: "Upgrade or h2c as a tunnel",
    # Addresses.
    18: "literal addresses: decimal, octal, hexadecimal, IPv4 in IPv6",
    19: "a cloud's metadata",
    20: "an allowed name that leads to a private address",
    21: "a name that leads elsewhere between check and connection",
    22: "IPv4 in IPv6 past a list",
    23: "data in labels of DNS",
    24: "ICMP, UDP, QUIC; in front of the gateway; again after a thaw and a recovery",
    25: "torpor's own sockets and ports",
    26: "a redirect from an allowed host",
    # Secrets.
    27: "an attacker's own key to an allowed host",
    28: "a host that echoes the secret: encoded, in pieces",
    29: "a compressed answer that hides it",
    30: "a secret sent elsewhere, or by another agent",
    31: "a certificate that is not the host's",
    32: "the secret in errors, logs, health, commands",
    33: "the secret in memory, snapshots, database, files after ten freezes and a crash",
    34: "a fork, or another run, with somebody's permission",
    35: "a secret that is changed or removed under a request",
    36: "what only the host may say, said by a guest",
    # Where something is allowed.
    37: "data in queries and headers of a host that is only read",
    38: "a forge that is allowed, an attacker's repository there",
    39: "an object store that is allowed, an attacker's bucket there",
    40: "many calls at once, or sockets, past a budget",
    41: "bodies and streams without end, of any number, and those who do not read",
    # The link, and people.
    42: "forged streams, lying lengths, halves of frames, data after the end",
    43: "the stream of a machine that has lost its run",
    44: "a page for a decision with HTML, escapes, a very long URL",
    45: "a body that changes after the decision, a decision that is used twice",
    # Code in the machine.
    46: "the supervisor's and the gateway's memory, descriptors, devices",
    47: "namespaces, mounts, setuid programs, keyrings, shared memory",
    48: "artifacts that are links, pipes, devices, elsewhere, endless",
    49: "files that others would load",
    50: "all processes, memory, disk, descriptors; the clock; sysrq",
}


def test_each_attempt_has_a_test() -> None:
    found = {
        int(number)
        for path in (ROOT / "tests").rglob("test_*.py")
        for number in re.findall(r"^(?:async )?def test_attempt_(\d\d)_", path.read_text(), re.M)
    }
    missing = {number: what for number, what in ATTEMPTS.items() if number not in found}
    assert not missing, f"no test is named test_attempt_NN_… for {missing}"
    assert sorted(ATTEMPTS) == list(range(1, 51))
