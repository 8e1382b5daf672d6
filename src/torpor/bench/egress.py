"""`torpor bench egress`: what the way out costs, without machines and from one.

    host      the broker of a stage, asked by guests without machines (`guests`) for a TLS server on
              loopback (`origin`), in turn with the same requests made without torpor, through a
              worker that writes the log, and through mitmproxy (`mitm`)
    crowd     the streams of many guests at once, whose bytes are compared by their digests
    machine   an agent (`reaching.py`) that asks the same server, where machines run

Added is what a request takes more than the same one without torpor. The processor's time is what
the kernel says of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
from sqlalchemy import Connection

from torpor.bench import footprint, mitm, origin
from torpor.bench.egressbars import (
    DIRECT,
    LOGGED,
    MITM,
    TORPOR,
    Crowd,
    FromMachine,
    Measured,
    Way,
    figures,
)
from torpor.bench.guests import Answer, Ask, Direct, Logged, Session, Site, policy, timed_ms
from torpor.bench.origin import Streamed
from torpor.bench.stage import Stage, ended, perform, report
from torpor.contextlog import egress, entries, runs
from torpor.control.engines import choose
from torpor.core.clock import SYSTEM_CLOCK
from torpor.core.errors import GuestError, InternalError
from torpor.core.ids import AgentVersion, Epoch, RunId
from torpor.core.states import RunState
from torpor.egress.authority import Authority
from torpor.egress.client import BrokerClient
from torpor.engine import process, qemu
from torpor.project.reading import read_agent
from torpor.worker import way
from torpor.worker.network import Network
from torpor.worker.pen import Pen
from torpor.worker.tasks import Tasks

AGENT = Path(__file__).with_name("reaching.py")
HOST = "origin.bench.example"
ROUNDS = 10
FIRSTS = 30
FOLLOWS = 5
CONNECTIONS = 40
CROWD_STREAMS, CROWD_BYTES = 2, 256 * 1024
CROWD_ANSWER = Streamed(events=30, every_ms=100, bytes=500)
_LIMIT_S = 300.0


@dataclass(frozen=True)
class Sizes:
    requests: int  # each way
    guests: int
    machine_requests: int  # 0: no machine


def main(sizes: Sizes, as_json: bool) -> int:
    """Measure and print: JSON or a table on stdout, progress on stderr. Raises TorporError."""
    began = time.perf_counter()
    peer = mitm.find()
    found = figures(perform(lambda stage: _measure(stage, sizes, peer)))
    took_s = time.perf_counter() - began
    about = f"; {took_s:.0f} s. Peer: {peer.about}."
    report(found, about, as_json=as_json, took_s=round(took_s, 1), peer=peer.about)
    return 0


async def _measure(stage: Stage, sizes: Sizes, peer: mitm.Peer) -> Measured:
    async with _origin(stage) as site:
        return await _measured(stage, sizes, peer, site)


async def _measured(stage: Stage, sizes: Sizes, peer: mitm.Peer, site: Site) -> Measured:
    broker = BrokerClient.of(stage.home)
    pid = (await broker.connect()).pid
    try:
        async with contextlib.AsyncExitStack() as stack:
            ways = await _ways(stage, stack, broker, site, peer)
            stage.tell(f"{sizes.requests:,} small requests, each way")
            small = await _small(ways, sizes.requests)
            stage.tell("new connections")
            fresh = {name: await _fresh_ms(ways[name][0]) for name in (DIRECT, TORPOR)}
            stage.tell("the first bytes of answers that stream")
            first_ms = [await _first_ms(ways[TORPOR][0]) for _ in range(FIRSTS)]
        stage.tell(f"the streams of {sizes.guests} guests at once")
        crowd = await _crowd(broker, pid, site, sizes.guests)
    finally:
        await broker.close()
    return Measured(
        small, fresh, first_ms, crowd, await _from_machine(stage, sizes.machine_requests, site)
    )


# The other end.


@contextlib.asynccontextmanager
async def _origin(stage: Stage) -> AsyncIterator[Site]:
    directory = stage.home.root / "origin"
    directory.mkdir()
    authority = Authority.new()
    leaf = authority.leaf([HOST, "127.0.0.1"])
    (directory / "chain.pem").write_text(leaf.chain + leaf.key)
    _authority_file(stage).write_text(authority.certificate)
    command = (sys.executable, "-m", origin.__name__, str(directory / "chain.pem"))
    pipe = asyncio.subprocess.PIPE
    server = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    try:
        assert server.stdout is not None
        line = await server.stdout.readline()
        if not line:
            raise InternalError("the server that is to be asked did not start")
        stage.home.egress.write_text(
            f'[[host]]\nname = "{HOST}"\naddresses = ["127.0.0.1"]\n'
            f'ca = "{_authority_file(stage).relative_to(stage.home.root)}"\n'
        )
        yield Site(HOST, int(line))
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.kill()
        await server.wait()


def _authority_file(stage: Stage) -> Path:
    return stage.home.root / "origin" / "authority.pem"


# The ways to it.


async def _ways(
    stage: Stage,
    stack: contextlib.AsyncExitStack,
    broker: BrokerClient,
    site: Site,
    peer: mitm.Peer,
) -> dict[str, tuple[Ask, int]]:
    """How to ask, and the process between, by name; 0: none."""
    base, pid = f"https://127.0.0.1:{site.port}", (await broker.connect()).pid
    authority = _authority_file(stage)
    run = RunId("run_bench")
    await broker.set_policy(run, policy(site))
    ways: dict[str, tuple[Ask, int]] = {
        DIRECT: (await _session(stack, authority.read_text(), base), 0),
        TORPOR: (Direct(broker, run, site).ask, pid),
        LOGGED: (await stack.enter_async_context(_logged(stage, broker, site)), pid),
    }
    if peer.command:
        directory = stage.home.root / "mitmproxy"
        proxy = await stack.enter_async_context(mitm.proxy(peer, directory, authority))
        through = await _session(stack, proxy.authority, base, proxy.url)
        ways[MITM] = (through, proxy.pid)
    return ways


async def _session(
    stack: contextlib.AsyncExitStack, authority: str, base: str, proxy: str | None = None
) -> Ask:
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=authority))
    session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
    return Session(session, base, proxy).ask


@contextlib.asynccontextmanager
async def _logged(stage: Stage, broker: BrokerClient, site: Site) -> AsyncIterator[Ask]:
    """Through what a worker has for a run, which is at work as far as the log knows."""
    deployed = await stage.service.agents.deploy(read_agent(AGENT), _unheard, process.NAME)

    def claimed(c: Connection) -> tuple[RunId, Epoch]:
        version = AgentVersion(deployed["version"])
        row = runs.create_run(c, version=version, agent="reach", input={}, now=time.time())
        return row.id, runs.claim(c, row.id, time.time())

    run, epoch = await stage.store.write(claimed)
    await broker.set_policy(run, policy(site))
    guest, pen = Logged(site), Pen(stage.store, run, epoch)
    out = way.Way(run, broker, stage.store, pen, SYSTEM_CLOCK, lambda: guest)
    guest.network = Network(out, Tasks(_fail))
    try:
        yield guest.ask
    finally:
        await guest.network.leave(None)
        await stage.store.write(
            lambda c: runs.transition(c, run, epoch, RunState.CANCELLED, time.time())
        )


def _fail(error: BaseException) -> None:
    raise error


def _unheard(*_: object) -> None:
    pass


# What is measured without machines.


async def _small(ways: dict[str, tuple[Ask, int]], requests: int) -> dict[str, Way]:
    """All ways in turn, so that what else the host does is shared by all."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    each = max(1, requests // ROUNDS)
    for ask, _ in ways.values():
        await timed_ms(ask, "/small", 3, origin.SMALL)
    for _ in range(ROUNDS):
        for name, (ask, pid) in ways.items():
            before = footprint.cpu_s(pid) if pid else 0.0
            took[name] += await timed_ms(ask, "/small", each, origin.SMALL)
            if pid:
                cpu[name].append(1000 * (footprint.cpu_s(pid) - before) / each)
    return {name: Way(took[name], cpu[name]) for name in ways}


async def _fresh_ms(ask: Ask) -> list[float]:
    """Each by a connection of its own: what comes after the first finds none that was kept."""
    await ask("/close", b"")
    return (await timed_ms(ask, "/close", CONNECTIONS, origin.SMALL))[1:]


async def _first_ms(ask: Ask) -> float:
    """From when the origin sends the first event to when it is the guest's."""
    answer = await ask(Streamed(events=3).target, b"")
    return 1000 * (answer.first_at - _sent_at(answer))


def _sent_at(answer: Answer) -> float:
    return float(origin.text_of(answer.body.partition(b"\n\n")[0]))


async def _crowd(broker: BrokerClient, pid: int, site: Site, guests: int) -> Crowd:
    together = guests * CROWD_STREAMS
    streamed = replace(CROWD_ANSWER, together=together)
    names = [RunId(f"run_{number}") for number in range(guests)]
    for run in names:
        await broker.set_policy(run, policy(site))
    most, lost, received = 0, 0, 0

    async def follow(ask: Ask) -> None:
        nonlocal lost, received
        answer = await ask(streamed.target, b"")
        lost += not origin.is_whole(answer.body)
        received += len(answer.body)

    async def upload(ask: Ask, number: int) -> None:
        nonlocal lost, received
        body = number.to_bytes(4, "big") * (CROWD_BYTES // 4)
        answer = await ask("/upload", body)
        lost += answer.body.decode() != hashlib.sha256(body).hexdigest()
        received += len(body)

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, (await broker.health())["streams"])
            await asyncio.sleep(0.1)

    footprint.forget_peak(pid)
    before, began = footprint.cpu_s(pid), time.perf_counter()
    watching = asyncio.create_task(watch())
    try:
        async with asyncio.timeout(_LIMIT_S), asyncio.TaskGroup() as tasks:
            for number, run in enumerate(names):
                ask = Direct(broker, run, site).ask
                for _ in range(CROWD_STREAMS):
                    tasks.create_task(follow(ask))
                tasks.create_task(upload(ask, number))
    finally:
        watching.cancel()
    return Crowd(
        guests=guests,
        streams=most,
        exchanges=guests * (CROWD_STREAMS + 1),
        bytes=received,
        lost=lost,
        broker_bytes=footprint.peak(pid),
        broker_cpu_s=footprint.cpu_s(pid) - before,
        took_s=time.perf_counter() - began,
    )


# From a machine.


async def _from_machine(stage: Stage, requests: int, site: Site) -> FromMachine | None:
    """None where no machines run, or none is asked for."""
    if not requests or choose().engine != qemu.NAME:
        return None
    stage.tell("making a machine")
    where = {"host": site.host, "port": site.port}
    plain = {**where, "paths": ["/small"]}
    model = {**where, "preset": "ollama", "protocol": "https"}
    source = replace(read_agent(AGENT), egress=(plain, model))
    deployed = await stage.service.agents.deploy(source, _unheard, qemu.NAME)
    version = deployed["version"]
    stage.tell(f"{requests:,} small requests from a machine")
    row = await ended(stage, version, "reach", **where, times=requests)
    if not isinstance(row.result, dict):
        raise GuestError(f"the agent that asks has failed: {row.error}")
    stage.tell("a model's answers that stream, to a machine")
    followed = await ended(stage, version, "follow", **where, times=FOLLOWS)
    if followed.result is None:
        raise GuestError(f"the agent that follows has failed: {followed.error}")
    return FromMachine(**row.result, logged_ms=await _logged_ms(stage, followed.id))


async def _logged_ms(stage: Stage, run: RunId) -> list[float]:
    """From when the origin sent the first event of each answer to when its text is in the log."""
    parts = await stage.store.read(lambda c: entries.read_entries(c, run, 0, [egress.PART]))
    firsts = {entry.op: entry for entry in reversed(parts)}
    if len(firsts) != FOLLOWS:
        raise InternalError(f"the log has the text of {len(firsts)} of {FOLLOWS} answers")
    return [1000 * (each.at - float(each.data["text"].split()[0])) for each in firsts.values()]
