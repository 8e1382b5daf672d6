"""Processes that an agent forks: none speaks for the run, and each ends as a script would."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.guest.conftest import Driver

AGENT = """
    import asyncio, multiprocessing, os, sys
    import torpor

    def ends(child):
        pid = os.fork()
        if pid == 0:
            return "the child", child()
        return "the run", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    @torpor.step
    def step(how): return ends(CHILDREN[how])

    @torpor.step
    def absolute(number): return abs(number)

    def fails(): raise ValueError("in the child")

    waitpoint = None
    CHILDREN = {
        "returns": lambda: None,
        "fails": fails,
        "exits": lambda: sys.exit(7),
        "logs": lambda: torpor.log("from the child"),
        "waits": lambda: waitpoint.result(),
        "awaits": lambda: torpor.wait_any(waitpoint),
    }

    @torpor.agent
    def main(how):
        global waitpoint
        waitpoint = torpor.waitpoint("w")
        return ends(CHILDREN[how])

    @torpor.agent
    async def later(how): return ends(CHILDREN[how])

    @torpor.agent
    def in_a_step(how): return step(how)

    @torpor.agent
    def pool(how):
        with multiprocessing.get_context(how).Pool(1) as pool:
            plain = pool.map(abs, [-1])
            try:
                return plain, pool.map(absolute, [-1])
            except torpor.OutsideRun as error:
                return plain, str(error)
"""


@pytest.mark.parametrize(
    ("agent", "how", "code", "says"),
    [
        ("main", "returns", 0, "left the agent's code, and ends (exit 0)"),
        ("main", "fails", 1, "ValueError: in the child"),
        ("main", "exits", 7, "(exit 7)"),
        ("main", "logs", 1, "torpor.log works only in the agent's own process"),
        ("main", "waits", 1, "wait:w#1 works only in the agent's own process"),
        ("main", "awaits", 1, "torpor.wait_any works only in the agent's own process"),
        ("later", "returns", 0, "left the agent's code, and ends (exit 0)"),
        ("in_a_step", "returns", 1, "torpor.step works only in the agent's own process"),
        ("in_a_step", "exits", 7, "(exit 7)"),
    ],
)
def test_a_fork_ends_by_itself_and_the_run_goes_on(
    driver: Driver, agent: str, how: str, code: int, says: str
) -> None:
    assert driver.value(AGENT, agent=agent, how=how) == ["the run", code]
    assert says in driver.err.decode()


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_a_pool_of_processes_works_but_has_no_steps(driver: Driver, how: str) -> None:
    plain, said = driver.value(AGENT, agent="pool", how=how)
    assert plain == [1]
    assert "torpor.step (absolute) works only in the agent's own process" in said


def test_a_fork_of_the_import_is_no_agent(driver: Driver) -> None:
    source = """
        import os, torpor
        pid = os.fork()
        status = os.waitpid(pid, 0)[1] if pid else None

        @torpor.agent
        def main(): return os.waitstatus_to_exitcode(status)
    """
    assert driver.value(source) == 0
    assert [each["t"] for each in driver.log].count("loaded") == 1
