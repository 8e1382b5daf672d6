"""What a name means: the agents that are deployed, and which version of each is current.

    reference ── name, or where it is from ──► one identity ── engine ──► one version

A version is its content, and may be deployed from several places. Its *origin* says from where
(`torpor.core.origins`); an agent's identity is its origin, or its name where it has none, so that
two files `agent.py` are two agents. Of each identity and engine, what was deployed last is current
(`agents.put_agent`). A name that several identities have is refused, never guessed.

Which engine a run by name gets: the one requested; else the one that the agent's file
names; else the server's. Only a version that was deployed for that engine will do: trying an agent
without isolation does not take it from those who run it by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import Any

from sqlalchemy import Connection, select, update

from torpor.contextlog import agents, schema, settings
from torpor.contextlog.agents import AgentRow
from torpor.core.errors import Conflict, NotFound
from torpor.core.ids import AgentVersion

_deployments = schema.deployments
_ENGINE = "default engine"  # in the table `meta`


@dataclass(frozen=True)
class Deployment:
    """A version that is current: deployed from somewhere, under a name, for an engine."""

    version: AgentVersion
    origin: str
    name: str
    engine: str
    deployed_at: float

    @property
    def identity(self) -> tuple[str, str]:
        return (self.origin, "" if self.origin else self.name)

    @property
    def shown(self) -> str:
        """What names it alone."""
        return self.origin or self.name

    @property
    def place(self) -> str:
        """The directory that it is from."""
        return str(PurePosixPath(self.origin).parent)

    def is_called(self, ref: str) -> bool:
        """By its name, its origin, or the end of its origin: `agent`, `mail/agent.py`."""
        called, origin = ref.removesuffix(".py"), self.origin.removesuffix(".py")
        at_end = "/" in called and f"/{origin}".endswith("/" + called.strip("/"))
        return called == self.name or called == origin or at_end

    def to_json(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("origin", "name", "deployed_at")}


@dataclass(frozen=True)
class Chosen:
    """An agent as a run is started of it."""

    row: AgentRow
    agent: dict[str, Any]  # as it described itself
    origin: str = ""


@dataclass(frozen=True)
class Preference:
    """What is known of an agent beside a reference. Its runs are to be of `engine`; or of `rather`,
    if it is deployed for that; `any_engine` will do where nothing is run. It is from `origin`, and
    no other will do. Of several, one from the same directory as the version `near` is meant."""

    engine: str | None = None
    rather: str | None = None
    any_engine: bool = False
    origin: str | None = None
    near: AgentVersion | None = None


ANY = Preference()


def set_default_engine(c: Connection, engine: str) -> None:
    """What runs by name are of, where neither they nor their file says so."""
    if settings.read(c, _ENGINE) != engine:
        settings.write(c, _ENGINE, engine)


def list_current(c: Connection) -> list[Deployment]:
    """The current version of each agent for each engine, newest first."""
    at = _deployments.c
    columns = (at.version, at.origin, at.name, at.engine, at.deployed_at)
    query = select(*columns).where(at.current).order_by(at.deployed_at.desc(), at.version)
    return [Deployment(*row) for row in c.execute(query)]


def retire(c: Connection, ref: str) -> Deployment:
    """Forget the agent called `ref`: no name leads to it any more, until it is deployed again. Its
    versions and runs stay. Raises NotFound, Conflict."""
    found = _only(c, ref, [each for each in list_current(c) if each.is_called(ref)], ANY)
    at, (origin, name) = _deployments.c, found[0].identity
    same = (at.origin == origin,) if origin else (at.origin == "", at.name == name)
    c.execute(update(_deployments).where(*same).values(current=False))
    return found[0]


def current_of(c: Connection, row: AgentRow) -> AgentRow:
    """The current version of the agent that this is a version of, for the same engine; itself if
    there is none. Raises Conflict where that is ambiguous."""
    current = [each for each in list_current(c) if each.engine == row.engine]
    origins = origins_of(c, row.version)
    same = [
        each
        for each in current
        # Without an origin, or come with a run from elsewhere: its name is all there is.
        if (each.origin in origins if each.origin and origins else each.name == row.name)
    ]
    return agents.get_agent(c, _only(c, row.name, same, ANY)[0].version) if same else row


def choose_current(c: Connection, ref: str, preferred: Preference = ANY) -> Chosen:
    """The agent that `ref` means, of its current version: NAME, NAME:AGENT, or AGENT where just one
    has it; in the place of NAME also its origin, or the end of that. Raises NotFound, Conflict,
    Invalid."""
    found, agent = _called(c, ref, preferred)
    return _chosen(c, found, agent, preferred)


def find_current(c: Connection, ref: str, *, exact: bool = False) -> Deployment:
    """The deployment that `ref` means, for whichever engine was the last; `exact`: that has this
    origin. Raises NotFound, Conflict."""
    if exact:
        same = [each for each in list_current(c) if each.origin == ref]
        return _only(c, ref, same, ANY)[0]
    return _called(c, ref, ANY)[0][0]


def _called(c: Connection, ref: str, preferred: Preference) -> tuple[list[Deployment], str | None]:
    """Those of the one identity that is called so, the newest first, and which agent of its file is
    meant, if `ref` says. Raises NotFound, Conflict."""
    current = list_current(c)
    if preferred.origin is not None:
        current = [each for each in current if each.origin == preferred.origin]
    file, _, agent = ref.rpartition(":")
    readings: tuple[tuple[str, str | None], ...] = ((ref, None), (file, agent))
    for called, name in readings:
        if found := [each for each in current if called and each.is_called(called)]:
            return _only(c, called, found, preferred), name
    having = [each for each in current if _has(c, each, ref)]
    return _only(c, ref, having, preferred, agent=ref), ref


def _has(c: Connection, each: Deployment, agent: str) -> bool:
    return any(agent == one["name"] for one in agents.get_agent(c, each.version).agents)


def origins_of(c: Connection, version: AgentVersion) -> set[str]:
    """From where the version was ever deployed."""
    return set(c.scalars(select(_deployments.c.origin).filter_by(version=version))) - {""}


def _only(
    c: Connection,
    ref: str,
    found: Sequence[Deployment],
    preferred: Preference,
    *,
    agent: str | None = None,
) -> list[Deployment]:
    """Those of the one identity that is meant, the newest first. Raises NotFound, Conflict."""
    if len({each.identity for each in found}) > 1 and preferred.near is not None:
        places = {str(PurePosixPath(origin).parent) for origin in origins_of(c, preferred.near)}
        found = [each for each in found if each.place in places] or found
    identities = {each.identity for each in found}
    if len(identities) == 1:
        return list(found)
    if not identities:
        near = get_close_matches(ref, {each.name for each in list_current(c)}, n=3)
        like = f" Like it: {', '.join(near)}." if near else ""
        raise NotFound(
            f"no agent {ref!r} is deployed",
            hint=f"torpor deploy FILE.py deploys one, and torpor agents lists them.{like}",
        )
    names = sorted({each.shown + (f":{agent}" if agent else "") for each in found})
    raise Conflict(
        f"several deployed agents are called {ref!r}: {', '.join(names)}",
        hint="Say which one by where it comes from, as above or by the end of that. Or "
        'rename one in its file, [tool.torpor] name = "…", or retire one that is '
        "gone: torpor agents retire NAME.",
    )


def _chosen(
    c: Connection, found: Sequence[Deployment], agent: str | None, preferred: Preference
) -> Chosen:
    """The agent of this name, of the version for the engine that is preferred."""
    newest, by_engine = found[0], {each.engine: each for each in found}
    rather = preferred.rather if preferred.rather in by_engine else None
    own = agents.get_agent(c, newest.version).rules.engine
    engine = preferred.engine or rather or own or settings.read(c, _ENGINE) or newest.engine
    if engine not in by_engine and preferred.any_engine:
        engine = newest.engine
    if engine not in by_engine:
        raise Conflict(
            f"{newest.name} is deployed only for the engine {newest.engine}, not for {engine}",
            hint=f"Deploy it for that engine: torpor deploy FILE --engine {engine}. Or "
            f"run it as it is: --engine {newest.engine}, or engine = "
            f'"{newest.engine}" in its file.',
        )
    row = agents.get_agent(c, by_engine[engine].version)
    return Chosen(row, row.offered(agent), by_engine[engine].origin)
