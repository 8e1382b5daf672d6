"""The data directory: where everything of one torpor lives on this host.

`$TORPOR_HOME`, else `$XDG_DATA_HOME/torpor`, else `~/.local/share/torpor`.

    torpor.db             runs, context logs, waits, snapshot records (SQLite)
    blobs/                layers and manifests, by content
    images/  deps/        guest images and dependency layers, by content
    apps/  modules/       agents' files and dependencies, as plain processes use them
    work/                 the directories of runs that are plain processes
    output/               what agents printed beyond what their logs take
    run/                  sockets, locks, mounts, machines: nothing here outlives the processes
    cache/                answers worth keeping (engine probe), what images are made of
    prices.toml           what models cost, where that differs from the built-in table
    egress.toml           what the host says about requests that leave (`egress.hostfile`)
    egress-usage.jsonl    what of budgets and limits is reserved, and not in the log yet
    host.key              what the secrets are sealed with, and the keys of runs' snapshots
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    root: Path

    @classmethod
    def find(cls) -> Home:
        if chosen := os.environ.get("TORPOR_HOME"):
            return cls(Path(chosen).expanduser().absolute())
        data = os.environ.get("XDG_DATA_HOME")
        base = Path(data) if data else Path.home() / ".local" / "share"
        return cls((base / "torpor").absolute())

    def create(self) -> Home:
        """Make the directories, for this user only: machines' memory is in here."""
        directories = (self.blobs, self.images, self.deps, self.apps, self.modules, self.work)
        for path in (self.root, *directories, self.run, self.cache):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self

    @property
    def database(self) -> Path:
        return self.root / "torpor.db"

    @property
    def host_key(self) -> Path:
        return self.root / "host.key"

    @property
    def prices(self) -> Path:
        return self.root / "prices.toml"

    @property
    def egress(self) -> Path:
        return self.root / "egress.toml"

    @property
    def egress_usage(self) -> Path:
        return self.root / "egress-usage.jsonl"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def deps(self) -> Path:
        return self.root / "deps"

    @property
    def apps(self) -> Path:
        return self.root / "apps"

    @property
    def compiled(self) -> Path:
        """Code of agents' own files (`torpor.sdk.compiled`)."""
        return self.cache / "compiled"

    @property
    def trust(self) -> Path:
        """Certificates that agents' clients trust, where there is no machine around them."""
        return self.cache / "trust"

    @property
    def modules(self) -> Path:
        return self.root / "modules"

    @property
    def work(self) -> Path:
        return self.root / "work"

    def files_of(self, run: str) -> tuple[Path, Path]:
        """The directory of a run that is plain processes; what its steps did to files."""
        return self.work / run, self.work / f"{run}.steps"

    @property
    def output(self) -> Path:
        """What agents printed beyond what their logs take."""
        return self.root / "output"

    @property
    def package(self) -> Path:
        """Where agents that are plain processes find the package torpor."""
        return self.run / "package"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def roots(self) -> Path:
        """Root file systems, by recipe, that images are made of."""
        return self.cache / "roots"

    @property
    def mount(self) -> Path:
        return self.run / "mnt"

    @property
    def machines(self) -> Path:
        return self.run / "machines"

    @property
    def flats(self) -> Path:
        """Templates' memory as plain files, for warm machines."""
        return self.run / "flat"

    @property
    def processes(self) -> Path:
        """Where agents that are plain processes wait for a run."""
        return self.run / "processes"

    def socket(self, name: str) -> Path:
        """The Unix socket of one of our processes: `server`, `pager`, `broker`."""
        return self.run / f"{name}.sock"
