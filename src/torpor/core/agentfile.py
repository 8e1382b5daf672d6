"""An agent as it travels: its files, and what the host must know of it before it runs.

`torpor.project` reads them, on their author's machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torpor.core.divergence import STOP
from torpor.core.errors import Invalid
from torpor.core.ids import AgentVersion
from torpor.core.rules import Rules

DISK_MIB_MIN, DISK_MIB_MAX = 64, 65536
FILES_MAX = 10_000
# They are held whole by the client, the server and the machine; what is larger comes with a run.
FILES_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True)
class AgentSource:
    """An agent as it travels to the server: its files and the facts read from them.

    `entry` is the path of the file that holds the agent, relative, POSIX style, and a key of
    `files`. `dependencies` are PEP 508 requirement strings, sorted. Sizes are in MiB. `env` are
    environment variables that are there when it is imported, `egress` the entries of
    `[[tool.torpor.egress]]` as its file has them (`torpor.core.egress` reads them). `keep` says
    how long its snapshots are kept (`torpor.core.keep`), `on_divergence` what happens when it does
    not do what its log says (`torpor.core.divergence`), `rules` how its runs are treated otherwise
    (`torpor.core.rules`), `webhooks` the URLs that its waits may notify
    (`torpor.core.webhooks`); these make no other version. Nor do `name`, by which it is called
    (by default as its entry is), and `origin`, where it is from (`torpor.core.origins`).
    `executable` are the files that are programs. `root` is the directory that the files were read
    in and `notes` what their reader has to say: both stay where it is.
    """

    entry: str
    files: Mapping[str, bytes] = field(repr=False)
    requires_python: str = ""
    dependencies: tuple[str, ...] = ()
    memory_mib: int = 512
    disk_mib: int = 2048
    env: Mapping[str, str] = field(default_factory=dict)
    egress: Sequence[Mapping[str, Any]] = ()
    keep: str = ""
    on_divergence: str = STOP
    rules: Rules = field(default_factory=Rules)
    webhooks: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    executable: frozenset[str] = frozenset()
    origin: str = field(default="", compare=False)
    root: Path | None = field(default=None, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def called(self) -> str:
        return self.name or self.entry.removesuffix(".py")

    def version(self, image_digest: str) -> AgentVersion:
        """Digest of all that makes this agent what it is, with the image it runs on."""
        facts: dict[str, Any] = {
            "entry": self.entry,
            "files": {
                path: hashlib.sha256(body).hexdigest() for path, body in sorted(self.files.items())
            },
            "dependencies": self.dependencies,
            "memory_mib": self.memory_mib,
            "disk_mib": self.disk_mib,
            "image": image_digest,
            **({"env": dict(self.env)} if self.env else {}),
            **({"egress": [dict(entry) for entry in self.egress]} if self.egress else {}),
        }
        if self.executable:
            facts["executable"] = sorted(self.executable)
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        return AgentVersion(digest.hexdigest()[:32])


def no_agent(entry: str) -> Invalid:
    return Invalid(
        f"{entry} defines no agent",
        hint="Import torpor, and write @torpor.agent above the function that should run.",
    )
