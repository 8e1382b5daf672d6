"""What a plain process has imported before it knows its agent, and that no agent can tell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import torpor
from torpor.core.agentfile import AgentSource
from torpor.testing.fakes.plain import Plain
from torpor.worker import onprocesses
from torpor.worker.spares import OF_SDK

pytestmark = pytest.mark.anyio

# A dependency that notes, where nobody looks, which process imports it, and where.
NOTES = """
import json, os
with open({log!r}, "a") as file:
    file.write(json.dumps([os.getpid(), os.getcwd(), os.environ["MARK"]]) + "\\n")
"""
AGENT = """
import depends
import torpor, os, sys

@torpor.agent
def main():
    told = depends.told() if hasattr(depends, "told") else None
    return {{"pid": os.getpid(), "cwd": os.getcwd(), "told": told, "path": sys.path, {more}}}
"""


class Depending:
    """Agents that have a directory of modules as their dependencies."""

    def __init__(self, plain: Plain, directory: Path) -> None:
        self.plain, self.log, self.modules = plain, directory / "log", directory / "modules"
        self.modules.mkdir()

    def write(self, body: str, name: str = "depends") -> None:
        (self.modules / f"{name}.py").write_text(NOTES.format(log=str(self.log)) + body)

    async def run(self, more: str = "", **files: str) -> Any:
        """What a new version returns, once all is waiting that is to wait."""
        whole = {"agent.py": AGENT.format(more=more), **files}
        source = AgentSource(
            "agent.py", {name: each.encode() for name, each in whole.items()}, env={"MARK": "x"}
        )
        version = await self.plain.deploy_source(source)
        await self.settled()
        result = await self.plain.result(await self.plain.run(version))
        await self.settled()
        return result

    async def settled(self) -> None:
        await self.plain.carriers._processes._spares.settled()

    def imported(self) -> list[list[Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def where(self, pid: int) -> str:
        (place,) = [cwd for each, cwd, _ in self.imported() if each == pid]
        return str(place)


@pytest.fixture
def depending(plain: Plain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Depending:
    depending = Depending(plain, tmp_path)
    monkeypatch.setattr(onprocesses, "ensure_modules", lambda *_: depending.modules)
    return depending


async def test_a_changed_agent_costs_no_import_of_its_dependencies(depending: Depending) -> None:
    depending.write("")
    await depending.run()
    before = {pid for pid, _, _ in depending.imported()}
    changed = await depending.run(more="'changed': 1")
    assert changed["changed"] == 1
    spare = str(depending.plain.home.processes)
    assert depending.where(changed["pid"]).startswith(spare)
    # Deployed with one that was there; that, and the one of the run, were replaced.
    assert len(depending.imported()) == len(before) + 2
    assert {mark for _, _, mark in depending.imported()} == {"x"}
    # It finds modules as one does that has imported nothing ahead.
    assert not [each for each in changed["path"] if each.startswith(spare)]
    assert changed["path"][0] == changed["cwd"]
    other = await depending.run(**{"depends_too.py": ""})  # which imports might mean
    assert len(depending.imported()) >= len(before) + 2 + 3
    assert other["told"] is None


def test_what_the_sdk_has_imported() -> None:
    """An agent that imports nothing else takes any process."""
    program = "import sys, torpor, torpor.sdk.alone; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": str(Path(torpor.__file__).parents[1])},
        capture_output=True,
        check=True,
        text=True,
    )
    assert set(found.stdout.split()) >= OF_SDK


UNFIT = {
    "prints": ("print('hello')", "None"),
    "fails at first": ("import os\nif not os.path.getsize('agent.py'): raise ValueError", "None"),
    "thread": ("import threading\nthreading.Thread(target=threading.Event().wait, daemon=True)"
               ".start()", "None"),
    "directory": ("import os\nHERE = os.getcwd()\ntold = lambda: HERE", "os.getcwd()"),
    "path": ("import pathlib\nHERE = pathlib.Path.cwd()\ntold = lambda: str(HERE)", "os.getcwd()"),
    "default": ("import os\ndef told(at=os.getcwd()): return at", "os.getcwd()"),
    "in a class": ("import os\nclass A:\n  at = {'x': [os.path.expanduser('~')]}\n"
                   "told = lambda: A.at['x'][0]", "os.path.dirname(os.getcwd())"),
    "bytes": ("import os\nHERE = os.getcwdb()\ntold = lambda: HERE.decode()", "os.getcwd()"),
    "reads": ("WORDS = open('words.txt').read()\ntold = lambda: WORDS", "'words'"),
    "own module": ("import words\ntold = lambda: words.WORDS", "'of the agent'"),
    "sys.path": ("import sys\nsys.path.append('/nowhere')", "None"),
}  # fmt: skip


@pytest.mark.parametrize("what", UNFIT)
async def test_what_an_agent_could_tell_is_not_imported_ahead(
    what: str, depending: Depending
) -> None:
    body, expected = UNFIT[what]
    depending.write(body)
    beside = {"words.txt": "words", "words.py": "WORDS = 'of the agent'"}
    result = await depending.run(more=f"'expected': {expected}", **beside)
    assert result["told"] == result["expected"]
    assert depending.where(result["pid"]) == result["cwd"]


PACKAGE = {
    "pkg/__init__.py": "",
    "pkg/inner.py": "def where(): return (lambda: 0).__code__.co_filename, __file__",
}


async def test_compiled_code_is_of_the_runs_own_file_and_kept_elsewhere(plain: Plain) -> None:
    text = """
import os, torpor
from pkg import inner
@torpor.agent
def main():
    found = [os.path.relpath(os.path.join(at, n)) for at, _, names in os.walk(".") for n in names]
    return [*inner.where(), main.__code__.co_filename, sorted(found)]
"""
    files = {"agent.py": text, **PACKAGE}
    source = AgentSource("agent.py", {name: each.encode() for name, each in files.items()})
    version = await plain.deploy_source(source)
    kept = list(plain.home.compiled.iterdir())
    assert len(kept) == len(files)
    for _ in range(2):
        run = await plain.run(version)
        work = plain.home.work / run / "work"
        inner = str(work / "pkg/inner.py")
        assert await plain.result(run) == [inner, inner, str(work / "agent.py"), sorted(files)]
        for path in kept:  # as after a power cut
            path.write_bytes(path.read_bytes()[:40])


async def test_deployed_files_that_were_damaged_are_unpacked_again(plain: Plain) -> None:
    text = "import torpor\n@torpor.agent\ndef main(): return open('data').read()\n"
    source = AgentSource("agent.py", {"agent.py": text.encode(), "data": b"whole"})
    version = await plain.deploy_source(source)
    (plain.home.apps / version / "data").write_bytes(b"")
    await plain.stop()
    await plain.start()
    assert await plain.result(await plain.run(version)) == "whole"
