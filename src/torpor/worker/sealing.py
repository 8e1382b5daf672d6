"""The keys that runs' snapshots are sealed with, and the host's, which wraps them.

    host.key      `torpor.snapshot.hostkey`. Lost: all sealed snapshots are.
    run_keys      a key a run (`torpor.contextlog.keys`), made for its first snapshot
    files         a key for each content of runs' files (`torpor.contextlog.files`)
    authorities   keys of certificate authorities (`torpor.contextlog.authorities`)

Secrets of public links and of webhooks are derived from the host's key, too, and so kept nowhere.

This is the only place where keys are unwrapped (secrets of agents only the broker opens). From
here they go to the code that builds and reads snapshots in this process, and over the pager's
socket, which only its owner may open; never into the log, an error or an output (rule 9).

`TORPOR_ENCRYPT=off` in the server's environment leaves the snapshots of new runs in the clear;
runs that have a key go on using it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection

from torpor.contextlog import authorities, keys
from torpor.contextlog.files import FileRow, any_file_key
from torpor.contextlog.forks import Rewrap
from torpor.core.errors import Conflict, Damaged, HostError, Invalid
from torpor.core.home import Home
from torpor.core.ids import RunId
from torpor.logstore.protocol import Store
from torpor.snapshot import hostkey
from torpor.snapshot.seal import Key

SWITCH = "TORPOR_ENCRYPT"


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
    return hostkey.seal(host, hostkey.RUN_KEY, owner, key.secret)


def unwrap(host: Key, owner: str, wrapped: bytes) -> Key:
    """Raises Damaged."""
    return Key(hostkey.unseal(host, hostkey.RUN_KEY, owner, wrapped))


def of_authority(fingerprint: str) -> str:
    return f"authority {fingerprint}"


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
        if self.on or await self._store.read(_any_sealed) is not None:
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

    async def seal(self, purpose: bytes, owner: str, plain: bytes) -> bytes:
        """Raises as `check`."""
        return hostkey.seal(await self._open_host(), purpose, owner, plain)

    async def open_authority(self, fingerprint: str, sealed: bytes) -> bytes:
        """The key of an authority. Raises as `find`."""
        host = await self._open_host()
        return hostkey.unseal(host, hostkey.AUTHORITY, of_authority(fingerprint), sealed)

    async def derived(self, purpose: str) -> bytes:
        """A secret of this host for `purpose` alone. Raises as `check`."""
        return (await self._open_host()).derived(purpose.encode())

    async def rewrapper(self) -> Rewrap:
        """What wraps a run's key for a fork of it, which then has it for itself: runs that share
        layers share a key, and each destroys its own copy of that when it needs it no more. To
        be called in the transaction that makes the fork. Raises as `check`."""
        if not self.on and await self._store.read(_any_sealed) is None:
            return _never
        host = await self._open_host()
        return lambda owner, wrapped, fork: wrap(host, fork, unwrap(host, owner, wrapped))

    async def _open_host(self) -> Key:
        if self._host is None:
            sealed = await self._store.read(_any_sealed)
            self._host = await asyncio.to_thread(self._read_host, sealed)
        return self._host

    def _read_host(self, sealed: _Sealed | None) -> Key:
        if sealed is None:
            hostkey.make_host_key(self.path)
        host = hostkey.read_host_key(self.path)
        if sealed is not None:
            try:
                hostkey.unseal(host, *sealed)
            except Damaged as error:
                raise HostError(
                    f"{self.path} is not the key that wrapped those in the database",
                    hint="Put back the key that belongs to this data directory.",
                ) from error
        return host


_Sealed = tuple[bytes, str, bytes]  # the purpose, whose it is, the sealed bytes


def _any_sealed(c: Connection) -> _Sealed | None:
    """Something that the host's key has sealed, to try it on."""
    if (of_run := keys.any_key(c)) is not None:
        return (hostkey.RUN_KEY, *of_run)
    file = any_file_key(c)
    if file is not None and file.wrapped is not None:
        return (hostkey.RUN_KEY, of_file(file.digest), file.wrapped)
    if (row := authorities.any_authority(c)) is not None:
        return (hostkey.AUTHORITY, of_authority(row.fingerprint), row.sealed)
    return None


def _never(owner: RunId, wrapped: bytes, fork: RunId) -> bytes:
    raise Conflict(f"{owner} has just got its first key", hint="Fork it again.")
