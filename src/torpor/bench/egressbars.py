"""The figures of `torpor bench egress`, beside their bars. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torpor.bench.bars import Figure
from torpor.bench.stats import percentile

DIRECT, TORPOR, LOGGED = "without torpor", "torpor", "torpor, with the log"
MITM = "mitmproxy"


@dataclass(frozen=True)
class Way:
    """Requests by one way: how long each took, and what of the processor the process between had
    for one, for each round. Milliseconds."""

    took_ms: Sequence[float]
    cpu_ms: Sequence[float] = ()


@dataclass(frozen=True)
class Crowd:
    guests: int
    streams: int  # most that stood at once
    exchanges: int
    bytes: int
    lost: int  # exchanges whose bytes are not those that were sent
    broker_bytes: int  # its peak
    broker_cpu_s: float
    took_s: float


@dataclass(frozen=True)
class FromMachine:
    small_ms: Sequence[float]
    handshake_ms: Sequence[float]
    logged_ms: Sequence[float]  # of recorded answers that stream: until their first text is logged


@dataclass(frozen=True)
class Measured:
    small: Mapping[str, Way]
    fresh_ms: Mapping[str, Sequence[float]]  # by connections that are new to the origin
    first_ms: Sequence[float]
    crowd: Crowd
    machine: FromMachine | None


def figures(m: Measured) -> tuple[Figure, ...]:
    """What was found, in the order it is shown."""
    return (*_small(m), *_connections(m), *_crowd(m.crowd), *_machine(m.machine))


def _added(m: Measured, way: str, share: float) -> float:
    """What a request takes more than one without torpor."""
    ours, direct = (percentile(m.small[name].took_ms, share) for name in (way, DIRECT))
    return ours - direct


def _peers(m: Measured, share: float) -> dict[str, float]:
    return {MITM: _added(m, MITM, share)} if MITM in m.small else {}


def _small(m: Measured) -> Iterator[Figure]:
    torpor, requests = m.small[TORPOR], len(m.small[TORPOR].took_ms)
    cpu = {MITM: percentile(m.small[MITM].cpu_ms, 0.5)} if MITM in m.small else {}
    slowest = {MITM: percentile(m.small[MITM].cpu_ms, 1)} if MITM in m.small else {}
    yield Figure(
        key="cpu_ms",
        title="a small request: the broker's processor, p50 of the rounds",
        unit="ms",
        value=percentile(torpor.cpu_ms, 0.5),
        samples=len(torpor.cpu_ms),
        peers=cpu,
        bar=1,
        bound="aiohttp and TLS; nine frames",
    )
    yield Figure(
        key="cpu_max_ms",
        title="a small request: the broker's processor, the worst round",
        unit="ms",
        value=percentile(torpor.cpu_ms, 1),
        samples=len(torpor.cpu_ms),
        peers=slowest,
        bound="what else the host's cores do",
    )
    for key, what, way, bar in (
        ("added", "added to a small request", TORPOR, 1.5),
        ("logged", "added with a worker that logs it", LOGGED, None),
    ):
        for name, share in (("p50", 0.5), ("p90", 0.9)):
            yield Figure(
                key=f"{key}_{name}_ms",
                title=f"{what}: {name}",
                unit="ms",
                value=_added(m, way, share),
                samples=requests,
                peers=_peers(m, share),
                bar=bar if name == "p50" else None,
                bound="two processes more, one after the other"
                if way == TORPOR
                else "and a commit before the answer is the agent's",
            )


def _connections(m: Measured) -> Iterator[Figure]:
    kept, fresh = (
        {name: percentile(given, 0.5) for name, given in each.items()}
        for each in ({name: m.small[name].took_ms for name in m.fresh_ms}, m.fresh_ms)
    )
    yield Figure(
        key="handshake_ms",
        title="a new connection of the broker's: p50 of what it adds",
        unit="ms",
        value=fresh[TORPOR] - kept[TORPOR],
        samples=len(m.fresh_ms[TORPOR]),
        peers={DIRECT: fresh[DIRECT] - kept[DIRECT]},
        bound="a handshake of TLS with the origin",
    )
    for name, share, bar in (("p50", 0.5, None), ("max", 1.0, 10.0)):
        yield Figure(
            key=f"first_{name}_ms",
            title=f"the first bytes of an answer that streams, origin to guest: {name}",
            unit="ms",
            value=percentile(m.first_ms, share),
            samples=len(m.first_ms),
            bar=bar,
            bound="nothing is held back",
        )


def _crowd(m: Crowd) -> Iterator[Figure]:
    of = f"the streams of {m.guests} guests at once"
    yield Figure(
        key="crowd_lost",
        title=f"{of}: answers and bodies that were not whole",
        unit="count",
        value=m.lost,
        samples=m.exchanges,
        bar=0,
        bound="compared by digest",
    )
    yield Figure(
        key="crowd_streams",
        title=f"{of}: most that were under way",
        unit="count",
        value=m.streams,
        bound="each has a connection of its own to the origin",
    )
    yield Figure(
        key="crowd_bytes",
        title=f"{of}: memory of the broker, its peak",
        unit="bytes",
        value=m.broker_bytes,
        bar=150_000_000,
        bound="Python and its libraries, a TLS connection a stream",
    )
    yield Figure(
        key="crowd_cpu_ms",
        title=f"{of}: the broker's processor, of an exchange",
        unit="ms",
        value=1000 * m.broker_cpu_s / m.exchanges,
        samples=m.exchanges,
        bound="a handshake, and some frames for each event",
    )


def _machine(m: FromMachine | None) -> Iterator[Figure]:
    if m is None:
        return
    for name, share, bar in (("p50", 0.5, 25.0), ("p90", 0.9, None)):
        yield Figure(
            key=f"machine_{name}_ms",
            title=f"a small request from a machine, connection kept: {name}",
            unit="ms",
            value=percentile(m.small_ms, share),
            samples=len(m.small_ms),
            bar=bar,
            bound="agent, gateway and supervisor, three processes on one processor",
        )
    yield Figure(
        key="machine_handshake_ms",
        title="a new connection in a machine, with its TLS: p50",
        unit="ms",
        value=percentile(m.handshake_ms, 0.5),
        samples=len(m.handshake_ms),
        bound="both ends of TLS in the machine",
    )
    yield Figure(
        key="first_logged_ms",
        title="the first text of a recorded answer, origin to log: max",
        unit="ms",
        value=percentile(m.logged_ms, 1),
        samples=len(m.logged_ms),
        bar=10,
        bound="a commit",
    )
