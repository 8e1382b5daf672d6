"""The host's key: 32 random bytes in the data directory, made once, that seal other keys and
secrets for this host (`torpor.snapshot.seal`).

What it seals is a salt, then the bytes sealed with what is derived from the host's key, that salt
and the purpose. Whose it is is authenticated along, so no row of a table passes for another's.

Only what has to open something reads the file: the server (`torpor.worker.sealing`), and the
broker for the secrets that it sends (`torpor.egress`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag

from torpor.core.errors import Damaged, HostError, Missing
from torpor.snapshot.seal import KEY_BYTES, SALT_BYTES, Key, new_salt

# What is sealed: no bytes of one kind open as another.
RUN_KEY = b"torpor run key 1"
AUTHORITY = b"torpor authority 1"
SECRET = b"torpor secret 1"


def seal(host: Key, purpose: bytes, owner: str, plain: bytes) -> bytes:
    salt = new_salt()
    return salt + host.sealer(purpose, salt).seal(0, plain, owner.encode())


def unseal(host: Key, purpose: bytes, owner: str, sealed: bytes) -> bytes:
    """What was sealed for this purpose and owner. Raises Damaged."""
    salt, rest = sealed[:SALT_BYTES], sealed[SALT_BYTES:]
    try:
        return host.sealer(purpose, salt).open(0, rest, owner.encode())
    except InvalidTag as error:
        raise Damaged(
            f"the key of {owner} does not open: it was changed, or wrapped with another host's key",
            hint="Whatever it seals cannot be read. Restore the database from a copy.",
        ) from error


def read_host_key(path: Path) -> Key:
    """Raises Missing (it is gone), HostError (it is no key)."""
    try:
        secret = path.read_bytes()
    except FileNotFoundError as error:
        raise Missing(
            f"{path} is gone, and no sealed snapshot can be read without it",
            hint="Put it back from a copy. Nothing else opens the snapshots.",
        ) from error
    if len(secret) != KEY_BYTES:
        raise HostError(
            f"{path} holds {len(secret)} bytes, not the {KEY_BYTES} of a key",
            hint="Put it back from a copy.",
        )
    return Key(secret)


def make_host_key(path: Path) -> None:
    """A new one, whole and durable or not there; nothing happens if there is one."""
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    temporary.touch(0o600, exist_ok=False)
    try:
        with temporary.open("wb") as file:
            file.write(Key.new().secret)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another was quicker: then that is it
            path.hardlink_to(temporary)
    finally:
        temporary.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
