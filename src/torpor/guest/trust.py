"""The one authority that clients in a machine trust: in files where they look, and named in the
environment. It is there before the agent's first import: a context that a module makes then holds
what it found.

One certificate, and nothing else: of the machine's connections all end at the gateway, so that no
other can be needed, and a bundle of a hundred costs an emulated processor two seconds a context.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from base64 import b64decode
from collections.abc import Iterable
from pathlib import Path

from torpor.core.errors import Invalid
from torpor.guest.settings import Settings

_BUNDLE = "authority.pem"
_NO_DIRECTORY = "none"  # OpenSSL's other place to look
_VARIABLES = (
    *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"),
    *("NODE_EXTRA_CA_CERTS", "PIP_CERT", "AWS_CA_BUNDLE", "CARGO_HTTP_CAINFO", "DENO_CERT"),
    *("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "UV_SYSTEM_CERTS_FILE"),
)
# Below the dependencies, and the machine's own.
_BUNDLES_OF_DEPS = ("certifi/cacert.pem", "pip/_vendor/certifi/cacert.pem", "botocore/cacert.pem")
_BUNDLES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/usr/lib/ssl/cert.pem"),
    Path("/usr/lib/python3/dist-packages/certifi/cacert.pem"),
)
_MS_BIND = 4096
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def environment(directory: Path) -> dict[str, str]:
    named = dict.fromkeys(_VARIABLES, str(directory / _BUNDLE))
    return {**named, "SSL_CERT_DIR": str(directory / _NO_DIRECTORY)}


def fingerprint(authority: str) -> str:
    """SHA-256 of the certificate in DER. Raises Invalid."""
    _, begun, rest = authority.partition(_BEGIN)
    body, ended, _ = rest.partition(_END)
    try:
        if not begun or not ended:
            raise ValueError
        return hashlib.sha256(b64decode("".join(body.split()), validate=True)).hexdigest()
    except ValueError as error:
        raise Invalid("the authority is no certificate in PEM") from error


def install(authority: str, settings: Settings) -> None:
    """Raises Invalid, OSError."""
    bundle = write(authority, settings.trust)
    if settings.machine:
        _bind_over(bundle, (*(settings.deps / name for name in _BUNDLES_OF_DEPS), *_BUNDLES))


def write(authority: str, directory: Path) -> Path:
    """To where `environment` of this directory leads. Raises Invalid, OSError."""
    fingerprint(authority)
    (directory / _NO_DIRECTORY).mkdir(parents=True, exist_ok=True)
    bundle = directory / _BUNDLE
    text = authority.rstrip() + "\n"
    if not bundle.exists() or bundle.read_text() != text:  # others may be reading it
        bundle.write_text(text)
    for each in (directory, directory / _NO_DIRECTORY):
        each.chmod(0o755)
    bundle.chmod(0o644)
    return bundle


def _bind_over(bundle: Path, others: Iterable[Path]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for other in others:
        if other.is_file() and libc.mount(bytes(bundle), bytes(other), None, _MS_BIND, None) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"cannot bind over it: {os.strerror(error)}", str(other))
