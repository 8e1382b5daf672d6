"""The keys that runs' snapshots are sealed with, and the host's, which wraps them.

    host.key   32 random bytes in the data directory, made once. Lost: all sealed snapshots are.
    run_keys   a key a run (`torpor.contextlog.keys`): 32 random bytes, made for its first snapshot
    files      a key for each content of runs' files (`torpor.contextlog.files`)

A wrapped key is a salt, then the key sealed with what `torpor.snapshot.seal` derives from the
host's key and that salt; whose it is is authenticated along, so no row passes for another's.

Secrets of public links and of webhooks are derived from the host's key, too, and so kept nowhere.

This is the only place where keys are unwrapped. From here they go to the code that builds and
reads snapshots in this process, and over the pager's socket, which only its owner may open;
never into the log, an error or an output (rule 9).

`TORPOR_ENCRYPT=off` in the server's environment leaves the snapshots of new runs in the clear;
runs that have a key go on using it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from sqlalchemy import Connection

from torpor.contextlog import keys
from torpor.contextlog.files import FileRow, any_file_key
from torpor.contextlog.forks import Rewrap
from torpor.core.errors import Conflict, Damaged, HostError, Invalid, Missing
from torpor.core.home import Home
from torpor.core.ids import RunId
from torpor.logstore.protocol import Store
from torpor.snapshot.seal import KEY_BYTES, SALT_BYTES, Key, new_salt

SWITCH = "TORPOR_ENCRYPT"
_PURPOSE = b"torpor run key 1"


@dataclass(frozen=True)
class RunKey:
    key: Key
    wrapped: bytes  # to be recorded with the first snapshot that needs it


def switched_on(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether new runs are to have keys. Raises Invalid."""
    match environment.get(SWITCH, "on"):
        case "on":
            return True
        case "off":
            return False
        case other:
            raise Invalid(
                f"{SWITCH}={other} is not a setting", hint="Use on or off. Unset means on."
            )


def wrap(host: Key, owner: str, key: Key) -> bytes:
    """`owner`: a run, or the file of a run (`of_file`)."""
    salt = new_salt()
    return salt + host.sealer(_PURPOSE, salt).seal(0, key.secret, owner.encode())


def unwrap(host: Key, owner: str, wrapped: bytes) -> Key:
    """Raises Damaged."""
    salt, sealed = wrapped[:SALT_BYTES], wrapped[SALT_BYTES:]
    try:
        return Key(host.sealer(_PURPOSE, salt).open(0, sealed, owner.encode()))
    except InvalidTag as error:
        raise Damaged(
            f"the key of {owner} does not open: it was changed, or wrapped with another host's key",
            hint="Whatever it seals cannot be read. Restore the database from a copy.",
        ) from error


def of_file(digest: str) -> str:
    """Whose key it is that seals a file of runs with this content."""
    return f"file {digest}"


class SealingKeys:
    def __init__(self, home: Home, store: Store, *, on: bool) -> None:
        """`on`: runs that have no key yet get one."""
        self.path = home.host_key
        self._store = store
        self.on = on
        self._host: Key | None = None

    async def check(self) -> None:
        """Open the host's key; make it if nothing needs one yet. Raises Missing when it is gone,
        HostError when it is not the one that is needed."""
        if self.on or await self._store.read(_any_key) is not None:
            await self._open_host()

    async def find(self, run: RunId) -> Key | None:
        """The key that the run has; None for one whose snapshots are in the clear, if it has any.
        Raises as `check`, and Damaged."""
        wrapped = await self._store.read(lambda c: keys.find_key(c, run))
        return None if wrapped is None else unwrap(await self._open_host(), run, wrapped)

    async def of(self, run: RunId) -> RunKey | None:
        """What the run's next snapshots are to be sealed with: its key, or a new one if it has
        none; None for in the clear. Raises as `find`."""
        wrapped = await self._store.read(lambda c: keys.find_key(c, run))
        if wrapped is not None:
            return RunKey(unwrap(await self._open_host(), run, wrapped), wrapped)
        if not self.on:
            return None
        key = Key.new()
        return RunKey(key, wrap(await self._open_host(), run, key))

    async def of_new_file(self) -> Key | None:
        """What the content of a file that runs may have is to be sealed with. Raises as `check`."""
        if not self.on:
            return None
        await self._open_host()
        return Key.new()

    async def wrapped_for(self, digest: str, key: Key) -> bytes:
        """The key of that file, to be recorded with it. Raises as `check`."""
        return wrap(await self._open_host(), of_file(digest), key)

    async def of_known_file(self, file: FileRow) -> Key | None:
        """None: it is in the clear. Raises as `find`."""
        if file.wrapped is None:
            return None
        return unwrap(await self._open_host(), of_file(file.digest), file.wrapped)

    async def wrapped(self, run: RunId, key: Key) -> bytes:
        """The key of a run that comes from elsewhere, to be recorded with it. Raises as `find`."""
        return wrap(await self._open_host(), run, key)

    async def derived(self, purpose: str) -> bytes:
        """A secret of this host for `purpose` alone. Raises as `check`."""
        return (await self._open_host()).derived(purpose.encode())

    async def rewrapper(self) -> Rewrap:
        """What wraps a run's key for a fork of it, which then has it for itself: runs that share
        layers share a key, and each destroys its own copy of that when it needs it no more. To
        be called in the transaction that makes the fork. Raises as `check`."""
        if not self.on and await self._store.read(_any_key) is None:
            return _never
        host = await self._open_host()
        return lambda owner, wrapped, fork: wrap(host, fork, unwrap(host, owner, wrapped))

    async def _open_host(self) -> Key:
        if self._host is None:
            wrapped = await self._store.read(_any_key)
            self._host = await asyncio.to_thread(self._read_host, wrapped)
        return self._host

    def _read_host(self, wrapped: tuple[str, bytes] | None) -> Key:
        if wrapped is None:
            _make(self.path)
        try:
            secret = self.path.read_bytes()
        except FileNotFoundError as error:
            raise Missing(
                f"{self.path} is gone, and no sealed snapshot can be read without it",
                hint="Put it back from a copy. Nothing else opens the snapshots.",
            ) from error
        if len(secret) != KEY_BYTES:
            raise HostError(
                f"{self.path} holds {len(secret)} bytes, not the {KEY_BYTES} of a key",
                hint="Put it back from a copy.",
            )
        host = Key(secret)
        if wrapped is not None:
            try:
                unwrap(host, *wrapped)
            except Damaged as error:
                raise HostError(
                    f"{self.path} is not the key that wrapped those in the database",
                    hint="Put back the key that belongs to this data directory.",
                ) from error
        return host


def _any_key(c: Connection) -> tuple[str, bytes] | None:
    """One of the keys that the host's wraps, and whose it is."""
    if (of_run := keys.any_key(c)) is not None:
        return of_run
    file = any_file_key(c)
    return None if file is None or file.wrapped is None else (of_file(file.digest), file.wrapped)


def _never(owner: RunId, wrapped: bytes, fork: RunId) -> bytes:
    raise Conflict(f"{owner} has just got its first key", hint="Fork it again.")


def _make(path: Path) -> None:
    """A new host key, whole and durable or not there; nothing happens if there is one."""
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
