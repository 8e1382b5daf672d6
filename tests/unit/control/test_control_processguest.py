"""The conversation with an agent's process, over a real socket and a real process."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator

import pytest

from torpor.engine.process.agent import Agent
from torpor.machines.channel import Message
from torpor.worker.processguest import ProcessGuest

pytestmark = pytest.mark.anyio

# Ends when it is told anything, having said its last word.
ENDS = """
import socket, sys
control = socket.socket(fileno=int(sys.argv[1]))
control.recv(65536)
control.sendall(b'{"t": "done", "value": 1}\\n')
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def guest(anyio_backend: str) -> AsyncIterator[ProcessGuest]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    pipes = (os.pipe(), os.pipe())
    for read, _ in pipes:
        os.set_blocking(read, False)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ENDS, str(theirs.fileno())),
        pass_fds=[theirs.fileno()],
        stdout=pipes[0][1],
        stderr=pipes[1][1],
    )
    theirs.close()
    for _, write in pipes:
        os.close(write)
    guest = ProcessGuest(Agent(process, ours, (pipes[0][0], pipes[1][0]), b"mark"))
    yield guest
    await process.wait()
    await guest.close()


async def test_one_that_ends_while_it_is_to_stand_still_keeps_nobody_waiting(
    guest: ProcessGuest,
) -> None:
    """Its last word was in the inbox, and its run was taken for lost for want of an answer."""
    guest.say("prepare", rest_s=1.0)
    answer = await asyncio.wait_for(
        guest.hear("prepared", "unprepared", within_s=3600.0), timeout=60
    )
    assert answer == {"t": "unprepared", "reason": "it has ended", "again_s": 0.0}
    assert list(guest.inbox) == [Message({"t": "done", "value": 1})]


async def test_one_that_has_ended_does_not_stand_still(guest: ProcessGuest) -> None:
    guest.say("cancel", reason="enough")
    await guest.hear("done", within_s=60.0)
    await asyncio.wait_for(guest.agent.process.wait(), timeout=60)
    guest.say("prepare", rest_s=1.0)
    answer = await asyncio.wait_for(
        guest.hear("prepared", "unprepared", within_s=3600.0), timeout=60
    )
    assert answer["t"] == "unprepared"
