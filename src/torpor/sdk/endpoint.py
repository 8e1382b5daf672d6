"""The model's endpoint on the loopback, where there is no supervisor: a thread of the agent's own
process, which alone touches its parts."""

from __future__ import annotations

import selectors
import socket
import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from torpor.guest.gateway import Gateway
from torpor.guest.models import Models
from torpor.replay.journal import Recorded


class Endpoint:
    """`send` takes a message for the host. `failed` is called when it cannot go on: a call that
    nobody answers would hang the agent for ever."""

    def __init__(self, send: Callable[[bytes], None], failed: Callable[[], object]) -> None:
        self._failed = failed
        self._selector = selectors.DefaultSelector()
        self._models = Models(send)
        self._gateway = Gateway(self._selector, 0, self._models.request)
        self._given: deque[dict[str, Any] | list[Recorded] | None] = deque()
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._take)
        self._open = True
        self.thread = threading.Thread(target=self._serve, name="torpor-models", daemon=True)
        self.thread.start()

    @property
    def environment(self) -> Mapping[str, str]:
        """How clients find it. The key is a placeholder: no agent has one that is worth anything
        (rule 9)."""
        url = f"http://127.0.0.1:{self._gateway.port}/v1"
        return {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "torpor"}

    def reloaded(self) -> None:
        """The agent's code is another than what was recorded; before the journal is given."""
        self._models.expect_others()

    def give(self, given: dict[str, Any] | list[Recorded]) -> None:
        """A result, or what the journal holds of model calls."""
        self._give(given)

    def close(self) -> None:
        self._give(None)
        self.thread.join()

    def _give(self, given: dict[str, Any] | list[Recorded] | None) -> None:
        self._given.append(given)
        self._wake.send(b"x")

    def _take(self, mask: int) -> None:
        self._woken.recv(4096)
        while self._given:
            given = self._given.popleft()
            if given is None:
                self._open = False
            elif isinstance(given, list):
                self._models.extend_journal(given)
                self._models.open()
            else:
                self._models.result(given)

    def _serve(self) -> None:
        try:
            while self._open:
                for key, mask in self._selector.select():
                    if self._selector.get_map().get(key.fd) is key:
                        key.data(mask)
        except BaseException:
            traceback.print_exc()
            self._failed()
        else:
            self._gateway.close()
            for each in (self._selector, self._woken, self._wake):
                each.close()
