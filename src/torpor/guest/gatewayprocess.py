"""The gateway in a machine: a process of its own, forked from the supervisor at the boot, so that
what it imports is in the base. It is its own user: the agent cannot look into it, and it cannot
look into the supervisor. To the host it speaks through the supervisor alone.

It has no time of its own: it does something only when a client, or the supervisor, has said
something. Once it has worked for a client, which it says first, its control group is frozen with
the agent's while the machine is prepared (rule 8).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import socket
import struct
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

from torpor.core.errors import TorporError
from torpor.guest import dns
from torpor.guest.certificates import Certificates
from torpor.guest.cgroup import Cgroup
from torpor.guest.closedports import ClosedPorts
from torpor.guest.gateway import Gateway, listener_at, model_site
from torpor.guest.network import GATEWAY_UID, Listeners
from torpor.guest.pipe import Pipe, is_words, words
from torpor.guest.places import Places

_PR_SET_KEEPCAPS = 8
_CAP_NET_BIND_SERVICE = 10
_CAPABILITIES = 0x20080522  # version 3 of the structure
# Above this it takes nothing more from clients: the supervisor, or the host, is behind.
_PENDING_BYTES_MAX = 1024 * 1024


class GatewayProcess(NamedTuple):
    """As the supervisor sees it."""

    pid: int
    pipe: Pipe
    model_port: int


def start(
    listeners: Listeners, directory: Path, cgroup: Cgroup | None, *, own: bool
) -> GatewayProcess:
    """Fork it. `own`: as its own user. The supervisor has opened nothing else yet."""
    ours, theirs = socket.socketpair()
    port = listeners.model.getsockname()[1]
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if own:
        os.chown(directory, GATEWAY_UID, GATEWAY_UID)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            if cgroup is not None:
                cgroup.enter_gateway()
            if own:
                _become_user()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            _serve(Pipe(theirs), listeners, directory)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    theirs.close()
    listeners.close()
    return GatewayProcess(pid, Pipe(ours), port)


def _become_user() -> None:
    """Its own user, who may still listen at any port."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(GATEWAY_UID)
    os.setuid(GATEWAY_UID)
    held = 1 << _CAP_NET_BIND_SERVICE
    header = struct.pack("=Ii", _CAPABILITIES, 0)
    if libc.capset(header, struct.pack("=6I", held, held, 0, 0, 0, 0)) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"cannot set capabilities: {os.strerror(error)}")


def _serve(pipe: Pipe, listeners: Listeners, directory: Path) -> None:
    import ssl  # noqa: F401 - so that the base has it

    loop = _Loop(pipe, directory)
    loop.gateway.listen(listeners.model, model_site)
    for each in listeners.web:
        loop.gateway.listen(each, loop.places.locate)
    if listeners.dns_udp is not None and listeners.dns_tcp is not None:
        dns.Server(
            loop.selector,
            listeners.dns_udp,
            listeners.dns_tcp,
            loop.look_up,
            lambda name: loop.gateway.streams.note("unknown_name", name),
        )
    if listeners.closed is not None:
        ClosedPorts(loop.selector, listeners.closed, loop.refused)
    loop.run()


class _Loop:
    def __init__(self, pipe: Pipe, directory: Path) -> None:
        self.selector = selectors.DefaultSelector()
        self.places = Places()
        self._pipe = pipe
        self._certificates = Certificates(
            directory,
            lambda name: pipe.say(do="certificate", name=name),
            lambda name, given: self.gateway.streams.note("misdirected", given),
        )
        self.gateway = Gateway(self.selector, pipe.send, self.places.classify, self._certificates)
        self._listening: set[tuple[str, int]] = set()
        self._open = True
        self._working = False
        self._events = 0

    def run(self) -> None:
        while self._open:
            self._pipe.flush()
            behind = self._pipe.pending > _PENDING_BYTES_MAX
            self._watch(selectors.EVENT_READ | selectors.EVENT_WRITE * bool(self._pipe.pending))
            if behind:
                self._wait_for_supervisor()
                continue
            # What the supervisor says comes first: after a thaw it is what makes this one fresh.
            ready = self.selector.select()
            ready.sort(key=lambda each: each[0].fd != self._pipe.fd)
            if not self._working and ready and ready[-1][0].fd != self._pipe.fd:
                self._working = True
                self._pipe.say(do="working")
                self._pipe.flush()
            for key, mask in ready:
                if self.selector.get_map().get(key.fd) is key:
                    key.data(mask)

    def _wait_for_supervisor(self) -> None:
        with selectors.DefaultSelector() as alone:
            alone.register(self._pipe.fd, selectors.EVENT_READ | selectors.EVENT_WRITE)
            for _, mask in alone.select():
                self._take(mask)

    def _watch(self, events: int) -> None:
        if events != self._events:
            if self._events:
                self.selector.modify(self._pipe.fd, events, self._take)
            else:
                self.selector.register(self._pipe.fd, events, self._take)
            self._events = events

    def _take(self, mask: int) -> None:
        if not mask & selectors.EVENT_READ:
            return
        messages = self._pipe.read()
        if messages is None:
            self._open = False
            return
        for each in messages:
            if is_words(each):
                self._hear(**words(each))
            else:
                with contextlib.suppress(TorporError):
                    self.gateway.receive(each)

    def _hear(self, do: str, **given: object) -> None:
        if do == "policy":
            self.places.obey(given["rules"])  # type: ignore[arg-type]
            self._certificates.add(given["leaves"])  # type: ignore[arg-type]
            for name in self.places.names:
                self.look_up(name)
        elif do == "certified":
            self._certificates.certified(given)
        elif do == "fresh":
            import ssl

            seed = bytes.fromhex(str(given["seed"]))
            ssl.RAND_add(seed, float(len(seed)))

    def look_up(self, name: str) -> str | None:
        """The address of `name`, at which all its ports are listened at."""
        address = self.places.address_of(name)
        if address is not None:
            for port in self.places.unusual_ports(name):
                self._listen(address, port)
        return address

    def refused(self, address: str, port: int) -> None:
        """By the kernel: nobody listens there."""
        name = self.places.name_of(address)
        code = "address" if name is None else "unknown_port"
        self.gateway.streams.note(code, name or address, port)

    def _listen(self, address: str, port: int) -> None:
        """At this address alone: the agent may have servers of its own at the same port."""
        if (address, port) in self._listening:
            return
        try:
            listener = listener_at(address, port)
        except OSError as error:
            print(f"torpor gateway: {address} port {port}: {error}", file=sys.stderr, flush=True)
            return
        self._listening.add((address, port))
        self.gateway.listen(listener, self.places.locate)
