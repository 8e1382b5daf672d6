"""What a name means: by origin, name and engine; never by who came last."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.contextlog.conftest import Commit

from torpor.contextlog.agents import AgentRow, NewAgent, deployed_again, get_agent, put_agent
from torpor.contextlog.deployments import (
    Preference,
    choose_current,
    current_of,
    list_current,
    retire,
    set_default_engine,
)
from torpor.core.errors import Conflict, NotFound
from torpor.core.ids import AgentVersion
from torpor.engine.process import NAME as PROCESS
from torpor.engine.qemu import NAME as QEMU

GO = {"name": "go", "params": [], "open": False, "doc": None}


class Host:
    def __init__(self, commit: Commit) -> None:
        self.commit = commit
        self.now = 10.0

    def deploy(
        self,
        version: str,
        origin: str,
        name: str = "agent",
        engine: str = QEMU,
        rules: dict[str, Any] | None = None,
    ) -> AgentVersion:
        made = AgentVersion(version * 32)
        spec = {"image": "i", "rules": rules or {}}
        self.now += 1
        fields: dict[str, Any] = {
            "name": name,
            "entry": f"{name}.py",
            "source": b"",
            "agents": [GO],
        }
        self.commit(
            lambda c: put_agent(
                c,
                NewAgent(engine=engine, version=made, spec=spec, origin=origin, **fields),
                self.now,
            )
        )
        return made

    def again(self, version: AgentVersion, origin: str, name: str = "agent") -> None:
        self.now += 1
        self.commit(lambda c: deployed_again(c, version, {}, self.now, origin=origin, name=name))

    def chosen(self, ref: str, **preferred: Any) -> str:
        return self.commit(lambda c: choose_current(c, ref, Preference(**preferred))).row.version

    def current_of(self, version: AgentVersion) -> str:
        row: AgentRow = self.commit(lambda c: get_agent(c, version))
        return self.commit(lambda c: current_of(c, row)).version


@pytest.fixture
def host(commit: Commit) -> Host:
    commit(lambda c: retire(c, "agent"))
    return Host(commit)


def test_two_files_of_one_name_are_two_agents(host: Host) -> None:
    a, b = host.deploy("b", "/work/pa/agent.py"), host.deploy("c", "/work/pb/agent.py")
    for ref in ("agent", "agent.py", "agent:go", "go"):
        with pytest.raises(Conflict, match=r"/work/pa/agent\.py.*, /work/pb/agent\.py") as refused:
            host.chosen(ref)
        assert "[tool.torpor] name" in refused.value.hint
    for ref in ("pa/agent", "pa/agent.py", "/work/pa/agent.py", "pa/agent.py:go"):
        assert host.chosen(ref) == a
    assert host.chosen("pb/agent") == b
    with pytest.raises(NotFound):
        host.chosen("a/agent")  # no directory


def test_a_name_that_is_nearly_right_is_told_what_is_like_it(host: Host) -> None:
    host.deploy("b", "/pa/billing.py", "billing")
    with pytest.raises(NotFound, match="no agent 'biling' is deployed") as refused:
        host.chosen("biling")
    assert refused.value.hint.endswith("Like it: billing.")


def test_what_one_origin_deploys_leaves_the_other_as_it_is(host: Host) -> None:
    a, b = host.deploy("b", "/pa/agent.py"), host.deploy("c", "/pb/agent.py")
    newer = host.deploy("d", "/pb/agent.py")
    assert host.chosen("agent", origin="/pa/agent.py") == a
    assert host.chosen("pb/agent") == newer
    assert (host.current_of(a), host.current_of(b)) == (a, newer)
    host.again(b, "/pb/agent.py")  # an older version, deployed again
    assert host.chosen("pb/agent") == b


def test_one_content_may_be_deployed_from_two_places(host: Host) -> None:
    same = host.deploy("b", "/pa/agent.py")
    host.again(same, "/pb/agent.py")
    newer = host.deploy("c", "/pb/agent.py")
    assert host.chosen("pa/agent") == same and host.chosen("pb/agent") == newer


def test_another_name_ends_a_clash(host: Host) -> None:
    a, b = host.deploy("b", "/pa/agent.py"), host.deploy("c", "/pb/agent.py")
    host.again(b, "/pb/agent.py", "billing")
    assert host.chosen("agent") == a and host.chosen("billing") == b


def test_what_is_retired_has_no_name_until_it_is_deployed_again(host: Host) -> None:
    a, b = host.deploy("b", "/pa/agent.py"), host.deploy("c", "/pb/agent.py")
    host.commit(lambda c: retire(c, "pa/agent"))
    assert host.chosen("agent") == b
    assert [each.version for each in host.commit(list_current)] == [b]
    assert host.current_of(a) == a
    host.again(a, "/pa/agent.py")
    with pytest.raises(Conflict):
        host.chosen("agent")
    with pytest.raises(NotFound):
        host.commit(lambda c: retire(c, "nobody"))


def test_a_trial_without_isolation_is_nobody_elses_engine(host: Host) -> None:
    host.commit(lambda c: set_default_engine(c, QEMU))
    isolated = host.deploy("b", "/pa/agent.py")
    trial = host.deploy("c", "/pa/agent.py", engine=PROCESS)
    assert host.chosen("agent") == host.chosen("go") == isolated
    assert host.chosen("agent", engine=PROCESS) == trial
    assert host.chosen("agent", rather=PROCESS) == trial
    assert (host.current_of(isolated), host.current_of(trial)) == (isolated, trial)


def test_isolation_is_not_lost_silently(host: Host) -> None:
    host.commit(lambda c: set_default_engine(c, QEMU))
    trial = host.deploy("c", "/pa/agent.py", engine=PROCESS)
    with pytest.raises(Conflict, match=r"only for the engine process, not for qemu") as refused:
        host.chosen("agent")
    assert "--engine qemu" in refused.value.hint and "--engine process" in refused.value.hint
    assert host.chosen("agent", any_engine=True) == trial  # to be looked at
    host.commit(lambda c: set_default_engine(c, PROCESS))
    assert host.chosen("agent") == trial


def test_a_file_may_say_its_engine(host: Host) -> None:
    host.commit(lambda c: set_default_engine(c, QEMU))
    host.deploy("b", "/pa/agent.py")
    own = host.deploy("c", "/pa/agent.py", engine=PROCESS, rules={"engine": PROCESS})
    assert host.chosen("agent") == own
    assert host.chosen("agent", engine=QEMU) == "b" * 32


def test_a_neighbour_is_meant_before_a_stranger(host: Host) -> None:
    parent = host.deploy("b", "/pa/boss.py", "boss")
    mine = host.deploy("c", "/pa/helper.py", "helper")
    host.deploy("d", "/pb/helper.py", "helper")
    assert host.chosen("helper", near=parent) == mine
    with pytest.raises(Conflict):
        host.chosen("helper")
