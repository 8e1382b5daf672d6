"""Agent versions that were deployed: their source, what they offer, their template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, func, insert, select, update

from torpor.contextlog import schema
from torpor.contextlog.queues import declare_queues
from torpor.contextlog.refs import resolve
from torpor.model.engines import PROCESS, QEMU
from torpor.model.errors import Conflict, Invalid, NotFound
from torpor.model.ids import AgentVersion, SnapshotId
from torpor.model.rules import Rules, parse_rules

_agents = schema.agents
# The source may be large and few want it: agent_source reads it.
_SHOWN = [column for column in _agents.c if column is not _agents.c.source]


@dataclass(frozen=True)
class AgentRow:
    version: AgentVersion
    name: str
    entry: str
    spec: dict[str, Any]
    template: SnapshotId | None
    agents: list[dict[str, Any]]
    boot_ms: float | None
    template_bytes: int | None
    first_at: float
    used_at: float
    deployed_at: float | None

    @property
    def engine(self) -> str:
        """Which engine its runs are of: a plain process stands on no image."""
        return PROCESS if self.spec.get("image") == PROCESS else QEMU

    @cached_property
    def rules(self) -> Rules:
        return parse_rules(self.spec.get("rules", {}), self.entry)

    def offered(self, name: str | None) -> dict[str, Any]:
        """The agent of this name as it described itself, by default the only one. Raises Invalid,
        naming those that there are."""
        offered = {each["name"]: each for each in self.agents}
        if name is None and len(offered) > 1 and self.spec.get("default") is None:
            raise Invalid(
                f"{self.entry} has several agents: {', '.join(offered)}",
                hint=f"Name one: {self.entry}:{next(iter(offered))}",
            )
        if name is not None and name not in offered:
            raise Invalid(f"{self.entry} has no agent {name!r}; it has {', '.join(offered)}")
        return offered[name or self.spec.get("default") or next(iter(offered))]

    def to_json(self) -> dict[str, Any]:
        keys = ("version", "name", "agents", "template_bytes", "boot_ms", "first_at", "deployed_at")
        return {"engine": self.engine} | {key: getattr(self, key) for key in keys}


class Chosen(NamedTuple):
    """An agent as a run is started of it."""

    row: AgentRow
    agent: dict[str, Any]  # as it described itself


def put_agent(
    c: Connection,
    *,
    version: AgentVersion,
    name: str,
    entry: str,
    source: bytes,
    spec: Mapping[str, Any],
    now: float,
    agents: Sequence[Mapping[str, Any]] = (),
    deployed: bool = True,
) -> AgentRow:
    """Keep an agent version, which is current from now on if it is `deployed`; the one there is,
    unchanged, if it was put before.

    `source` is a tar of its files, `spec` what else its version is made of, `agents` what its
    entry file defines as the guest reported it.
    """
    if c.scalar(select(_agents.c.version).filter_by(version=version)) is None:
        c.execute(
            insert(_agents),
            [
                {
                    "version": version,
                    "name": name,
                    "entry": entry,
                    "source": source,
                    "spec": spec,
                    "agents": list(agents),
                    "first_at": now,
                    "used_at": now,
                    "deployed_at": now if deployed else None,
                }
            ],
        )
        if deployed:
            declare_queues(c, spec.get("rules", {}).get("queues", {}), now)
    return get_agent(c, version)


def deployed_again(
    c: Connection, version: AgentVersion, rules: Mapping[str, Any], now: float
) -> AgentRow:
    """Note that the version was deployed once more, with these rules. It is current again."""
    spec = get_agent(c, version).spec | dict(rules)
    changed = (
        update(_agents)
        .where(_agents.c.version == version)
        .values(spec=spec, used_at=now, deployed_at=now)
    )
    c.execute(changed)
    declare_queues(c, rules.get("rules", {}).get("queues", {}), now)
    return get_agent(c, version)


def set_template(
    c: Connection,
    version: AgentVersion,
    template: SnapshotId,
    *,
    boot_ms: float,
    template_bytes: int,
    agents: Sequence[Mapping[str, Any]] | None = None,
) -> AgentRow:
    """Give the version a (new) template, and what loading it reported. Raises NotFound."""
    values = {"template": template, "boot_ms": boot_ms, "template_bytes": template_bytes}
    if agents is not None:
        values["agents"] = list(agents)
    changed = c.execute(update(_agents).where(_agents.c.version == version).values(**values))
    if changed.rowcount == 0:
        raise NotFound(f"there is no agent version {version!r}", hint="Deploy the agent first.")
    return get_agent(c, version)


def get_agent(c: Connection, ref: str) -> AgentRow:
    """The agent whose version is `ref` or alone begins with it. Raises NotFound."""
    version = resolve(c, _agents.c.version, ref, what="agent version")
    return _row(c.execute(select(*_SHOWN).filter_by(version=version)).one())


def find_agent(c: Connection, version: AgentVersion) -> AgentRow | None:
    """The agent of exactly this version, if it was deployed."""
    row = c.execute(select(*_SHOWN).filter_by(version=version)).first()
    return None if row is None else _row(row)


def find_current(c: Connection, name: str) -> AgentRow | None:
    """The current version of the agents that were deployed as NAME.py."""
    query = select(*_SHOWN).where(_agents.c.name == name, _agents.c.deployed_at.is_not(None))
    row = c.execute(query.order_by(_agents.c.deployed_at.desc(), _agents.c.version)).first()
    return None if row is None else _row(row)


def list_current(c: Connection) -> list[AgentRow]:
    """The current version of each name."""
    newest = select(_agents.c.name, func.max(_agents.c.deployed_at).label("at"))
    current = newest.group_by(_agents.c.name).subquery()
    same = (_agents.c.name == current.c.name, _agents.c.deployed_at == current.c.at)
    return [_row(row) for row in c.execute(select(*_SHOWN).join(current, and_(*same)))]


def choose_current(c: Connection, ref: str) -> Chosen:
    """What is meant by a name: FILE, FILE:AGENT, or AGENT where just one file has it; always of
    the current version. Raises NotFound, Conflict, Invalid."""
    file, colon, name = ref.partition(":")
    row = find_current(c, file.removesuffix(".py"))
    if row is not None:
        return Chosen(row, row.offered(name if colon else None))
    having = [row for row in list_current(c) if ref in [each["name"] for each in row.agents]]
    if len(having) > 1:
        names = ", ".join(f"{row.name}:{ref}" for row in having)
        raise Conflict(f"several files have an agent {ref!r}", hint=f"Name one: {names}")
    if not having:
        raise NotFound(f"no agent {ref!r} is deployed", hint="torpor deploy FILE.py deploys one.")
    return Chosen(having[0], having[0].offered(ref))


def agent_source(c: Connection, version: AgentVersion) -> bytes:
    """The tar that was put. Raises NotFound."""
    source: bytes | None = c.scalar(select(_agents.c.source).filter_by(version=version))
    if source is None:
        raise NotFound(f"there is no agent version {version!r}", hint="Deploy the agent first.")
    return source


def list_agents(c: Connection) -> list[AgentRow]:
    """Newest first."""
    query = select(*_SHOWN).order_by(_agents.c.first_at.desc(), _agents.c.version)
    return [_row(row) for row in c.execute(query)]


def _row(row: Any) -> AgentRow:
    return AgentRow(**row._mapping)
