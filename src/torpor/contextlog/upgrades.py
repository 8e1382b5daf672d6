"""Moving a run to another version of its agent, while it waits.

A run stays on the version that it started with, unless somebody moves it. The new version's code
then replays the run's log from its beginning, as a fork onto other code does: its snapshots are of
the old one. So the new code has to do what is recorded, up to the wait; whether it can, its file
says (`upgradable`), and what becomes of a run whose log it diverges from (`on_divergence`).
"""

from __future__ import annotations

from sqlalchemy import Connection, update

from torpor.contextlog import schema
from torpor.contextlog.agents import AgentRow, get_agent
from torpor.contextlog.deployments import current_of
from torpor.contextlog.entries import NewEntry, append
from torpor.contextlog.runs import RunRow, get_run
from torpor.contextlog.waits import list_waits
from torpor.core.errors import Conflict
from torpor.core.inputs import Check
from torpor.core.states import RunState

UPGRADED = "run.upgraded"


def upgrade_run(
    c: Connection, ref: str, version: str | None, check_input: Check, now: float
) -> RunRow:
    """Move the run to `version`, by default the current one of its agent. Raises Conflict
    (it is not at a wait; the version does not take runs, or has no such agent), Invalid (it does
    not take the run's input), NotFound."""
    row = get_run(c, ref)
    was = get_agent(c, row.version)
    agent = _wanted(c, was, version)
    _check_waiting(c, row)
    if agent.version == row.version:
        raise Conflict(f"{row.id} already has version {row.version[:12]}")
    if not agent.rules.upgradable:
        raise Conflict(
            f"{agent.entry} {agent.version[:12]} does not accept runs of other versions",
            hint="Its file can allow it: [tool.torpor] upgradable = true",
        )
    check_input(agent.offered(row.agent), row.input)
    versions = {"from": row.version, "to": agent.version}
    append(c, row.id, None, [NewEntry(UPGRADED, None, versions)], now)
    values = {"version": agent.version, "engine": agent.engine}
    c.execute(update(schema.runs).where(schema.runs.c.id == row.id).values(**values))
    return get_run(c, row.id)


def _wanted(c: Connection, was: AgentRow, version: str | None) -> AgentRow:
    if version is not None:
        return get_agent(c, version)
    return current_of(c, was)


def _check_waiting(c: Connection, row: RunRow) -> None:
    at_rest = row.state is RunState.QUEUED or (
        row.state is RunState.SUSPENDED and bool(list_waits(c, row.id))
    )
    if not at_rest:
        raise Conflict(
            f"{row.id} is {row.state.value}: a run can be moved only while it sleeps at a wait",
            hint="Try again when it sleeps, or fork it: torpor fork RUN --agent NEW.py",
        )
