"""Commands beside the agent: real processes of a real supervisor."""

from __future__ import annotations

import os
import signal
from binascii import a2b_base64, b2a_base64
from typing import TYPE_CHECKING, Any

import pytest

from torpor.core.layout import PATHS, PROGRAMS, SITE

if TYPE_CHECKING:
    from tests.unit.guest.conftest import Driver

WINDOW = 64 * 1024

WAITER = """
import os
import torpor

@torpor.agent
def waiter():
    print(os.environ.get("AGENTS"), os.environ.get("RUNS"))
    return torpor.waitpoint("go on?").data
"""


class Told:
    """A command, as the host sees it: what is written is allowed anew at once."""

    def __init__(self, driver: Driver, *command: str, window: int = WINDOW, **more: Any) -> None:
        self.driver, self.id = driver, f"exec_{os.urandom(4).hex()}"
        asked: dict[str, Any] = {"env": {}, "root": False, "stdin": False} | more
        driver.say("exec", exec=self.id, command=list(command), window=window, **asked)

    def wrote(self, stream: int = 1) -> bytes:
        said = self.driver.said("exec.output", exec=self.id, stream=stream)
        return b"".join(a2b_base64(each["data"]) for each in said)

    def sees(self, text: bytes) -> None:
        self.driver.until(lambda: text in self.wrote())

    def feed(self, data: bytes, *, last: bool = False) -> None:
        text = b2a_base64(data, newline=False).decode()
        self.driver.say("exec.stdin", exec=self.id, data=text, last=last)

    def end(self) -> dict[str, Any]:
        """How it ended, granting all that it wants to write."""
        granted = 0

        def ended() -> bool:
            nonlocal granted
            size = len(self.wrote()) + len(self.wrote(2))
            if size > granted:
                self.driver.say("exec.window", exec=self.id, bytes=size - granted)
                granted = size
            return bool(self.driver.said("exec.exited", exec=self.id))

        self.driver.until(ended)
        (said,) = self.driver.said("exec.exited", exec=self.id)
        return {key: value for key, value in said.items() if key not in ("t", "exec")}


@pytest.fixture
def waiting(driver: Driver) -> Driver:
    driver.send_files({"agent.py": WAITER})
    driver.say("load", entry="agent.py", deps=True, version="v1", env={"AGENTS": "1", "RUNS": "0"})
    driver.hear("loaded")
    start: dict[str, Any] = {"agent": None, "input": {}, "journal": [], "env": {"RUNS": "2"}}
    driver.say("start", run="run_1", epoch=1, **start)
    driver.hear("begin", kind="wait")
    return driver


def test_an_agent_has_its_own_variables_and_its_runs(waiting: Driver) -> None:
    assert waiting.out == b"1 2\n"


def test_a_command_runs_as_the_agent_does(waiting: Driver) -> None:
    script = (
        'pwd; echo $AGENTS $RUNS $MINE $0 "$@"; echo $PATH $OPENAI_API_KEY; echo oops >&2; exit 7'
    )
    command = Told(waiting, "sh", "-c", script, "a b", "c", env={"MINE": "3"})
    assert command.end() == {"code": 7}
    work = waiting.directory / "work"
    path = f"{waiting.directory}/deps/bin:/usr/local/sbin"
    assert command.wrote().decode().startswith(f"{work}\n1 2 3 a b c\n{path}")
    # It has no model: what it asked would be taken for the agent's.
    assert command.wrote().endswith(b"/bin\n") and command.wrote(2) == b"oops\n"
    below = Told(waiting, "pwd", dir="/tmp")
    assert below.end() == {"code": 0} and below.wrote() == b"/tmp\n"


def test_a_command_finds_what_the_agents_project_has(driver: Driver) -> None:
    driver.send_files(
        {
            "agent.py": WAITER,
            PATHS: "../../src\n../../none\n",
            f"{SITE}/hr.dist-info/METADATA": "Name: hr\nVersion: 1.2\n",
            "src/words.py": "print('found')",
        }
    )
    driver.say("load", entry="agent.py", deps=True, version="v1", env={})
    driver.hear("loaded")
    start: dict[str, Any] = {"agent": None, "input": {}, "journal": [], "env": {"RUNS": "2"}}
    driver.say("start", run="run_1", epoch=1, **start)
    driver.hear("begin", kind="wait")
    command = Told(driver, "sh", "-c", "python3 -m words; echo $PATH; echo $PYTHONPATH")
    assert command.end() == {"code": 0}
    work = driver.directory / "work"
    found, path, modules = command.wrote().decode().splitlines()
    assert found == "found"
    assert path.startswith(f"{work / PROGRAMS}:{driver.directory}/deps/bin:")
    assert modules.split(":")[0] == f"{work}/src" and modules.endswith(f":{work / SITE}")


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (["no-such-program"], 127, "no-such-program: No such file"),
        (["/etc/passwd"], 126, "/etc/passwd: Permission denied"),
    ],
)
def test_what_cannot_begin_says_why(
    waiting: Driver, command: list[str], code: int, says: str
) -> None:
    end = Told(waiting, *command).end()
    assert end["code"] == code and end["problem"].startswith(says)
    end = Told(waiting, "true", dir="not/there").end()
    assert end["code"] == 126 and "not/there: No such file" in end["problem"]


def test_much_output_is_as_fast_as_it_is_taken(waiting: Driver) -> None:
    endless = Told(waiting, "yes")
    waiting.until(lambda: len(endless.wrote()) == WINDOW)
    # Nothing more comes, however long it is waited for; others go on.
    assert Told(waiting, "true").end() == {"code": 0}
    assert len(endless.wrote()) == WINDOW
    waiting.say("exec.window", exec=endless.id, bytes=1000)
    waiting.until(lambda: len(endless.wrote()) == WINDOW + 1000)
    waiting.say("exec.signal", exec=endless.id, signal="TERM")
    assert endless.end() == {"signal": signal.SIGTERM}
    large = Told(waiting, "head", "-c", "3000000", "/dev/zero")
    assert large.end() == {"code": 0} and large.wrote() == bytes(3_000_000)


def test_what_it_reads_is_acknowledged_as_it_is_taken(waiting: Driver) -> None:
    data = os.urandom(300_000)
    command = Told(waiting, "sh", "-c", "read go; cat", stdin=True)
    for at in range(0, len(data), 50_000):
        command.feed(data[at : at + 50_000] if at else b"go\n" + data[:50_000])
    command.feed(b"", last=True)
    assert command.end() == {"code": 0} and command.wrote() == data
    taken = waiting.said("exec.taken", exec=command.id)
    assert sum(each["bytes"] for each in taken) == len(data) + 3
    # One that reads nothing takes it all the same.
    deaf = Told(waiting, "true", stdin=True)
    deaf.feed(b"x" * 100)
    assert deaf.end() == {"code": 0}


def test_a_terminal_has_a_size_which_may_change(waiting: Driver) -> None:
    shell = Told(waiting, "sh", size={"rows": 30, "cols": 100}, stdin=True)
    shell.feed(b"stty size; tty; echo $TERM\n")
    shell.sees(b"30 100\r\n/dev/pts/")
    shell.sees(b"xterm-256color\r\n")
    waiting.say("exec.size", exec=shell.id, rows=50, cols=200)
    shell.feed(b"stty size\n")
    shell.sees(b"50 200\r\n")
    shell.feed(b"exit 3\n")
    assert shell.end() == {"code": 3}
    end = Told(waiting, "cat", size={"rows": 1, "cols": 1}, stdin=True)
    end.feed(b"", last=True)  # as Ctrl-D
    assert end.end() == {"code": 0}


def test_it_ends_with_all_that_it_has_started(waiting: Driver) -> None:
    left = Told(waiting, "sh", "-c", "sleep 1000 & echo $!")
    assert left.end() == {"code": 0}
    _gone(waiting, int(left.wrote()))
    killed = Told(waiting, "sh", "-c", "sleep 1000 & echo $!; wait")
    waiting.until(lambda: killed.wrote().endswith(b"\n"))
    waiting.say("exec.kill", exec=killed.id)
    _gone(waiting, int(killed.wrote()))
    assert not waiting.said("exec.exited", exec=killed.id)


def test_a_thawed_machine_has_none_of_an_epoch_before(waiting: Driver) -> None:
    command = Told(waiting, "sh", "-c", "echo $$; exec sleep 1000")
    waiting.until(lambda: command.wrote().endswith(b"\n"))
    waiting.say("prepare")
    waiting.hear("prepared")
    waiting.thaw()
    waiting.hear("thawed")
    _gone(waiting, int(command.wrote()))
    assert not waiting.said("exec.exited", exec=command.id)
    assert Told(waiting, "true").end() == {"code": 0}


def _gone(driver: Driver, pid: int) -> None:
    """Another command is a round trip; killed, a process goes as soon as it is scheduled."""

    def gone() -> bool:
        Told(driver, "true").end()
        try:
            with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
                return stat.read().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    while not gone():
        pass
