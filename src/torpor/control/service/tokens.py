"""Tokens of public links: whoever has a waitpoint's URL may see its question and answer it, once.

    https://HOST/w/TOKEN        TOKEN = the wait's id, then HMAC-SHA256(key, id) in base64url

The key is derived from the host's (`worker.sealing`), so a token is 256 bits that nobody else can
make, and it is stored nowhere, not even hashed: a copy of the database tells none. It can be shown
again, sent again with each reminder, and is of no use once its wait has ended, by whatever answer.
A token is checked before anything is looked up, in constant time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable

from torpor.contextlog import waits
from torpor.contextlog.waits import WaitRow
from torpor.core import permissions
from torpor.core.errors import HostError, NotFound
from torpor.core.ids import WaitId
from torpor.worker.sealing import SealingKeys

PATH = "/w/"
LINKED = ("wait", permissions.KIND)  # kinds of waits that have one
PURPOSE = "torpor public links 1"
_PREFIX = "wait_"
_MAC_CHARACTERS = 43


class Tokens:
    def __init__(self, key: bytes) -> None:
        self._key = key

    def token(self, wait: WaitId) -> str:
        return wait.removeprefix(_PREFIX) + self._mac(wait)

    def wait(self, token: str) -> WaitId:
        """The wait that the token is for. Raises NotFound."""
        wait = WaitId(_PREFIX + token[:-_MAC_CHARACTERS])
        if not hmac.compare_digest(self._mac(wait).encode(), token[-_MAC_CHARACTERS:].encode()):
            raise NotFound("this link does not exist", hint="Did you copy all of it?")
        return wait

    def _mac(self, wait: str) -> str:
        digest = hmac.digest(self._key, wait.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


class Urls:
    """The public URLs of this host's waits: none before there is a `base` that they begin with."""

    def __init__(self, keys: SealingKeys) -> None:
        self._keys = keys
        self._tokens: Tokens | None = None
        self.base: str | None = None

    def publish(self, base: str) -> None:
        self.base = base

    async def tokens(self) -> Tokens:
        """Raises Missing, HostError (the host's key)."""
        if self._tokens is None:
            self._tokens = Tokens(await self._keys.derived(PURPOSE))
        return self._tokens

    async def of(self, found: Iterable[WaitRow]) -> dict[WaitId, str]:
        """Of those of these waits that have one: they are open, and a person may answer them."""
        linked = [wait.id for wait in found if wait.kind in LINKED and wait.state == waits.OPEN]
        if self.base is None or not linked:
            return {}
        try:
            tokens = await self.tokens()
        except HostError:  # the host's key is gone, and with it all links
            return {}
        return {wait: f"{self.base}{PATH}{tokens.token(wait)}" for wait in linked}
