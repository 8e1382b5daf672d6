"""Certificates for gateways: what clients of several makes take, and nothing else."""

from __future__ import annotations

import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from torpor.core.egress import HTTP, TCP, Rule
from torpor.core.errors import Invalid
from torpor.egress.authority import NAMES_MAX, Authority, Leaf, names_of

OURS = Authority.new()


def shake_hands(leaf: Leaf, name: str, directory: Path, trusted: str = OURS.certificate) -> None:
    """A client that trusts `trusted` alone meets a server with this certificate, as `name`."""
    client = ssl.create_default_context(cadata=trusted)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    server = _serving(leaf, directory)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ours.version() == "TLSv1.3"
    assert ours.getpeercert()


def _serving(leaf: Leaf, directory: Path) -> ssl.SSLContext:
    (directory / "chain.pem").write_text(leaf.chain)
    (directory / "key.pem").write_text(leaf.key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(directory / "chain.pem", directory / "key.pem")
    return server


NAMES = ("api.example.com", "*.example.net", "xn--bcher-kva.example", "127.0.0.1", "[::1]")


@pytest.mark.parametrize(
    "name", ["api.example.com", "a.example.net", "bücher.example", "127.0.0.1", "::1"]
)
def test_strict_clients_take_a_leaf_for_each_of_its_names(name: str, tmp_path: Path) -> None:
    shake_hands(OURS.leaf(NAMES), name, tmp_path)


@pytest.mark.parametrize("name", ["example.com", "a.b.example.net", "example.net", "127.0.0.2"])
def test_a_leaf_is_for_no_other_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(OURS.leaf(NAMES), name, tmp_path)


def test_another_authority_is_not_trusted_and_a_leaf_is_none(tmp_path: Path) -> None:
    leaf = OURS.leaf(["api.example.com"])
    other = Authority.new()
    assert other.fingerprint != OURS.fingerprint
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        shake_hands(leaf, "api.example.com", tmp_path, other.certificate)


class _Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None: ...


@contextmanager
def served(leaf: Leaf, directory: Path) -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), _Hello)
    server.socket = _serving(leaf, directory).wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


_NODE = """
const https = require("https"), fs = require("fs");
https.get("https://localhost:PORT/", r => r.on("data", d => process.stdout.write(d)))
"""
CLIENTS = {
    "curl": ["curl", "-sS", "--cacert", "ROOTS", "https://localhost:PORT/"],
    "node": ["node", "-e", _NODE],
    "openssl": ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "ROOTS"],
}


@pytest.mark.parametrize("client", CLIENTS)
def test_clients_of_other_makes_take_it(client: str, tmp_path: Path) -> None:
    ca, leaf = tmp_path / "ca.pem", OURS.leaf(["localhost"])
    ca.write_text(OURS.certificate)
    with served(leaf, tmp_path) as port:
        command = [
            each.replace("PORT", str(port)).replace("ROOTS", str(ca)) for each in CLIENTS[client]
        ]
        if client == "openssl":
            command.append(str(tmp_path / "chain.pem"))
        try:
            done = subprocess.run(
                command,
                env={"PATH": "/usr/bin:/bin", "NODE_EXTRA_CA_CERTS": str(ca)},
                capture_output=True,
                text=True,
                timeout=60,
            )
        except FileNotFoundError:
            pytest.skip(f"there is no {client}")
    assert done.returncode == 0, done.stderr
    assert "hello" in done.stdout or "OK" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="a time of before 2038 is of no interest")
@pytest.mark.parametrize("year", [1970, 2026, 2200])
def test_the_time_does_not_matter(year: int, tmp_path: Path) -> None:
    ca, leaf = tmp_path / "ca.pem", OURS.leaf(["a.example"])
    ca.write_text(OURS.certificate)
    (tmp_path / "leaf.pem").write_text(leaf.chain)
    at = str(int((year - 1970) * 365.2425 * 86400))
    command = ["openssl", "verify", "-attime", at, "-CAfile", str(ca), str(tmp_path / "leaf.pem")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_leaves_are_for_what_rules_reach_by_tls() -> None:
    rules = [
        Rule("b.example"),
        Rule("a.example", methods=("GET",)),
        Rule("a.example", methods=("POST",)),
        Rule("*.example"),
        Rule("**.deep.example"),  # no certificate can say that
        Rule("plain.example", 80, HTTP),
        Rule("db.example", 5432, TCP),
    ]
    assert names_of(rules) == ["*.example", "a.example", "b.example"]
    (leaf,) = OURS.leaves(rules)
    assert leaf.names == ("*.example", "a.example", "b.example")
    assert leaf.to_json() == {"names": [*leaf.names], "chain": leaf.chain, "key": leaf.key}
    assert OURS.leaves([]) == []
    many = [Rule(f"h{n}.example") for n in range(NAMES_MAX + 1)]
    assert [len(each.names) for each in OURS.leaves(many)] == [NAMES_MAX, 1]


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "a..b", "*", "**.a.example", "a.*.example", "a b", "a\0b", "a/b", "x" * 64),
        *("bücher", "a." * 127 + "a", "-a.example", "A.example", "a.example."),
    ],
)
def test_no_certificate_is_for_what_is_no_name(name: str) -> None:
    with pytest.raises(Invalid):
        OURS.leaf([name])


def test_keys_are_not_shown() -> None:
    leaf = OURS.leaf(["a.example"])
    assert "PRIVATE" not in repr(leaf)
    assert repr(OURS.key) not in repr(OURS) and OURS.key.hex() not in repr(OURS)


_RSA = rsa.generate_private_key(65537, 2048).private_bytes(
    Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
)


def test_what_comes_from_elsewhere_is_an_authority_with_its_key() -> None:
    assert Authority.given(OURS.certificate, OURS.key) == OURS
    assert Authority.given(OURS.certificate, OURS.key).fingerprint == OURS.fingerprint
    leaf = OURS.leaf(["a.example"])
    alone = leaf.chain.removesuffix(OURS.certificate)
    for certificate, key in (
        (OURS.certificate, Authority.new().key),
        (OURS.certificate, b""),
        (OURS.certificate, _RSA),
        (alone, OURS.key),
        ("", OURS.key),
        ("-----BEGIN CERTIFICATE-----\n", OURS.key),
    ):
        with pytest.raises(Invalid):
            Authority.given(certificate, key)
