"""How an agent rests under a recorded call: clients' timeouts keep nothing awake, wake nothing, and
do not run while the machine sleeps. By real threads, sockets and event loops."""

from __future__ import annotations

import asyncio
import select
import socket
import subprocess
import sys
import threading
import time
from asyncio import base_events
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from torpor.sdk import answers, looptime, rest
from torpor.sdk.rest import Rest, Watch

SLEEPS = "a thread or a process sleeps"


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The gateway's: it accepts, and does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = server.getsockname()[1]
        monkeypatch.setattr(answers, "MODEL_PORT", found)
        yield found


@pytest.fixture
def watch() -> Watch:
    return Watch(threading.enumerate(), (), rest.there_already())


def rested(watch: Watch, *, calls: bool) -> Rest:
    """What a look finds once nothing runs any more."""
    while (found := watch.look(1.0, calls=calls)).busy not in ("", SLEEPS):
        watch.stir()
    return found


Client = Callable[[socket.socket], object]


def received(client: socket.socket) -> None:
    client.settimeout(600)
    client.recv(1)


def polled(client: socket.socket) -> None:
    poll = select.poll()
    poll.register(client, select.POLLIN)
    poll.poll(600_000)


def selected(client: socket.socket) -> None:
    select.select([client], [], [], 600)


@pytest.mark.parametrize("wait", [received, polled, selected])
def test_a_clients_timeout_keeps_nothing_awake_under_a_call(
    wait: Client, port: int, watch: Watch
) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        thread = threading.Thread(target=wait, args=(client,))
        thread.start()
        assert rested(watch, calls=False).busy == SLEEPS
        assert rested(watch, calls=True) == Rest(calls=True)
        client.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_nor_does_that_of_a_child_process(port: int, watch: Watch) -> None:
    code = (
        "import socket; c = socket.create_connection(('127.0.0.1', int(input())));"
        "c.settimeout(600); print(flush=True); c.recv(1)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child:
        child.stdin.write(f"{port}\n")
        child.stdin.flush()
        child.stdout.readline()
        assert rested(watch, calls=False).busy == SLEEPS
        assert rested(watch, calls=True) == Rest(calls=True)
        child.kill()


def test_what_else_sleeps_keeps_it_awake_all_the_same(port: int, watch: Watch) -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait, args=(600,))
    thread.start()
    assert rested(watch, calls=True).busy == SLEEPS
    over.set()
    thread.join()


def test_so_does_a_connection_to_anything_else(port: int, watch: Watch) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.create_connection(other.getsockname()) as client,
    ):
        thread = threading.Thread(target=received, args=(client,))
        thread.start()
        assert rested(watch, calls=True).busy == SLEEPS
        client.shutdown(socket.SHUT_RDWR)
        thread.join()


async def _agent(port: int, ready: Callable[[], object]) -> None:
    async def call() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.wait_for(reader.read(1), 60)
        finally:
            writer.close()

    calling, sleeping = asyncio.create_task(call()), asyncio.create_task(asyncio.sleep(300))
    asyncio.get_running_loop().call_later(0, ready)
    await asyncio.gather(calling, sleeping)


def test_of_an_event_loops_timers_sleeps_alone_wake_it_under_a_call(
    port: int, watch: Watch
) -> None:
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    main = loop.create_task(_agent(port, ready.set))

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(asyncio.wait({main}))

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    without, under = rested(watch, calls=False), rested(watch, calls=True)
    loop.call_soon_threadsafe(main.cancel)
    thread.join()
    loop.close()
    assert without.wake_in is not None
    assert without.wake_in <= 60
    assert under.wake_in is not None
    assert 60 < under.wake_in <= 300


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`slept`: of the machine, until now. Loops' time is as in a machine."""
    now = SimpleNamespace(slept=0.0)
    times = SimpleNamespace(time=lambda: time.time() + now.slept, monotonic=time.monotonic)
    monkeypatch.setattr(looptime, "time", times)
    ours = looptime._LoopClock()
    monkeypatch.setattr(looptime, "_clock", ours)
    monkeypatch.setattr(base_events.BaseEventLoop, "time", lambda self: ours())
    return now


def test_under_a_call_timeouts_stand_still_and_sleeps_go_on(clock: SimpleNamespace) -> None:
    async def agent() -> None:
        loop = asyncio.get_running_loop()
        limit = loop.create_future()
        limited = asyncio.create_task(asyncio.wait_for(limit, 60))
        short, long = (asyncio.create_task(asyncio.sleep(s)) for s in (3600.0, 7200.0))
        await asyncio.sleep(0)
        before = loop.time()
        with looptime.over_a_sleep(stands=True):
            clock.slept = 4000.0
        await short
        assert loop.time() - before < 60
        assert not limited.done()
        assert not long.done()
        with looptime.over_a_sleep(stands=False):  # not under a call: all of them go on
            clock.slept = 8000.0
        await long
        with pytest.raises(asyncio.TimeoutError):
            await limited

    asyncio.run(agent())


def test_a_sleep_that_is_over_meanwhile_is_over_once(clock: SimpleNamespace) -> None:
    async def agent() -> None:
        sleeping = asyncio.create_task(asyncio.sleep(3600.0))
        other = asyncio.create_task(asyncio.sleep(3600.0))
        await asyncio.sleep(0)
        with looptime.over_a_sleep(stands=True):
            other.cancel()
            clock.slept = 4000.0
        await asyncio.wait({sleeping, other})
        assert other.cancelled()
        assert not asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]

    asyncio.run(agent())
