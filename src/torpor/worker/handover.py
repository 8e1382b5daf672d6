"""That a run is to be handed over to the next driver: wherever its agent is, as soon as that can be
done (`torpor.worker.freezing`)."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[str], None]  # how it goes, in words for people


class HandOver:
    """Of one driver's run."""

    def __init__(self) -> None:
        self._report: Report | None = None

    @property
    def wanted(self) -> bool:
        return self._report is not None

    def request(self, report: Report) -> None:
        self._report = report

    def report(self, how: str) -> None:
        if self._report is not None:
            self._report(how)
