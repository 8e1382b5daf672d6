"""The gateway where there is no machine and no supervisor: a thread of the agent's own process,
which alone touches its parts. One port on the loopback is the deployment's own model's, and the
proxy of clients that follow proxy variables (`torpor.guest.proxied`); Python's own sockets come
without one (`torpor.sdk.routes`).

An agent whose file has no rules is led to the model alone: nothing else of its process changes.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import queue
import random
import selectors
import socket
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from torpor.core.egress import MODEL, TCP, Rule
from torpor.core.errors import TorporError
from torpor.guest import trust
from torpor.guest.certificates import Certificates
from torpor.guest.exchanges import Exchanges
from torpor.guest.gateway import (
    Gateway,
    listener_at,
    loopback,
    model_environment,
    model_site,
)
from torpor.guest.places import Places
from torpor.replay.journal import Recorded
from torpor.wire import messages, names, streams

T = TypeVar("T")
Given: TypeAlias = dict[str, Any] | list[Recorded] | bytes | Callable[[], object] | None

# What is listened for before it is used. More, and what wildcards stand for, is when it is.
_LISTENERS_MAX = 100
# Of 127.0.0.0/8, where nobody else is: the first addresses are in use on many hosts.
_FIRST, _LAST = (int(ipaddress.IPv4Address(each)) for each in ("127.64.0.1", "127.254.255.254"))
_NO_PROXY = "localhost,127.0.0.1,::1"
_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")

Place = tuple[str, int]


class Endpoint:
    """`send` takes a line for the host. `failed` is called when it cannot go on: a call that
    nobody answers would hang the agent for ever. `asking` hears how many wait for a person."""

    def __init__(
        self,
        send: Callable[[bytes], None],
        failed: Callable[[], object],
        asking: Callable[[int], object],
    ) -> None:
        self._send, self._failed, self._asking = send, failed, asking
        self._selector = selectors.DefaultSelector()
        # Frames between the two, which know nothing of each other and are not called within.
        self._out: deque[bytes] = deque()
        self._in: deque[bytes] = deque()
        self._exchanges = Exchanges(
            send, lambda frame: send(streams.to_line(frame)), self._in.append
        )
        self._last_asking = 0
        self._places = Places(_loopback_addresses())
        self._certificates = Certificates(Path(), self._want_certificate, self._misnamed)
        self._authority = ""
        self._gateway = Gateway(
            self._selector, self._out.append, self._places.classify, self._certificates
        )
        listener = loopback(0)
        self._port = listener.getsockname()[1]
        self.model = model_environment(self._port)
        self._gateway.listen_as_proxy(listener, model_site("", 0), self._places.find)
        # By the place that it stands for, where it is listened.
        self._listening: dict[Place, Place] = {}
        self._given: deque[Given] = deque()
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._take)
        self._open = True
        self._pid = os.getpid()
        self.thread = threading.Thread(target=self._serve, name="torpor-gateway", daemon=True)
        self.thread.start()

    def obey(self, given: dict[str, Any]) -> dict[str, str | None]:
        """Take what `import` or `load` has of rules out of it. What the environment is to be for
        them; None is without it. Empty without rules."""
        rules, placeholders = given.pop("egress", []), given.pop("placeholders", {})
        leaves, directory = given.pop("leaves", []), given.pop("trust", "")
        authority, own = given.pop("authority", ""), given.pop("env", {})
        if not rules:
            return {}

        def begin() -> dict[str, str]:
            self._authority = authority
            self._certificates.directory = Path(directory)
            self._certificates.add(leaves)
            self._places.obey(rules)
            return self._listen_for(map(Rule.from_guest, rules))

        connections = self._have_done(begin)
        proxy = f"http://127.0.0.1:{self._port}"
        variables = {**dict.fromkeys(_PROXY_VARIABLES, proxy), "NO_PROXY": _NO_PROXY}
        ours = {
            **trust.environment(Path(directory)),
            **variables,
            **{name.lower(): value for name, value in variables.items()},
            "NODE_USE_ENV_PROXY": "1",
            **connections,
            **placeholders,
        }
        models = any(rule.get("record") == MODEL for rule in rules)
        model = {} if models else self.model
        return {**dict.fromkeys(self.model), **ours, **own, **model}

    def address_of(self, name: str) -> str | None:
        """Of a name that a rule knows; all that it has is listened for there."""

        def look_up() -> str | None:
            address = self._places.address_of(name)
            if address is None:
                self._gateway.streams.note("unknown_name", name)
                return None
            for port in self._places.unusual_ports(name):
                self._listen(address, port)
            return address

        return self._places.address_of(name) if self._is_copy else self._have_done(look_up)

    def listener_of(self, address: str, port: int) -> Place | None:
        """Where to connect to for a place; None if there is none."""
        found = self._listening.get((address, port))
        if found is not None or self._is_copy or self._places.name_of(address) is None:
            return found
        return self._have_done(lambda: self._listen(address, port))

    def name_closed_at(self, address: str, port: int) -> str | None:
        """The name that has this address, if no rule has this port of it."""
        name = self._places.name_of(address)
        return name if self._places.locate(address, port) is None else None

    def note(self, code: str, name: str, port: int) -> None:
        """Something was refused here."""
        if not self._is_copy:
            self._give(lambda: self._gateway.streams.note(code, name, port))

    def reloaded(self) -> None:
        """The agent's code is another than what was recorded; before the journal is given."""
        self._exchanges.expect_others()

    def give(self, given: dict[str, Any] | list[Recorded] | bytes) -> None:
        """A result, a certificate, what the journal holds of exchanges, or a frame."""
        self._give(given)

    def close(self) -> None:
        self._give(None)
        self.thread.join()

    @property
    def _is_copy(self) -> bool:
        """Of the process that has the thread. It goes with what was known when it was forked."""
        return os.getpid() != self._pid

    # The thread's.

    def _listen_for(self, rules: Iterator[Rule]) -> dict[str, str]:
        """What rules name in full; the variables that say where connections of bytes lead."""
        variables = {}
        for rule in rules:
            if rule.deny or "*" in rule.host or len(self._listening) >= _LISTENERS_MAX:
                continue
            address = self._places.address_of(rule.host) or ""
            found = self._listen(address, rule.port)
            if found is not None and rule.protocol == TCP:
                host = "".join(c if c.isalnum() else "_" for c in rule.host.upper())
                variables[f"TORPOR_TCP_{host}_{rule.port}"] = f"{found[0]}:{found[1]}"
        return variables

    def _listen(self, address: str, port: int) -> Place | None:
        """A connection of bytes at this very place, if it can be had, so that code that is not
        Python's reaches it, too; for the web that has proxy variables."""
        site = self._places.locate(address, port)
        if site is None:
            return None
        if (found := self._listening.get((address, port))) is not None:
            return found
        for place in ((address, port), ("127.0.0.1", 0))[site.scheme != TCP :]:
            with contextlib.suppress(OSError):
                listener = listener_at(*place)
                self._gateway.listen(listener, lambda *_: site)
                bound: Place = listener.getsockname()[:2]
                self._listening[address, port] = bound
                return bound
        return None

    def _want_certificate(self, name: str) -> None:
        try:
            digest = trust.fingerprint(self._authority)
            self._send(messages.encode(names.CERTIFICATE, name=name, authority=digest))
        except TorporError as error:
            self._certificates.certified({"name": name, "problem": error.message})

    def _misnamed(self, name: str, given: str) -> None:
        self._gateway.streams.note("misdirected", given)

    def _have_done(self, act: Callable[[], T]) -> T:
        """By the thread, and waited for."""
        answer: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._give(lambda: answer.put(act()))
        return answer.get()

    def _give(self, given: Given) -> None:
        self._given.append(given)
        self._wake.send(b"x")

    def _take(self, mask: int) -> None:
        self._woken.recv(4096)
        while self._given:
            given = self._given.popleft()
            if given is None:
                self._open = False
            elif callable(given):
                given()
            elif isinstance(given, list):
                self._exchanges.extend_journal(given)
                self._exchanges.open()
            elif isinstance(given, bytes):
                self._exchanges.from_host(given)
            elif given["t"] == names.CERTIFIED:
                self._certificates.certified(given)
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
        if (asking := self._exchanges.asking) != self._last_asking:
            self._last_asking = asking
            self._asking(asking)


def _loopback_addresses() -> Iterator[str]:
    """By chance, so that two agents of a host do not take the same one."""
    chance = random.SystemRandom()
    while True:
        yield str(ipaddress.IPv4Address(chance.randint(_FIRST, _LAST)))
