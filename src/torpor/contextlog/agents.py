"""Agent versions that were deployed: their source, what they offer, their template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from torpor.contextlog import schema
from torpor.contextlog.queues import declare_queues
from torpor.contextlog.refs import resolve
from torpor.core.egress import Rule, parse_egress
from torpor.core.errors import Invalid, NotFound
from torpor.core.ids import AgentVersion, SnapshotId
from torpor.core.rules import Rules, parse_rules

_agents, _deployments = schema.agents, schema.deployments
# The source may be large and few want it: agent_source reads it.
_SHOWN = [column for column in _agents.c if column.name not in ("source", "budget")]


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
    engine: str  # of its runs

    @cached_property
    def rules(self) -> Rules:
        return parse_rules(self.spec.get("rules", {}), self.entry)

    @cached_property
    def egress(self) -> tuple[Rule, ...]:
        """What it may reach."""
        return parse_egress(self.spec.get("egress", []), self.entry)

    def offered(self, name: str | None) -> dict[str, Any]:
        """The agent of this name as it described itself, by default the only one. Raises Invalid,
        naming those that there are."""
        offered = {each["name"]: each for each in self.agents}
        if name is None and len(offered) > 1 and self.spec.get("default") is None:
            raise Invalid(
                f"{self.name} has several agents: {', '.join(offered)}",
                hint=f"Name one, such as {self.name}:{next(iter(offered))}",
            )
        if name is not None and name not in offered:
            raise Invalid(f"{self.entry} has no agent {name!r}; it has {', '.join(offered)}")
        return offered[name or self.spec.get("default") or next(iter(offered))]

    def to_json(self) -> dict[str, Any]:
        keys = ("engine", "version", "name", "agents", "template_bytes", "boot_ms", "first_at")
        return {key: getattr(self, key) for key in (*keys, "deployed_at")}


@dataclass(frozen=True)
class NewAgent:
    """An agent's version, which is current from now on if it is `deployed`. `source` is a tar of
    its files, `spec` what else makes up its version, `agents` what its entry file defines as the
    guest reported it, `origin` where it was deployed from."""

    version: AgentVersion
    engine: str
    name: str
    entry: str
    source: bytes
    spec: Mapping[str, Any]
    agents: Sequence[Mapping[str, Any]] = ()
    deployed: bool = True
    origin: str = ""


def put_agent(c: Connection, new: NewAgent, now: float) -> AgentRow:
    """Keep an agent's version; the one there is, unchanged, if it was put before."""
    if c.scalar(select(_agents.c.version).filter_by(version=new.version)) is None:
        c.execute(
            insert(_agents),
            [
                {
                    "version": new.version,
                    "engine": new.engine,
                    "name": new.name,
                    "entry": new.entry,
                    "source": new.source,
                    "spec": new.spec,
                    "budget": new.spec.get("rules", {}).get("budget"),
                    "agents": list(new.agents),
                    "first_at": now,
                    "used_at": now,
                    "deployed_at": now if new.deployed else None,
                }
            ],
        )
        if new.deployed:
            declare_queues(c, new.spec.get("rules", {}).get("queues", {}), now)
            _record_deployment(c, new.version, new.origin, new.name, now)
    return get_agent(c, new.version)


def deployed_again(
    c: Connection,
    version: AgentVersion,
    rules: Mapping[str, Any],
    now: float,
    *,
    origin: str = "",
    name: str = "",
) -> AgentRow:
    """Note that the version was deployed once more, from there, under this name, with these rules.
    It is current again."""
    spec = get_agent(c, version).spec | dict(rules)
    changed = (
        update(_agents)
        .where(_agents.c.version == version)
        .values(
            spec=spec,
            budget=spec.get("rules", {}).get("budget"),
            used_at=now,
            deployed_at=now,
        )
    )
    c.execute(changed)
    declare_queues(c, rules.get("rules", {}).get("queues", {}), now)
    row = get_agent(c, version)
    _record_deployment(c, version, origin, name or row.name, now)
    return row


def _record_deployment(
    c: Connection, version: AgentVersion, origin: str, name: str, now: float
) -> None:
    """Make the version current for its engine, and `name` what its origin is called."""
    engine, at = get_agent(c, version).engine, _deployments.c
    same = at.origin == origin if origin else (at.origin == "") & (at.name == name)
    if origin:
        c.execute(update(_deployments).where(same, at.current).values(name=name))
    c.execute(update(_deployments).where(same, at.engine == engine).values(current=False))
    known = (same, at.version == version, at.name == name)
    c.execute(delete(_deployments).where(*known))
    row = {"version": version, "origin": origin, "name": name, "engine": engine}
    c.execute(insert(_deployments), [row | {"deployed_at": now, "current": True}])


def set_template(
    c: Connection,
    version: AgentVersion,
    template: SnapshotId,
    *,
    boot_ms: float | None,
    template_bytes: int,
    agents: Sequence[Mapping[str, Any]] | None = None,
) -> AgentRow:
    """Give the version a (new) template, and what loading it reported. Raises NotFound."""
    values: dict[str, Any] = {
        "template": template,
        "boot_ms": boot_ms,
        "template_bytes": template_bytes,
    }
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
