"""The certificates with which the gateway ends the TLS of the agent's clients: one of the host's
for each name, signed by the authority that the machine trusts. Those of the names in the agent's
rules come with its files; others are asked for when a client first connects."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl


class Certificates:
    """`directory`, which processes may share, is where OpenSSL reads them from, one at a time: it
    takes none from memory. `want` asks for the leaf of a name; `misnamed` is told of a client that
    asks for another."""

    def __init__(
        self, directory: Path, want: Callable[[str], None], misnamed: Callable[[str, str], None]
    ) -> None:
        self.directory, self._want, self._misnamed = directory, want, misnamed
        self._leaves: dict[str, Mapping[str, Any]] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._waiting: dict[str, list[Callable[[ssl.SSLContext | None], None]]] = {}

    def add(self, leaves: Iterable[Mapping[str, Any]]) -> None:
        for leaf in leaves:
            self._leaves |= dict.fromkeys(leaf["names"], leaf)

    def get(self, name: str, ready: Callable[[ssl.SSLContext | None], None]) -> None:
        """Call `ready` with a context for `name`, now or once the host has sent its leaf; with None
        if there is none."""
        if (context := self._contexts.get(name)) is not None:
            ready(context)
        elif (leaf := self._leaf(name)) is not None:
            ready(self._make(name, leaf))
        else:
            waiting = self._waiting.setdefault(name, [])
            waiting.append(ready)
            if len(waiting) == 1:
                self._want(name)

    def certified(self, message: Mapping[str, Any]) -> None:
        """The host's answer to `want`."""
        name = message["name"]
        waiting = self._waiting.pop(name, [])
        context = None
        if "chain" in message:
            context = self._make(name, message)
        for ready in waiting:
            ready(context)

    def _leaf(self, name: str) -> Mapping[str, Any] | None:
        return self._leaves.get(name) or self._leaves.get("*." + name.partition(".")[2])

    def _make(self, name: str, leaf: Mapping[str, Any]) -> ssl.SSLContext | None:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])

        def named(client: object, given: str | None, _: object) -> int | None:
            if given is None or given.lower() == name:
                return None
            self._misnamed(name, given)
            return int(ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)

        context.sni_callback = named
        path = self.directory / f"leaf-{os.getpid()}.pem"
        path.unlink(missing_ok=True)  # of a process that was killed
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as written:
                written.write(f"{leaf['key'].rstrip()}\n{leaf['chain'].rstrip()}\n")
            context.load_cert_chain(path)
        except ssl.SSLError:
            return None
        finally:
            path.unlink()
        self._contexts[name] = context
        return context
