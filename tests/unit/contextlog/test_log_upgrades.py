from __future__ import annotations

from typing import Any

import pytest
from tests.unit.contextlog.conftest import Commit

from torpor.contextlog import runs
from torpor.contextlog.agents import NewAgent, put_agent
from torpor.contextlog.entries import read_entries
from torpor.contextlog.upgrades import UPGRADED, upgrade_run
from torpor.contextlog.waits import NewWait, create_wait
from torpor.core.errors import Conflict, Invalid
from torpor.core.ids import AgentVersion, OpId, RunId
from torpor.core.inputs import check_input
from torpor.core.states import RunState

NEW, OTHER = AgentVersion("b" * 32), AgentVersion("c" * 32)


def deploy(
    commit: Commit, version: AgentVersion, now: float, takes: str = "n", **rules: Any
) -> None:
    params = [{"name": takes, "required": True}]
    agent = {"name": "a", "doc": None, "params": params, "open": False}
    known: dict[str, Any] = {"name": "agent", "entry": "agent.py", "source": b""}
    spec = {"rules": rules}
    commit(
        lambda c: put_agent(
            c, NewAgent(engine="qemu", version=version, **known, spec=spec, agents=[agent]), now
        )
    )


def sleeping(commit: Commit) -> RunId:
    run, epoch = commit.claimed()
    op = OpId("wait:w#1")
    commit(
        lambda c: create_wait(
            c, run, epoch, NewWait(op=op, name="w", digest="0" * 32, kind="wait"), 12.0
        )
    )
    commit(lambda c: runs.transition(c, run, epoch, RunState.SUSPENDED, 13.0))
    return run


def test_a_sleeping_run_is_moved_to_the_current_version(commit: Commit) -> None:
    run = sleeping(commit)
    deploy(commit, NEW, 20.0, upgradable=True)
    moved = commit(lambda c: upgrade_run(c, run, None, check_input, 21.0))
    assert (moved.version, moved.state, moved.ready) == (NEW, RunState.SUSPENDED, False)
    (entry,) = commit(lambda c: read_entries(c, run, 0, [UPGRADED]))
    assert entry.data == {"from": commit.version, "to": NEW}
    with pytest.raises(Conflict, match="already"):
        commit(lambda c: upgrade_run(c, run, None, check_input, 22.0))


def test_only_where_the_version_says_that_it_can(commit: Commit) -> None:
    run = sleeping(commit)
    deploy(commit, NEW, 20.0)
    with pytest.raises(Conflict, match="does not accept runs"):
        commit(lambda c: upgrade_run(c, run, None, check_input, 21.0))
    deploy(commit, OTHER, 22.0, takes="m", upgradable=True)
    with pytest.raises(Invalid, match="missing: m"):
        commit(lambda c: upgrade_run(c, run, OTHER, check_input, 23.0))
    assert commit(lambda c: runs.get_run(c, run)).version == commit.version


def test_not_while_it_is_at_work(commit: Commit) -> None:
    run, epoch = commit.claimed()
    deploy(commit, NEW, 20.0, upgradable=True)
    with pytest.raises(Conflict, match="while it sleeps"):
        commit(lambda c: upgrade_run(c, run, None, check_input, 21.0))
    commit(lambda c: runs.suspend(c, run, epoch, 22.0, runs.Suspension(handed_over=True)))
    with pytest.raises(Conflict, match="while it sleeps"):
        commit(lambda c: upgrade_run(c, run, None, check_input, 23.0))
