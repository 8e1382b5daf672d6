"""The supervisor's end of the channel to the host: a link over a descriptor.

The descriptor is a virtio port, whose other end the host may close and open again (a read gives
nothing meanwhile), or one end of a socket pair, which closes once (`HostGone`).
"""

from __future__ import annotations

import os

from torpor.guest import boot
from torpor.wire.link import Link, Received

_READ_BYTES = 64 * 1024
_PAGE = 4096
_TOGETHER_BYTES = 256 * 1024


class HostGone(Exception):
    """The other end has been closed for good."""


class Port:
    def __init__(self, fd: int | None) -> None:
        """The link on `fd`, or on the virtio port if that is None."""
        self._reopens = fd is None
        self.fd = boot.open_port() if fd is None else fd
        os.set_blocking(self.fd, False)
        os.set_inheritable(self.fd, False)
        self._link = Link()
        self._outgoing = bytearray()

    @property
    def unacked(self) -> int:
        """Bytes that the host has not confirmed."""
        return self._link.unacked

    @property
    def blocked(self) -> bool:
        """There is more to write than the descriptor takes now."""
        return bool(self._outgoing)

    def send(self, channel: int, message: bytes) -> None:
        """Queue `message`; see `write`. Raises LinkError."""
        self._link.send(channel, message)

    def read(self) -> list[Received] | None:
        """The messages that have come; None while the host's end is closed. Raises LinkError and
        HostGone."""
        came = bytearray()
        try:
            # A virtio port gives a page at a time: what has come is looked at together.
            while len(came) < _TOGETHER_BYTES:
                data = os.read(self.fd, _READ_BYTES)
                came += data
                if len(data) < _PAGE:
                    break
        except BlockingIOError:
            return self._link.receive(bytes(came))
        except ConnectionResetError as error:
            raise HostGone from error
        if came:
            return self._link.receive(bytes(came))
        if self._reopens:
            return None
        raise HostGone

    def write(self) -> None:
        """Write what is queued, as far as it goes."""
        self._outgoing += self._link.data_to_send()
        try:
            while self._outgoing:
                del self._outgoing[: os.write(self.fd, self._outgoing)]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError) as error:
            raise HostGone from error
