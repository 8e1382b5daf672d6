"""The command line on a server behind a proxy that speaks TLS and has it at a path."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from tests.unit.cli.conftest import Torpor

from torpor.core.home import Home


def certificate(directory: Path) -> tuple[Path, Path]:
    """Of 127.0.0.1, which is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "here")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    cert, private = directory / "cert.pem", directory / "key.pem"
    cert.write_bytes(made.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return cert, private


class Proxy:
    """Hands what comes for /torpor/ on to the server's socket, without that."""

    def __init__(self, home: Home, cert: Path, key: Path) -> None:
        self.heard: list[bytes] = []
        self._to = str(home.socket("server"))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(cert, key)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(connection,), daemon=True).start()

    def _connect(self, connection: socket.socket) -> None:
        try:
            client = self._context.wrap_socket(connection, server_side=True)
        except OSError:
            return  # it does not trust us
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._to)
        back = threading.Thread(target=_pass, args=(server, client), daemon=True)
        back.start()
        while asked := client.recv(1 << 16):
            self.heard.append(asked)
            server.sendall(asked.replace(b" /torpor/", b" /", 1))
        server.shutdown(socket.SHUT_WR)
        back.join(10)


def _pass(whence: socket.socket, to: socket.socket) -> None:
    while given := whence.recv(1 << 16):
        to.sendall(given)


@pytest.fixture
def proxy(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    cert, key = certificate(tmp_path)
    proxy = Proxy(home, cert, key)
    monkeypatch.setenv("TORPOR_URL", f"https://127.0.0.1:{proxy.port}/torpor/")
    monkeypatch.setenv("TORPOR_API_KEY", "torpor_k")
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    yield proxy
    proxy.close()


def test_a_server_at_a_path_of_a_proxy(torpor: Torpor, proxy: Proxy, agent: str) -> None:
    script = '[["print", "hi"], ["return", 1]]'
    ran = torpor("run", agent, "-i", f"script={script}")
    assert (ran.exit_code, ran.stdout) == (0, "hi\n1\n"), ran.stderr
    asked = b"".join(proxy.heard)
    assert b"POST /torpor/v1/runs HTTP/1.1" in asked
    assert b"authorization: Bearer torpor_k" in asked


def test_an_authority_that_is_not_trusted_is_said(
    torpor: Torpor, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    refused = torpor("ps")
    assert refused.exit_code == 3
    assert "certificate" in refused.stderr and "SSL_CERT_FILE" in refused.stderr


def test_a_server_that_speaks_no_tls_is_said(
    torpor: Torpor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def answer() -> None:
            connection, _ = plain.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        monkeypatch.setenv("TORPOR_URL", f"https://127.0.0.1:{plain.getsockname()[1]}")
        refused = torpor("ps")
        thread.join(10)
    assert refused.exit_code == 3 and "does not speak TLS" in refused.stderr
