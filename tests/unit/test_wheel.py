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
from scripts.releasing import TRIED, Built, build, build_from, built, run
from uv import find_uv_bin

ROOT = Path(__file__).parents[2]
PUBLIC_NAMES = ROOT / "tests" / "unit" / "sdk" / "public_names.py"
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


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """What `scripts/release` wants tried, or else what this clone gives."""
    if given := os.environ.get(TRIED):
        return built(Path(given))
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def installed(dist: Built) -> Iterator[Installed]:
    """Run a program of an environment that has the wheel and what that asks for; where an agent is,
    and no torpor. What it printed."""
    # Short: the path of a Unix socket must be.
    with tempfile.TemporaryDirectory(prefix="torpor-") as folder:
        place = Path(folder)
        (place / "agent.py").write_text(AGENT)
        venv = place / "venv"
        install(dist.wheel, venv)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "TORPOR_HOME": str(place / "home"),
        }

        def program(name: str, *arguments: str, code: int = 0) -> str:
            done = subprocess.run(
                [str(venv / "bin" / name), *arguments],
                cwd=place,
                env=environment,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
            )
            assert done.returncode == code, done.stdout + done.stderr
            return done.stdout

        yield program
        program("torpor", "down")


def install(wheel: Path, venv: Path) -> None:
    """By pip, as users do, what is to be published; else by uv, in a tenth of the time."""
    if TRIED in os.environ:
        run(sys.executable, "-m", "venv", str(venv))
        pip = [str(venv / "bin" / "pip"), "install", "--disable-pip-version-check"]
        run(*pip, "--quiet", "--only-binary", ":all:", str(wheel))
    else:
        run(find_uv_bin(), "venv", "--quiet", "--python", sys.executable, str(venv))
        pip = [find_uv_bin(), "pip", "install", "--python", str(venv / "bin" / "python")]
        run(*pip, "--quiet", "--no-build", str(wheel))


def test_the_wheel_has_every_file_of_the_package_and_no_other(dist: Built) -> None:
    package = ROOT / "src"
    tracked = subprocess.run(
        ["git", "-C", str(package), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    with zipfile.ZipFile(dist.wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == {path for path in tracked if (package / path).exists()}
    assert "torpor/py.typed" in packed


def test_the_sdist_gives_the_same_wheel(dist: Built, tmp_path: Path) -> None:
    assert build_from(dist.sdist, tmp_path).read_bytes() == dist.wheel.read_bytes()


def test_a_type_checker_that_knows_only_the_wheel_knows_every_public_name(
    installed: Installed, tmp_path: Path
) -> None:
    """As strictly as can be; what the program asserts of types is not Any."""
    python = installed("python", "-c", "import sys; print(sys.executable)").strip()
    shutil.copy(PUBLIC_NAMES, tmp_path / "program.py")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "program.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_metadata_asks_for_nothing_that_is_compiled(dist: Built) -> None:
    with zipfile.ZipFile(dist.wheel) as archive:
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
        assert "torpor setup" in checks["FUSE"]["hint"]


def test_setup_says_what_machines_need(installed: Installed) -> None:
    found = json.loads(installed("torpor", "setup", "--check", "--json", code=3))
    checks = {each["name"]: each for each in found}
    assert checks["binding of FUSE"]["ok"] is False
    assert "pip install 'torpor[machines]'" in checks["binding of FUSE"]["hint"]
    assert checks["guest image"]["ok"] is False
    if (lacking := checks["packages"])["ok"] is False:  # a compiler for that binding, at least
        assert "apt-get install " in lacking["hint"]
