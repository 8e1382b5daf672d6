"""Sealing: what is stored of a run's machine is encrypted and authenticated (AES-256-GCM).

    host key ──wraps──► a run's key ──derives──► a key a file ──seals──► its parts 0, 1, 2, …

Everything hangs on GCM's one rule: no nonce twice under a key. So the keys of a host and of a run
seal nothing themselves. Each file gets a salt of 32 random bytes, from which and from its purpose
HKDF-SHA256 (RFC 5869) makes a key for this file alone; under that key, part n has nonce n.
Salts would have to meet for a nonce to repeat: 2⁶⁴ files make that as likely as 2⁻¹²⁸. Random
nonces of 96 bits under one key, the usual way, allow 2³² frames, which is 280 TB of pages.

The file's key also binds each part to its file, its format's version (in the purpose) and its
place (the nonce), so none of these has to be authenticated besides.

What this is for: disks, copies and backups of the data directory that come into other hands, and
deleting for good by destroying one key. It hides no sizes (of files, nor of frames, which tell how
well their pages compress), nothing that a running pager or machine has in memory, and no template.
Python cannot wipe memory: a key that was used is gone from a process when its memory is reused.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from torpor.core.errors import InternalError

KEY_BYTES = 32
SALT_BYTES = 32
TAG_BYTES = 16  # that sealing adds
_NONCE_BYTES = 12


def new_salt() -> bytes:
    return secrets.token_bytes(SALT_BYTES)


@dataclass(frozen=True)
class Key:
    """A secret of KEY_BYTES that others are derived from. Its repr does not show it (rule 9)."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise InternalError(f"a key has {KEY_BYTES} bytes, not {len(self.secret)}")

    @classmethod
    def new(cls) -> Key:
        return cls(secrets.token_bytes(KEY_BYTES))

    def sealer(self, purpose: bytes, salt: bytes) -> Sealer:
        """For one file (or one wrapped key): `salt` must be new whenever something is sealed."""
        return Sealer(HKDF(SHA256(), KEY_BYTES, salt, purpose).derive(self.secret))

    def derived(self, purpose: bytes) -> bytes:
        """Another secret, which tells nothing of this one."""
        return HKDF(SHA256(), KEY_BYTES, None, purpose).derive(self.secret)

    def alias(self, name: str) -> str:
        """Another name for what has this name; only who has the key can tell it."""
        return blake3(name.encode(), key=self.secret).hexdigest()


class Sealer:
    """Seals and opens the parts of one file. Thread-safe; both let other threads run meanwhile."""

    def __init__(self, key: bytes) -> None:
        self._gcm = AESGCM(key)

    def seal(self, part: int, data: bytes, clear: bytes | None = None) -> bytes:
        """`data` encrypted, TAG_BYTES longer. `clear` stays outside, authenticated with it."""
        return self._gcm.encrypt(part.to_bytes(_NONCE_BYTES, "big"), data, clear)

    def open(self, part: int, data: bytes, clear: bytes | None = None) -> bytes:
        """What was sealed. Raises cryptography's InvalidTag if this is not, in any bit."""
        return self._gcm.decrypt(part.to_bytes(_NONCE_BYTES, "big"), data, clear)
