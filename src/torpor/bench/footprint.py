"""What torpor's own processes take of the host: processor, and memory above all, a server's after
many runs of several versions, and its peak, with the pager's, while much is frozen. Read from the
kernel, of a server of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torpor.client import Client, ensure_server, stop_server
from torpor.core.agentfile import AgentSource
from torpor.core.errors import InternalError
from torpor.core.home import Home
from torpor.core.states import FINAL, RunState
from torpor.engine import process, qemu
from torpor.project.reading import read_agent

SMALL, LARGE = (Path(__file__).with_name(name) for name in ("working.py", "large.py"))
VERSIONS = 10
LARGE_MIB = 500
# Longer than what looks after a process's memory takes to come round (`torpor.core.memory`).
SETTLE_S = 20.0
_AT_ONCE = 10
_LIMIT_S = 300.0
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Grown:
    """A server's resident bytes after so many runs, and how many more that is than after half."""

    runs: int
    bytes: int
    grown_bytes: int


@dataclass(frozen=True)
class Frozen:
    """A snapshot of a machine with LARGE_MIB that do not compress: how long the machine stood
    still for it, and the most that server and pager took of memory until it was stored."""

    pause_ms: float
    server_bytes: int
    pager_bytes: int


@dataclass(frozen=True)
class Footprint:
    process: Grown
    machines: Grown | None = None  # None: no machines run here, or none was asked for
    freeze: Frozen | None = None
    checkpoint: Frozen | None = None


def measure(home: Home, images: Home, runs: int, machine_runs: int, tell: Tell) -> Footprint:
    """On `home`, which does not exist yet and gets the images of another. Blocks."""
    home.root.mkdir(parents=True)
    for theirs, ours in ((images.images, home.images), (images.cache, home.cache)):
        ours.symlink_to(theirs.resolve(), target_is_directory=True)
    client = ensure_server(home.create())
    try:
        found = Footprint(_grown(client, process.NAME, runs, tell))
        if client.health()["engine"] != qemu.NAME or not machine_runs:
            return found
        machines = _grown(client, qemu.NAME, machine_runs, tell)
        version = _deployed(client, read_agent(LARGE), qemu.NAME)
        freeze, checkpoint = (_frozen(home, client, version, each, tell) for each in (False, True))
        return replace(found, machines=machines, freeze=freeze, checkpoint=checkpoint)
    finally:
        stop_server(home)  # and wait until it is gone: its directory goes next


def _grown(client: Client, engine: str, runs: int, tell: Tell) -> Grown:
    small = read_agent(SMALL)
    versions = []
    for number in range(VERSIONS):
        tell(f"{engine}: version {number + 1} of {VERSIONS}")
        text = small.files[small.entry] + f"\n# {number}\n".encode()
        source = replace(small, files={**small.files, small.entry: text})
        versions.append(_deployed(client, source, engine))
    after = []
    for half in range(2):
        for done in range(0, runs // 2, _AT_ONCE):
            tell(f"{engine}: run {half * (runs // 2) + done} of {runs}")
            some = [
                client.start(versions[k % VERSIONS], "doze", {"times": 0, "duration_s": 0}, None)
                for k in range(done, min(done + _AT_ONCE, runs // 2))
            ]
            for run in some:
                _ended(client, run["id"])
        time.sleep(SETTLE_S)
        after.append(resident(_server(client)))
    return Grown(runs // 2 * 2, after[1], after[1] - after[0])


def _frozen(home: Home, client: Client, version: str, checkpoint: bool, tell: Tell) -> Frozen:
    tell(f"{LARGE_MIB} MiB, {'a checkpoint' if checkpoint else 'a freeze'}")
    pids = _server(client), _pager(home)
    for pid in pids:
        forget_peak(pid)
    run = client.start(version, "hold", {"mib": LARGE_MIB, "checkpoint": checkpoint}, None)["id"]
    _until(client, run, RunState.SUSPENDED)
    server, pager = (peak(pid) for pid in pids)
    first = next(each for each in client.entries(run) if each["kind"] == "snapshot")
    if first["data"]["bytes"] < LARGE_MIB << 20:
        raise InternalError(f"the snapshot has {first['data']['bytes']:,} bytes only")
    (wait,) = client.waits(run=run)
    client.complete(wait["id"])
    if _ended(client, run) is not True:
        raise InternalError("what was frozen is not what came back")
    return Frozen(first["data"]["pause_ms"], server, pager)


def _deployed(client: Client, source: AgentSource, engine: str) -> str:
    return str(client.deploy(source, _unheard, engine)["version"])


def _ended(client: Client, run: str) -> object:
    """What it gave."""
    return _until(client, run, RunState.COMPLETED)["result"]


def _until(client: Client, run: str, state: RunState) -> dict[str, object]:
    deadline = time.monotonic() + _LIMIT_S
    while (row := client.run(run))["state"] != state.value:
        if RunState(row["state"]) in FINAL or time.monotonic() > deadline:
            raise InternalError(f"the run is {row['state']}, not {state.value}: {row['error']}")
        time.sleep(0.05)
    return row


def _unheard(*_: object) -> None:
    pass


def _server(client: Client) -> int:
    return int(client.health()["pid"])


def _pager(home: Home) -> int:
    """The process that has this data directory's pager.lock open, which is its own."""
    lock = (home.run / "pager.lock").stat()
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and int(fields[5].rpartition(":")[2]) == lock.st_ino:
            return int(fields[4])
    raise InternalError("no pager runs")


def resident(pid: int) -> int:
    """Bytes of the host's memory that a process has mapped."""
    return _status(pid, "VmRSS")


def peak(pid: int) -> int:
    """The most that it had since `forget_peak`."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc_pid_clear_refs(5)


def cpu_s(pid: int) -> float:
    """The processor's time that a process has had, all its threads'."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS


def _status(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise InternalError(f"the kernel does not say what memory process {pid} takes")
