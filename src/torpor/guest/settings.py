"""Where the supervisor finds things. A machine has one layout; beside a machine (the supervisor
as an ordinary process, on one end of a socket pair) everything is below one directory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from torpor.wire.wayout import MODEL_PORT

AGENT_UID = 1000


class Settings(NamedTuple):
    machine: bool  # this is the first process of a machine: it mounts, sets the clock, seeds
    app: Path  # the agent's files, which is its current directory
    home: Path
    deps: Path  # its dependencies, where `load` says there are any
    package: Path  # the directory that holds the package torpor
    uid: int | None  # the agent's user; None: the supervisor's
    cgroup: Path | None  # agent's and gateway's; None: only the agent's Python threads stop
    model_port: int  # 0: any
    network: bool  # all addresses lead to the gateway: it has the machine, or a namespace
    gateway: Path  # the gateway's own directory
    trust: Path  # where the certificate is that clients trust
    link_fd: int | None = None  # None: the virtio port
    python: str = sys.executable


def machine() -> Settings:
    home = Path("/home/agent")
    return Settings(
        machine=True,
        app=home / "work",
        home=home,
        deps=Path("/opt/deps"),
        package=Path("/torpor"),
        uid=AGENT_UID,
        cgroup=Path("/sys/fs/cgroup/held"),
        model_port=MODEL_PORT,
        network=True,
        gateway=Path("/run/gateway"),
        trust=Path("/run/trust"),
    )


def beside(
    directory: Path, link_fd: int, *, cgroup: Path | None = None, network: bool = False
) -> Settings:
    """As an ordinary process, with everything below `directory` and nothing isolated."""
    return Settings(
        machine=False,
        app=directory / "work",
        home=directory,
        deps=directory / "deps",
        package=Path(__file__).parent.parent.parent,
        uid=None,
        cgroup=cgroup,
        model_port=0,
        network=network,
        gateway=directory / "gateway",
        trust=directory / "trust",
        link_fd=link_fd,
    )
