"""A real server on loopback that keeps every byte it was sent, and TLS for it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HEAD_END = b"\r\n\r\n"


@dataclass
class Received:
    """One request, as it came."""

    head: bytes
    body: bytes = b""
    connection: int = 0

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n")[0].decode()

    def values(self, name: str) -> list[str]:
        lines = [line.partition(b":") for line in self.head.split(b"\r\n")[1:] if line]
        return [v.strip().decode() for n, _, v in lines if n.decode().lower() == name]


Respond = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Upstream:
    port: int = 0
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)  # a connection has been


async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
    body = received.line.encode()
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))


@asynccontextmanager
async def upstream(
    respond: Respond = answer, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Upstream]:
    """Reads requests as HTTP/1.1 does, and lets `respond` write whatever it likes."""
    found = Upstream()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.connections += 1
        number = found.connections
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                received = Received(await reader.readuntil(HEAD_END), connection=number)
                found.received.append(received)
                received.body = await _body(received, reader)
                await respond(received, writer)
                await writer.drain()
        writer.close()
        found.closed.set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _body(received: Received, reader: asyncio.StreamReader) -> bytes:
    if received.values("transfer-encoding") == ["chunked"]:
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
        return body
    lengths = received.values("content-length")
    return await reader.readexactly(int(lengths[0])) if lengths else b""


class Authority:
    """One that signs certificates of loopback's names."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self._certificate = self._sign(self._name, self._key, [], authority=True)

    def trusting(self) -> ssl.SSLContext:
        """A client's."""
        return ssl.create_default_context(cadata=self.pem)

    @property
    def pem(self) -> str:
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def serving(self, directory: Path, *names: str, days: int = 1) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        leaf = self._sign(subject, key, names, days=days)
        path = directory / f"{names[0]}-{days}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + leaf.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        names: tuple[str, ...] | list[str],
        *,
        authority: bool = False,
        days: int = 1,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=10))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if names:
            alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(self._key, hashes.SHA256())
