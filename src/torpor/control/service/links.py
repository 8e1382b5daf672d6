"""Public links: whoever has a waitpoint's URL may see its question and answer it, once.

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

from torpor.core.errors import NotFound
from torpor.core.ids import WaitId

PATH = "/w/"
PURPOSE = "torpor public links 1"
_PREFIX = "wait_"
_MAC_CHARACTERS = 43


class Links:
    def __init__(self, key: bytes, base: str | None) -> None:
        """`base`: what the public URLs of this host begin with; None: it has none."""
        self._key = key
        self._base = base

    def url(self, wait: WaitId) -> str | None:
        return None if self._base is None else f"{self._base}{PATH}{self.token(wait)}"

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
