from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from torpor.guest.supervisor import UNACKED_BYTES_MAX

if TYPE_CHECKING:
    from tests.unit.guest.conftest import Driver


def test_a_run_from_hello_to_done(driver: Driver) -> None:
    hello = driver.hear("hello")
    assert hello["protocol"] == 1
    loaded = driver.load(
        '''
        import torpor
        print("imported")

        @torpor.step
        def double(x):
            return (x, x * 2)

        @torpor.agent
        def greet(name: str, times: int = 1):
            """Says hello."""
            print("hello", name)
            return [double(times), torpor.run.id, torpor.run.epoch, torpor.run.agent]
        '''
    )
    assert loaded["default"] == "greet"
    schemas = [agent.pop("schema") for agent in loaded["agents"]]
    assert [each["properties"] for each in schemas] == [
        {"name": {"type": "string"}, "times": {"type": "integer", "default": 1}}
    ]
    assert loaded["agents"] == [
        {
            "name": "greet",
            "doc": "Says hello.",
            "params": [
                {"name": "name", "required": True},
                {"name": "times", "required": False, "default": 1},
            ],
            "open": False,
        }
    ]
    driver.start(name="Ada", times=4)
    done = driver.hear("done")
    assert done["value"] == [[4, 8], "run_1", 1, "greet"]
    assert driver.out == b"imported\nhello Ada\n"
    begin = driver.said("begin")[0]
    assert begin["op"] == "step:double#1"
    assert begin["data"] == {"args": [4], "kwargs": {}}
    assert driver.said("end") == [{"t": "end", "op": "step:double#1", "ok": True, "value": [4, 8]}]


ADD = """
import torpor

@torpor.agent
def add(a: int, b: int = 2):
    return a + b
"""


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, "missing: a"),
        ({"a": 1, "c": 3}, "unknown: c"),
        ({"a": "one"}, 'a: "one" is not a whole number'),
    ],
)
def test_an_input_that_does_not_fit_is_named(
    driver: Driver, given: dict[str, Any], problem: str
) -> None:
    failed = driver.run(ADD, **given)
    assert (failed["t"], failed["type"]) == ("failed", "Invalid")
    assert f"{problem}. add takes a (a whole number)" in failed["message"]


def test_one_of_several_agents_must_be_named(driver: Driver) -> None:
    loaded = driver.load(
        """
        import torpor
        @torpor.agent
        def one(): return 1
        @torpor.agent(name="second")
        async def two(): return 2
        """
    )
    assert loaded["default"] is None
    driver.start(agent="second")
    assert driver.hear("done")["value"] == 2


@pytest.mark.parametrize(
    ("asked", "words"), [(None, "several agents (one, two)"), ("three", "no agent 'three'")]
)
def test_an_agent_that_is_not_there(driver: Driver, asked: str | None, words: str) -> None:
    source = """
        import torpor
        @torpor.agent
        def one(): return 1
        @torpor.agent
        def two(): return 2
    """
    driver.load(source)
    driver.start(agent=asked)
    failed = driver.hear("failed")
    assert failed["type"] == "Invalid"
    assert words in failed["message"]
    assert "two" in failed["message"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import nowhere_to_be_found", "nowhere_to_be_found"),
        ("1 +", "SyntaxError"),
        ("x = 1", "@torpor.agent"),
        ("raise ValueError('no luck')", "ValueError: no luck"),
        ("import sys; sys.exit(3)", "sys.exit(3)"),
        ("import os; os._exit(4)", "exit code 4"),
        ("import os; os.kill(os.getpid(), 9)", "signal 9"),
        ("import ctypes; ctypes.CDLL('libnone-such.so.3')", "in the package libnone-such3"),
    ],
)
def test_a_file_that_cannot_be_loaded(driver: Driver, source: str, words: str) -> None:
    failed = driver.load(source)
    assert failed["t"] == "load_failed"
    assert words in failed["error"]


def test_a_file_that_hides_a_module(driver: Driver) -> None:
    driver.send_files({"json.py": ADD})
    driver.say("load", entry="json.py", deps=False, version="v1")
    assert "rename" in driver.hear("load_failed")["error"]


def test_more_files_are_importable(driver: Driver) -> None:
    source = """
        import helper, torpor
        @torpor.agent
        def main(): return helper.value
    """
    assert driver.load(source, helper="value = 7")["t"] == "loaded"
    driver.start()
    assert driver.hear("done")["value"] == 7


def test_dependencies_are_found_as_in_a_virtual_environment(driver: Driver) -> None:
    """Behind the standard library, with .pth files and programs; and by Pythons it starts."""
    deps = driver.directory / "deps"
    (deps / "bin").mkdir(parents=True)
    (deps / "below").mkdir()
    (deps / "colorsys.py").write_text("raise ImportError('hides the standard library')")
    (deps / "extra.py").write_text("value = 7")
    (deps / "more.pth").write_text("below\n")
    (deps / "below" / "deeper.py").write_text("value = 8")
    (deps / "bin" / "say-nine").write_text("#!/bin/sh\necho 9\n")
    (deps / "bin" / "say-nine").chmod(0o755)
    source = """
        import colorsys, deeper, extra, subprocess, sys, torpor

        def said(*command):
            return int(subprocess.check_output(command))

        @torpor.agent
        def main():
            child = said(sys.executable, "-c", "import extra; print(extra.value)")
            return [extra.value, deeper.value, child, said("say-nine")]
    """
    driver.send_files({"agent.py": textwrap.dedent(source)})
    driver.say("load", entry="agent.py", deps=True, version="v1")
    assert driver.hear("loaded", "load_failed")["t"] == "loaded"
    driver.start()
    assert driver.hear("done", "failed").get("value") == [7, 8, 7, 9]


@pytest.mark.parametrize("in_step", [True, False])
def test_a_library_that_is_missed_later(driver: Driver, in_step: bool) -> None:
    source = """
        import ctypes, torpor

        @torpor.step
        def load(): ctypes.CDLL("libnone-such.so.3")

        @torpor.agent
        def main(in_step):
            load() if in_step else ctypes.CDLL("libnone-such.so.3")
    """
    failed = driver.run(source, in_step=in_step)
    assert failed["type"] == "OSError"
    assert "in the package libnone-such3" in failed["message"]


def test_files_that_lead_elsewhere_are_refused(driver: Driver) -> None:
    driver.send_files({"../evil.py": "x = 1"})
    driver.say("load", entry="agent.py", deps=False, version="v1")
    assert "../evil.py" in driver.hear("load_failed")["error"]
    assert not (driver.directory / "evil.py").exists()


FAILURES = """
import os, signal, sys, torpor

def inner():
    raise LookupError("nothing there")

@torpor.step
def fails():
    inner()

@torpor.agent
def fail(how):
    match how:
        case "raise": inner()
        case "step": fails()
        case "exit": sys.exit(5)
        case "exit0": sys.exit()
        case "value": return object()
        case "nan": return float("nan")
        case "_exit": os._exit(6)
        case "kill": os.kill(os.getpid(), signal.SIGKILL)
        case "stray":
            for fd in range(3, 30):
                try: os.write(fd, b'{"t":"what"}\\n')
                except OSError: pass
            signal.pause()
"""


@pytest.mark.parametrize(
    ("how", "type", "words"),
    [
        ("raise", "LookupError", "nothing there"),
        ("step", "LookupError", "nothing there"),
        ("exit", "SystemExit", "sys.exit(5)"),
        ("exit0", "SystemExit", "sys.exit(None)"),
        ("value", "TypeError", "builtins.object"),
        ("nan", "TypeError", "NaN"),
    ],
)
def test_how_an_agent_can_fail(driver: Driver, how: str, type: str, words: str) -> None:
    failed = driver.run(FAILURES, how=how)
    assert (failed["t"], failed["type"], failed["cancelled"]) == ("failed", type, False)
    assert words in failed["message"]
    if type == "LookupError":
        trace = failed["traceback"]
        assert "in inner" in trace
        assert "agent.py" in trace
        assert "torpor/sdk" not in trace
        assert trace.count("Traceback") == 1


@pytest.mark.parametrize(
    ("how", "code", "signal"), [("_exit", 6, None), ("kill", None, 9), ("stray", None, 9)]
)
def test_how_an_agents_process_can_end(
    driver: Driver, how: str, code: int | None, signal: int | None
) -> None:
    exited = driver.run(FAILURES, how=how)
    assert exited == {"t": "exited", "code": code, "signal": signal, "oom": False}


def test_output_waits_for_a_slow_host_and_is_whole(driver: Driver) -> None:
    driver.load(
        """
        import sys, torpor
        @torpor.agent
        def talk(lines: int):
            for number in range(lines):
                print(f"{number:09}", "x" * 90)
            print("the end", file=sys.stderr)
        """
    )
    lines = 50_000  # five times what may be unacknowledged
    driver.start(lines=lines)
    while driver.pump(0.2, acknowledge=False):
        pass
    assert len(driver.out) < 2 * UNACKED_BYTES_MAX
    driver.flush()
    driver.hear("done")
    assert driver.out.decode() == "".join(f"{n:09} {'x' * 90}\n" for n in range(lines))
    assert driver.err == b"the end\n"


def test_messages_from_the_host_that_are_none_are_survived(driver: Driver) -> None:
    driver.link.send(0, b"{")
    driver.link.send(0, b'{"t":"load"}')
    driver.link.send(0, b'{"t":"thaw"}')
    driver.flush()
    assert driver.value(ADD, a=1) == 3
    assert driver.complaints().count("refused from the host") == 3


def test_orphans_are_no_exit_of_the_agent(driver: Driver) -> None:
    source = """
        import subprocess, torpor
        @torpor.agent
        def main():
            return subprocess.run(["sh", "-c", "exit 3"]).returncode
    """
    assert driver.value(source) == 3


def test_the_agents_environment(driver: Driver) -> None:
    source = """
        import os, torpor
        @torpor.agent
        def main():
            return [os.getcwd(), os.environ["HOME"], os.environ["OPENAI_API_KEY"],
                    sorted(int(fd) for fd in os.listdir("/proc/self/fd"))]
    """
    cwd, home, key, fds = driver.value(source)
    assert (Path(cwd), Path(home)) == (driver.directory / "work", driver.directory)
    assert key == "torpor"
    # Standard streams, the two channels to the supervisor, what watches files, and the directory
    # being listed.
    assert len(fds) == 7
