"""A process imports ahead what its agent imports first, and tells whether that can be noticed."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.unit.guest.conftest import Driver

AGENT = """
import counted
import torpor

@torpor.agent
def main():
    return counted.times()
"""
# Counts in a file how often it was imported.
COUNTED = """
import os
path = os.path.expanduser("~/count")
with open(path, "a") as file:
    file.write("x")

def times():
    return os.path.getsize(path)
"""


def install(driver: Driver, **modules: str) -> None:
    deps = driver.directory / "deps"
    deps.mkdir()
    for name, text in modules.items():
        (deps / f"{name}.py").write_text(textwrap.dedent(text))


def ahead(driver: Driver, *modules: str, names: tuple[str, ...] = (), **own: str) -> dict[str, Any]:
    """Import these, as an agent would whose files are called like `own`, too."""
    driver.send_files({"agent.py": "", **{f"{name}.py": "" for name in own}})
    asked = [{"module": module, "names": list(names)} for module in modules]
    driver.say("import", entry="agent.py", deps=True, modules=asked)
    heard = driver.hear("imported", "load_failed")
    return {key: heard[key] for key in heard if key != "t"}


def load(driver: Driver, source: str = AGENT, **own: str) -> dict[str, Any]:
    files = {"agent.py": source, **{f"{name}.py": text for name, text in own.items()}}
    driver.send_files(files)
    driver.say("load", entry="agent.py", deps=True, version="v1")
    return driver.hear("loaded", "load_failed")


def test_what_was_imported_ahead_is_not_imported_again(driver: Driver) -> None:
    install(driver, counted=COUNTED)
    driver.say("import", entry=None, deps=True, modules=[])
    assert driver.hear("imported") == {"t": "imported"}
    assert ahead(driver, "json", "counted", names=("times",)) == {}
    assert load(driver)["t"] == "loaded"
    driver.start()
    assert driver.hear("done")["value"] == 1


def test_a_machine_is_frozen_between_what_is_ahead_and_the_agent(driver: Driver) -> None:
    install(driver, counted=COUNTED)
    driver.say("import", entry=None, deps=True, modules=[])
    driver.hear("imported")
    for epoch in (1, 2):
        driver.say("prepare")
        driver.hear("prepared")
        driver.thaw(epoch)
        driver.hear("thawed", epoch=epoch)
        if epoch == 1:
            assert ahead(driver, "counted") == {}
    assert load(driver)["t"] == "loaded"
    driver.start()
    assert driver.hear("done")["value"] == 1


def test_the_agents_own_files_come_later_and_are_the_ones_that_count(driver: Driver) -> None:
    install(driver, counted=COUNTED)
    assert ahead(driver, "counted", own="") == {}
    source = "import own\n" + AGENT.replace("counted.times()", "own.value")
    assert load(driver, source, own="value = 5")["t"] == "loaded"
    driver.start()
    assert driver.hear("done")["value"] == 5


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        ("raise ValueError('why')", "ValueError: why"),
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import own", "a file of the agent's own was opened"),
        ("open('agent.py').close()", "a file of the agent's own was opened"),
    ],
)
def test_what_is_not_as_the_agent_would_have_it(driver: Driver, text: str, failed: str) -> None:
    install(
        driver, dependency=text.replace("'agent.py'", repr(str(driver.directory / "work/agent.py")))
    )
    assert ahead(driver, "dependency", own="") == {"failed": failed}


def test_a_process_that_ends_by_that(driver: Driver) -> None:
    install(driver, dependency="import os; os._exit(3)")
    assert "exit code 3" in ahead(driver, "dependency")["error"]


@pytest.mark.parametrize(
    ("text", "unfit"),
    [
        (
            "from threading import *\nThread(target=Event().wait, name='t', daemon=True).start()",
            "a thread was started: t",
        ),
        ("import subprocess\np = subprocess.Popen(['sleep', '60'])", "a process was started"),
        ("import socket\ns = socket.socketpair()", "a socket was opened"),
        ("import torpor\ntorpor.on_freeze(print)", "hooks were set"),
        ("import torpor\ntorpor.on_thaw(print)", "hooks were set"),
    ],
)
def test_what_is_left_behind_is_told_and_the_agent_goes_on_with_it(
    driver: Driver, text: str, unfit: str
) -> None:
    install(driver, counted=COUNTED, dependency=text)
    assert ahead(driver, "dependency") == {"unfit": unfit}
    assert load(driver)["t"] == "loaded"


def test_what_is_printed_comes_before_it_is_said_that_all_is_imported(driver: Driver) -> None:
    install(driver, dependency="import sys\nprint('one')\nprint('two', end='', file=sys.stderr)")
    ahead(driver, "dependency")
    assert (driver.out, driver.err) == (b"one\n", b"two")


def test_an_agent_is_loaded_once(driver: Driver) -> None:
    assert driver.load(AGENT.replace("import counted", ""))["t"] == "loaded"
    driver.say("import", entry=None, deps=False, modules=[])
    driver.start()
    driver.hear("failed")
    assert "loaded already" in driver.complaints()
