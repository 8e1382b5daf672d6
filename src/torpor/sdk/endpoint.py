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

from torpor.guest.exchanges import Exchanges
from torpor.guest.gateway import Gateway, loopback, model_site
from torpor.replay.journal import Recorded
from torpor.wire import streams


class Endpoint:
    """`send` takes a line for the host. `failed` is called when it cannot go on: a call that
    nobody answers would hang the agent for ever."""

    def __init__(self, send: Callable[[bytes], None], failed: Callable[[], object]) -> None:
        self._failed = failed
        self._selector = selectors.DefaultSelector()
        # Frames between the two, which know nothing of each other and are not called within.
        self._out: deque[bytes] = deque()
        self._in: deque[bytes] = deque()
        self._exchanges = Exchanges(
            send, lambda frame: send(streams.to_line(frame)), self._in.append
        )
        self._gateway = Gateway(self._selector, self._out.append)
        listener = loopback(0)
        self._port = listener.getsockname()[1]
        self._gateway.listen(listener, model_site)
        self._given: deque[dict[str, Any] | list[Recorded] | bytes | None] = deque()
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
        url = f"http://127.0.0.1:{self._port}/v1"
        return {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "torpor"}

    def reloaded(self) -> None:
        """The agent's code is another than what was recorded; before the journal is given."""
        self._exchanges.expect_others()

    def give(self, given: dict[str, Any] | list[Recorded] | bytes) -> None:
        """A result, what the journal holds of exchanges, or a frame."""
        self._give(given)

    def close(self) -> None:
        self._give(None)
        self.thread.join()

    def _give(self, given: dict[str, Any] | list[Recorded] | bytes | None) -> None:
        self._given.append(given)
        self._wake.send(b"x")

    def _take(self, mask: int) -> None:
        self._woken.recv(4096)
        while self._given:
            given = self._given.popleft()
            if given is None:
                self._open = False
            elif isinstance(given, list):
                self._exchanges.extend_journal(given)
                self._exchanges.open()
            elif isinstance(given, bytes):
                self._exchanges.from_host(given)
            else:
                self._exchanges.result(given)

    def _serve(self) -> None:
        try:
            while self._open:
                for key, mask in self._selector.select():
                    if self._selector.get_map().get(key.fd) is key:
                        key.data(mask)
                    self._carry()
        except BaseException:
            traceback.print_exc()
            self._failed()
        else:
            self._gateway.close()
            for each in (self._selector, self._woken, self._wake):
                each.close()

    def _carry(self) -> None:
        while self._out or self._in:
            while self._out:
                self._exchanges.from_gateway(self._out.popleft())
            while self._in:
                self._gateway.receive(self._in.popleft())
