"""What waits to be used."""

from __future__ import annotations

import asyncio

import pytest

from torpor.machines.pool import Spares

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class One:
    """Ends after some turns of the loop."""

    alive = True

    def __init__(self, turns: int) -> None:
        self._turns = turns
        self.ended = False

    async def discard(self) -> None:
        for _ in range(self._turns):
            await asyncio.sleep(0)
        self.ended = True


async def test_closing_waits_for_those_that_make_room_for_others() -> None:
    made: list[One] = []

    async def make() -> One:
        made.append(One(100 - 40 * len(made)))
        return made[-1]

    spares: Spares[int, One] = Spares(most=1)
    for key in range(3):
        spares.refill(key, make)
    await spares.close()
    assert [each.ended for each in made] == [True, True, True]
