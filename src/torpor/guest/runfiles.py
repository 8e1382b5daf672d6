"""Files that the host sends: the agent's, a tar, before it is loaded; a run's, before it starts,
each announced, then its bytes.

A run's are written on their way, as the agent's own, into its working directory. What cannot be
written is said when the run is to start; what comes of it until then is dropped.
"""

from __future__ import annotations

from typing import Any

from torpor.core.errors import Invalid
from torpor.core.runfiles import Place, check_path
from torpor.guest.settings import Settings


class Arriving:
    def __init__(self, settings: Settings) -> None:
        self._root, self._uid = settings.app, settings.uid
        self._path = ""
        self._place: Place | None = None
        self._left = 0  # bytes of a file that was announced
        self.tar = bytearray()
        self.problem = ""  # with the first that could not be written

    def announce(self, message: dict[str, Any]) -> None:
        """Raises Invalid."""
        if self._left:
            raise Invalid(f"{self._path} is not whole yet")
        self._path, self._left = check_path(message["path"]), message["bytes"]
        try:
            self._place = Place(self._root, self._path, self._uid)
        except OSError as error:
            self._fail(error)
        self._write(b"")

    def take(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
            self._write(data)
        else:
            self.tar += data

    def _write(self, data: bytes) -> None:
        if self._place is None:
            return
        try:
            self._place.write(data)
            if not self._left:
                self._place.finish()
                self._place = None
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if self._place is not None:
            self._place.give_up()
            self._place = None
        words = f"the run's file {self._path} could not be written: {error.strerror or error}"
        self.problem = self.problem or words
