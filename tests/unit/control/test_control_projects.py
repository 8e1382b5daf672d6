"""Projects as real processes run them: what they import, what is installed, where they work."""

from __future__ import annotations

from pathlib import Path

import pytest

from torpor.core.errors import GuestError
from torpor.project.reading import read_agent
from torpor.testing.fakes.plain import Plain

pytestmark = pytest.mark.anyio


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    return root


SRC_LAYOUT = {
    "pyproject.toml": """
[project]
name = "hr-bot"
version = "1.2"
[project.scripts]
hr = "hr.cli:main"
[project.entry-points.plugs]
words = "hr.words:GREETING"
[tool.torpor]
entry = "src/hr/main.py"
""",
    "data/x.csv": "1,2\n",
    "src/hr/prompts/a.txt": "be brief",
    "src/hr/tool.sh": "#!/bin/sh\necho run\n",
    "src/hr/__init__.py": "",
    "src/hr/words.py": 'GREETING = "hello"\n',
    "src/hr/__main__.py": "from . import words\nprint(words.GREETING)\n",
    "src/hr/cli.py": 'from hr import words\n\ndef main():\n    print("cli", words.GREETING)\n',
    "src/hr/main.py": """
import os, subprocess, sys
from importlib.metadata import entry_points, version
from pathlib import Path

import torpor

from . import words

HERE = Path(__file__).parent

def text_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout

@torpor.agent
def main():
    (plug,) = entry_points(group="plugs")
    return {
        "name": __name__,
        "relative": words.GREETING,
        "version": version("hr-bot"),
        "plug": plug.load(),
        "beside": (HERE / "prompts" / "a.txt").read_text(),
        "below": open("data/x.csv").read(),
        "root": Path.cwd() == HERE.parent.parent,
        "module": text_of(sys.executable, "-m", "hr"),
        "program": text_of("hr"),
        "executable": text_of(str(HERE / "tool.sh")),
    }
""",
}


async def test_a_project_with_a_src_layout(plain: Plain, tmp_path: Path) -> None:
    root = write(tmp_path / "project", SRC_LAYOUT)
    run = await plain.run(await plain.deploy_source(read_agent(root)))
    assert await plain.result(run) == {
        "name": "hr.main",
        "relative": "hello",
        "version": "1.2",
        "plug": "hello",
        "beside": "be brief",
        "below": "1,2\n",
        "root": True,
        "module": "hello\n",
        "program": "cli hello\n",
        "executable": "run\n",
    }


FLAT = {
    "pyproject.toml": '[project]\nname = "flat"\n[tool.torpor]\nentry = "scripts/run.py"\n',
    "flat/__init__.py": "from flat.inner import deep",
    "flat/inner/__init__.py": "deep = 1",
    "scripts/near.py": "near = 2",
    "scripts/run.py": """
import torpor, flat, near
@torpor.agent
def main():
    return [flat.deep, near.near, __name__]
""",
}
LOOSE_PACKAGE = {
    "bots/__init__.py": "",
    "bots/words.py": "hello = 'hi'",
    "bots/mail.py": """
import torpor
from bots import words
from .words import hello
@torpor.agent
def main():
    return [words.hello, hello, __name__]
""",
}
NAMESPACE = {
    "pyproject.toml": "[tool.torpor]\nentry = 'src/space/bot.py'\n",
    "src/space/near.py": "near = 3",
    "src/space/bot.py": """
import torpor
from .near import near
@torpor.agent
def main():
    return [near, __name__]
""",
}
NEIGHBOURS = {
    "agent.py": """
import torpor
from helper import x
@torpor.agent
def main():
    import late
    return [x, late.y]
""",
    "helper.py": "x = 5",
    "late.py": "y = 6",
}


@pytest.mark.parametrize(
    ("files", "path", "result"),
    [
        (FLAT, "", [1, 2, "run"]),
        (LOOSE_PACKAGE, "bots/mail.py", ["hi", "hi", "bots.mail"]),
        (NAMESPACE, "", [3, "space.bot"]),
        (NEIGHBOURS, "agent.py", [5, 6]),
    ],
    ids=["flat", "loose package", "namespace", "neighbours"],
)
async def test_projects_of_other_shapes(
    plain: Plain, tmp_path: Path, files: dict[str, str], path: str, result: list[object]
) -> None:
    root = write(tmp_path / "project", files)
    run = await plain.run(await plain.deploy_source(read_agent(root / path)))
    assert await plain.result(run) == result


IN_PLACE = {
    "pyproject.toml": '[project]\nname = "p"\n',
    "state/count.txt": "0",
    "notes.txt": "begin ",
    "agent.py": """
import torpor
from pathlib import Path

COUNT = Path(__file__).parent / "state" / "count.txt"
COUNT.with_name("made").mkdir()

@torpor.step
def count(path):
    path.write_text(str(int(path.read_text()) + 1))
    return path

@torpor.agent
def main():
    with open("notes.txt", "a") as file:
        file.write("once ")
    where = {str(count(COUNT)) for _ in range(2)}
    torpor.approve("go on?")
    where.add(str(count(COUNT)))
    return [open("state/count.txt").read(), open("notes.txt").read(), len(where)]
""",
}


async def test_a_run_writes_to_a_copy_of_its_own(plain: Plain, tmp_path: Path, hasty: None) -> None:
    """Each process of a run has a fresh one, under the same name, in which steps that are not run
    again have left what they did to it."""
    root = write(tmp_path / "project", IN_PLACE)
    version = await plain.deploy_source(read_agent(root))
    for _ in range(2):
        run = await plain.run(version)
        await plain.suspended(run)
        await plain.answer(run, approved=True)
        assert await plain.result(run) == ["3", "begin once ", 1]
    deployed = plain.home.apps / version
    assert (deployed / "state/count.txt").read_text() == "0"
    assert (deployed / "notes.txt").read_text() == "begin "
    assert not (deployed / "state/made").exists()
    await plain.carriers.close()
    assert not list(plain.home.processes.iterdir())


async def test_a_module_that_is_missing(plain: Plain, tmp_path: Path) -> None:
    root = write(tmp_path / "project", {"agent.py": "import torpor, absent\ntorpor.agent(print)"})
    with pytest.raises(GuestError, match=r"(?s)No module named 'absent'; .*dependencies.*include"):
        await plain.deploy_source(read_agent(root / "agent.py"))


async def test_a_package_that_hides_one_of_pythons(plain: Plain, tmp_path: Path) -> None:
    files = {
        "pyproject.toml": "[tool.torpor]\nentry = 'email/bot.py'\n",
        "email/__init__.py": "",
        "email/bot.py": "import torpor\n@torpor.agent\ndef a(): ...",
    }
    with pytest.raises(GuestError, match=r"the package 'email' of email/bot\.py hides the module"):
        await plain.deploy_source(read_agent(write(tmp_path / "project", files)))
