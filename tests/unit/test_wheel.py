"""What is installed from the wheel alone, with no clone beside it, is all of torpor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from email.parser import Parser
from pathlib import Path

import pytest
from uv import find_uv_bin

ROOT = Path(__file__).parents[2]
LIMIT_S = 300

AGENT = """
import torpor


@torpor.step
def double(n: int) -> int:
    return 2 * n


@torpor.agent
def sums(n: int) -> int:
    return double(n)
"""
TEST = "import agent; from torpor.testing import run; print(run(agent.sums, {'n': 4}).result)"
# A page of the dashboard, and what it loads.
PAGE = """
import re, sys, urllib.parse, urllib.request
opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
opener.open(sys.argv[1]).close()  # logs in
page = opener.open(urllib.parse.urljoin(sys.argv[1], "/ui/")).read().decode()
for asset in re.findall(r'(?:src|href)="(/[^"]*static/[^"]+)"', page):
    print(asset.partition("static/")[2].partition("?")[0], len(
        opener.open(urllib.parse.urljoin(sys.argv[1], asset)).read()))
"""

Installed = Callable[..., str]


def uv(*command: str, **environment: str) -> None:
    done = subprocess.run(
        [find_uv_bin(), *command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("wheel")
    uv("build", "--quiet", "--wheel", "--out-dir", str(made), str(ROOT))
    (found,) = made.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def installed(wheel: Path) -> Iterator[Installed]:
    """Run a program of an environment that has the wheel and what that asks for; where an agent is,
    and no torpor. What it printed."""
    # Short: the path of a Unix socket must be.
    with tempfile.TemporaryDirectory(prefix="torpor-") as folder:
        place = Path(folder)
        (place / "agent.py").write_text(AGENT)
        venv = place / "venv"
        uv("venv", "--quiet", "--python", sys.executable, str(venv))
        uv("pip", "install", "--quiet", "--no-build", str(wheel), VIRTUAL_ENV=str(venv))
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "TORPOR_HOME": str(place / "home"),
        }

        def run(program: str, *arguments: str) -> str:
            done = subprocess.run(
                [str(venv / "bin" / program), *arguments],
                cwd=place,
                env=environment,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        yield run
        run("torpor", "down")


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    package = ROOT / "src"
    tracked = subprocess.run(
        ["git", "-C", str(package), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == {path for path in tracked if (package / path).exists()}
    assert "torpor/py.typed" in packed


def test_its_metadata_asks_for_nothing_that_is_compiled(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith("/METADATA"))
        told = Parser().parsestr(archive.read(name).decode())
    asked = told.get_all("Requires-Dist") or []
    compiled = [each for each in asked if each.startswith("pyfuse3")]
    assert compiled and all("extra == 'machines'" in each for each in compiled)
    assert told["License-Expression"] == "Apache-2.0"
    assert told["Requires-Python"] == ">=3.11"
    assert told["Description-Content-Type"] == "text/markdown"


def test_an_agent_runs_and_is_tested_with_the_wheel_alone(installed: Installed) -> None:
    assert installed("torpor", "--version").startswith("torpor ")
    ran = installed("torpor", "run", "agent.py", "-i", "n=4", "--engine", "process")
    assert ran.splitlines()[-1] == "8"
    assert installed("python", "-c", TEST).strip() == "8"


def test_the_dashboard_has_its_files(installed: Installed) -> None:
    installed("torpor", "up")
    link = installed("torpor", "dashboard").strip()
    sizes = dict(line.split() for line in installed("python", "-c", PAGE, link).splitlines())
    assert {"torpor.css", "torpor.js", "htmx.min.js"} <= sizes.keys()
    assert all(int(size) for size in sizes.values())


def test_what_this_host_lacks_is_said_with_how_to_get_it(installed: Installed) -> None:
    checks = {each["name"]: each for each in json.loads(installed("torpor", "doctor", "--json"))}
    assert checks["engine"]["ok"] is None  # plain processes: good enough to go on
    if Path("/dev/fuse").exists() and shutil.which("fusermount3"):
        assert "torpor[machines]" in checks["FUSE"]["hint"]
        assert "libfuse3-dev" in checks["FUSE"]["hint"]
