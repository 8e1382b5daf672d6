"""The peer of `torpor bench egress`: mitmproxy, which ends TLS and makes its own requests, too.

It is no dependency: what runs is the `mitmdump` of this host, or else one that uv puts into an
environment of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from torpor.core.errors import HostError, Missing
from torpor.image.deps import uv

_INSTALL_S_MAX = 180.0
_START_S_MAX = 30.0
_LOOK_S = 0.05
_NAME = "mitmdump"


@dataclass(frozen=True)
class Proxy:
    url: str
    pid: int
    authority: str  # PEM: what its certificates are signed with


@dataclass(frozen=True)
class Peer:
    """mitmproxy, or why there is none."""

    command: str = ""
    about: str = ""


def find() -> Peer:
    """Blocks while it is installed."""
    try:
        command = shutil.which(_NAME) or _installed()
        version = _output(command, "--version")
    except (OSError, subprocess.SubprocessError, Missing) as error:
        return Peer(about=f"mitmproxy could not be installed: {_last_line(error)}")
    return Peer(command, version.splitlines()[0].replace(": ", " "))


def _installed() -> str:
    """Raises Missing, OSError, subprocess.SubprocessError."""
    find = f"import shutil; print(shutil.which({_NAME!r}))"
    return _output(*uv(), "tool", "run", "--with", "mitmproxy", "python", "-c", find)


def _output(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_INSTALL_S_MAX, check=True
    )
    return done.stdout.strip()


def _last_line(error: Exception) -> str:
    complaint = getattr(error, "stderr", None) or str(error)
    return str(complaint).strip().splitlines()[-1]


@contextlib.asynccontextmanager
async def proxy(peer: Peer, directory: Path, authority: Path) -> AsyncIterator[Proxy]:
    """One that trusts `authority` upstream, on `directory`. Raises HostError."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = [f"confdir={directory}", f"ssl_verify_upstream_trusted_ca={authority}"]
    # No HTTP/2, no flows kept or shown: what it need not do, it does not.
    settings += ["http2=false", "flow_detail=0"]
    process = await asyncio.create_subprocess_exec(
        *(peer.command, "--quiet", "--listen-host", "127.0.0.1", "--listen-port", str(port)),
        *(word for each in settings for word in ("--set", each)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await _listening(port)
        certificate = (directory / "mitmproxy-ca-cert.pem").read_text()
        yield Proxy(f"http://127.0.0.1:{port}", process.pid, certificate)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _listening(port: int) -> None:
    try:
        async with asyncio.timeout(_START_S_MAX):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return
                await asyncio.sleep(_LOOK_S)
    except TimeoutError as error:
        raise HostError("mitmproxy does not listen") from error
