"""The supervisor's side of the gateway: starting it, carrying frames, and giving it what the host
sends for it: rules, certificates, fresh entropy."""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable, Mapping
from typing import Any

from torpor.core.errors import Invalid, TorporError
from torpor.guest import gatewayprocess, network, trust
from torpor.guest.agent import Program
from torpor.guest.cgroup import Cgroup
from torpor.guest.gateway import model_environment
from torpor.guest.pipe import is_words, words
from torpor.guest.settings import Settings
from torpor.wire import messages, names

_SEED_BYTES = 32


class GatewayEnded(Exception):
    """Its process: without it the agent reaches nothing, and its connections are lost."""


class GatewaySide:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        if settings.machine:
            network.write_resolver()
        cgroup = Cgroup(settings.cgroup) if settings.cgroup is not None else None
        listeners = network.prepare(settings.model_port, transparent=settings.network)
        self._process = gatewayprocess.start(
            listeners, settings.gateway, cgroup, own=settings.machine
        )
        if cgroup is not None:
            cgroup.close()
        self._pipe = self._process.pipe
        self._selector: selectors.BaseSelector | None = None
        self._events = 0
        self.used = False  # it has said something, and so has worked
        self._authority = ""
        self._models = False  # a rule is for an API of models
        self._placeholders: Mapping[str, str] = {}
        self._from_gateway: Callable[[bytes], None] = _nobody
        self._send: Callable[[bytes], None] = _nobody

    def join(
        self,
        selector: selectors.BaseSelector,
        from_gateway: Callable[[bytes], None],
        send: Callable[[bytes], None],
    ) -> None:
        """`send` takes a message for the host."""
        self._selector, self._from_gateway, self._send = selector, from_gateway, send

    # What agents are to know.

    @property
    def _trust(self) -> dict[str, str]:
        """Of the environment of all that runs here."""
        if not self._authority:
            return dict(self._placeholders)
        return {**trust.environment(self._settings.trust), **self._placeholders}

    @property
    def _model(self) -> dict[str, str]:
        """Of the agent's: of the deployment's own model, unless the agent has rules for another."""
        return {} if self._models else model_environment(self._process.model_port)

    def prepare(self, message: dict[str, Any]) -> Program:
        """Take what `import` or `load` has for the gateway out of it: what the agent's process is
        to be. Before that begins: what it imports may read the certificates. Raises Invalid,
        OSError."""
        rules = message.pop("egress", None)
        leaves = message.pop("leaves", [])
        placeholders = message.pop("placeholders", None)
        authority = message.pop("authority", None)
        if authority is not None and authority != self._authority:
            self._authority = authority
            trust.install(authority, self._settings)
        if placeholders is not None:
            self._placeholders = placeholders
        if rules is not None:
            self._models = any(each.get("record") == "model" for each in rules)
        if rules or leaves:
            self._pipe.say(do="policy", rules=rules or [], leaves=leaves)
        return Program(message["deps"], message.get("env", {}), self._trust, self._model)

    def certified(self, message: dict[str, Any]) -> None:
        self._pipe.say(do="certified", **{k: v for k, v in message.items() if k != "t"})

    def freshen(self) -> None:
        """After a thaw: its own generator is another's, too. One that has not been used has none
        that anybody has seen, and is left asleep."""
        if self.used:
            self._pipe.say(do="fresh", seed=os.urandom(_SEED_BYTES).hex())
            self._pipe.flush()

    # Frames.

    def give(self, frame: bytes) -> None:
        self._pipe.send(frame)

    def pump(self, *, paused: bool) -> None:
        """Write what goes; take nothing from it while `paused`."""
        self._pipe.flush()
        events = selectors.EVENT_READ * (not paused)
        events |= selectors.EVENT_WRITE * bool(self._pipe.pending)
        if events == self._events or self._selector is None:
            return
        if not self._events:
            self._selector.register(self._pipe.fd, events, self._ready)
        elif not events:
            self._selector.unregister(self._pipe.fd)
        else:
            self._selector.modify(self._pipe.fd, events, self._ready)
        self._events = events

    def _ready(self, mask: int) -> None:
        if mask & selectors.EVENT_READ:
            self.hear()

    def hear(self) -> None:
        """Take in what it has said by now."""
        came = self._pipe.read()
        if came is None:
            raise GatewayEnded
        for each in came:
            self.used = True
            if is_words(each):
                given = words(each)
                if given["do"] == "certificate":
                    self._want_certificate(given["name"])
            else:
                try:
                    self._from_gateway(each)
                except Invalid as error:
                    print(f"torpor supervisor: refused from the gateway: {error}", flush=True)

    def _want_certificate(self, name: str) -> None:
        if not self._authority:
            problem = "there is no authority that could sign for it"
            self._pipe.say(do="certified", name=name, problem=problem)
            return
        try:
            digest = trust.fingerprint(self._authority)
            self._send(messages.encode(names.CERTIFICATE, name=name, authority=digest))
        except TorporError as error:
            self._pipe.say(do="certified", name=name, problem=error.message)

    def reaped(self, pid: int, status: int) -> None:
        """A child of the supervisor has ended."""
        if pid == self._process.pid:
            raise GatewayEnded(f"with status {os.waitstatus_to_exitcode(status)}")


def _nobody(message: bytes) -> None:
    raise AssertionError("nobody is joined")
