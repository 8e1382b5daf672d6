"""What a pyproject.toml says: importable directories, dependencies, what is installed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from torpor.core.errors import Invalid
from torpor.core.layout import PROGRAMS, SITE
from torpor.project.pyproject import Pyproject

DYNAMIC = 'dynamic = ["version"]\n'


def read(root: Path, toml: str) -> Pyproject:
    return Pyproject(root, tomllib.loads(toml), "pyproject.toml")


@pytest.mark.parametrize(
    ("toml", "roots"),
    [
        ("", ["src", "."]),
        ("[tool.setuptools.packages.find]\nwhere = ['lib']", ["lib", "."]),
        ("[tool.setuptools]\npackage-dir = {'' = 'lib'}", ["lib", "."]),
        ("[tool.setuptools]\npackage-dir = {hr = 'lib/hr'}", ["lib", "."]),
        ("[tool.hatch.build.targets.wheel]\npackages = ['lib/hr']", ["lib", "."]),
        ("[tool.hatch.build.targets.wheel]\nsources = ['lib']", ["lib", "."]),
        ("[tool.poetry]\npackages = [{include = 'hr', from = 'lib'}]", ["lib", "."]),
        ("[tool.uv.build-backend]\nmodule-root = 'lib'", ["src", "."]),
        (
            "[build-system]\nbuild-backend = 'uv_build'\n"
            "[tool.uv.build-backend]\nmodule-root = 'lib'",
            ["lib", "."],
        ),
        ("[build-system]\nbuild-backend = 'uv_build'", ["src", "."]),
        ("[tool.pdm.build]\npackage-dir = 'lib'", ["lib", "."]),
        ("[tool.setuptools.packages.find]\nwhere = ['absent', '../up', '/etc']", ["src", "."]),
        ("[tool]\nsetuptools = 3\nhatch = [1]\npoetry = {packages = 'x'}", ["src", "."]),
    ],
)
def test_importable_directories(tmp_path: Path, toml: str, roots: list[str]) -> None:
    for directory in ("src/hr", "lib/hr"):
        (tmp_path / directory).mkdir(parents=True)
        (tmp_path / directory / "__init__.py").touch()
    assert read(tmp_path, toml).roots() == roots


def test_a_flat_project(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/main.rs").touch()
    assert read(tmp_path, "").roots() == ["."]


def test_dependencies_with_extras(tmp_path: Path) -> None:
    toml = """
[project]
name = "Hr_Bot"
dependencies = ["httpx", "torpor", "torpor[mcp]>=1", "torpor-tools"]
[project.optional-dependencies]
mail = ["aiosmtplib"]
all = ["hr-bot[mail]", "rich"]
[tool.torpor]
extras = ["all"]
"""
    assert read(tmp_path, toml).dependencies() == ["httpx", "torpor-tools", "aiosmtplib", "rich"]


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('dependencies = ["lib"]\n[tool.uv.sources]\nLib = {path = "../lib"}', "path = ../lib"),
        ('dependencies = ["lib @ git+https://x/y"]', "lib comes from git"),
        ('dynamic = ["dependencies"]', "torpor does not run a build to find out"),
        ("[tool.poetry.dependencies]\nx = {git = 'https://x/y'}", "x has git"),
        ("[tool.poetry.dependencies]\nx = '^1 || ^3'", "alternatives"),
        ("[tool.poetry.dependencies]\nx = '^latest'", "not a version"),
        (
            "[tool.poetry.dependencies]\nx = {version = '1', markers = 'when old'}",
            "not valid markers",
        ),
        ("[tool.torpor]\nextras = ['x']", r"extras = \['x'\] is not in"),
        ("dependencies = 'x'", "must be a list of strings"),
    ],
)
def test_dependencies_that_are_refused(tmp_path: Path, toml: str, words: str) -> None:
    with pytest.raises(Invalid, match=words) as said:
        read(tmp_path, f"[project]\nname = 'hr'\n{toml}").dependencies()
    assert said.value.hint or "list" in words


def test_sources_of_what_is_not_depended_on_do_not_matter(tmp_path: Path) -> None:
    toml = '[project]\ndependencies = ["a"]\n[tool.uv.sources]\nb = {path = "b"}'
    assert read(tmp_path, toml).dependencies() == ["a"]


def test_dependencies_that_setuptools_reads_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("httpx\n")
    toml = (
        '[project]\ndynamic = ["dependencies"]\n'
        '[tool.setuptools.dynamic]\ndependencies = {file = ["requirements.txt"]}'
    )
    assert read(tmp_path, toml).dependencies() == ["httpx"]


@pytest.mark.parametrize(
    ("toml", "version"),
    [
        ('version = "1.2"', "1.2"),
        (f"{DYNAMIC}[tool.hatch.version]\npath = 'src/hr/about.py'", "3.4"),
        (f"{DYNAMIC}[tool.setuptools.dynamic]\nversion = {{attr = 'hr.about.__version__'}}", "3.4"),
        (f"{DYNAMIC}[tool.setuptools.dynamic]\nversion = {{file = 'VERSION'}}", "5.6"),
        (DYNAMIC, "0"),
    ],
)
def test_what_is_installed(tmp_path: Path, toml: str, version: str) -> None:
    (tmp_path / "src/hr").mkdir(parents=True)
    (tmp_path / "src/hr/about.py").write_text('__version__: str = "3.4"\n')
    (tmp_path / "VERSION").write_text("5.6\n")
    points = '[project.scripts]\nhr = "hr.cli:main.go"\n[project.entry-points.plugs]\na = "hr"\n'
    pyproject = read(tmp_path, f'[project]\nname = "Hr-Bot"\n{toml}\n{points}')
    files, programs = pyproject.installed(pyproject.roots())
    info = f"{SITE}/hr_bot-{version}.dist-info"
    assert f"\nVersion: {version}\n" in files[f"{info}/METADATA"].decode()
    assert files[f"{info}/entry_points.txt"] == (
        b"[console_scripts]\nhr = hr.cli:main.go\n[plugs]\na = hr\n"
    )
    assert files[f"{SITE}/project.pth"] == b"../../src\n../..\n"
    assert programs == {f"{PROGRAMS}/hr"}
    assert b"from hr.cli import main\n\nsys.exit(main.go())" in files[f"{PROGRAMS}/hr"]


@pytest.mark.parametrize(
    ("said", "requirement"),
    [
        ("'*'", "x"),
        ("'1.2'", "x==1.2"),
        ("'^1.2.3'", "x>=1.2.3,<2"),
        ("'^0.2.3'", "x>=0.2.3,<0.3"),
        ("'^0.0.3'", "x>=0.0.3,<0.0.4"),
        ("'^0.0'", "x>=0.0,<0.1"),
        ("'^0'", "x>=0,<1"),
        ("'~1.2.3'", "x>=1.2.3,<1.3"),
        ("'~1'", "x>=1,<2"),
        ("'1.2.*'", "x==1.2.*"),
        ("'>=1.2,<3'", "x>=1.2,<3"),
        ("'>= 1.2 <3'", "x>=1.2,<3"),
        ("'~=1.4'", "x~=1.4"),
        ("{version = '^2', extras = ['a', 'b']}", "x[a,b]>=2,<3"),
        (
            "{version = '1', python = '^3.11', markers = \"os_name == 'posix'\"}",
            "x==1 ; (os_name == \"posix\") and python_full_version >= '3.11' "
            "and python_full_version < '4'",
        ),
    ],
)
def test_poetrys_own_words(tmp_path: Path, said: str, requirement: str) -> None:
    (found,) = read(
        tmp_path, f"[tool.poetry.dependencies]\npython = '^3'\nx = {said}"
    ).dependencies()
    assert found == requirement
    assert str(Requirement(found))


def test_a_project_in_poetrys_own_words(tmp_path: Path) -> None:
    toml = """
[tool.poetry]
name = "hr-bot"
version = "0.3"
[tool.poetry.dependencies]
python = "^3.11"
torpor = "*"
httpx = [{version = "1", python = "<3.12"}, {version = "2", python = ">=3.12"}]
rich = {version = ">=13", optional = true}
[tool.poetry.group.dev.dependencies]
pytest = "^8"
[tool.poetry.extras]
nice = ["rich"]
[tool.poetry.scripts]
hr = "hr.cli:main"
[tool.torpor]
extras = ["nice"]
"""
    project = read(tmp_path, toml)
    assert project.dependencies() == [
        "httpx==1 ; python_full_version < '3.12'",
        "httpx==2 ; python_full_version >= '3.12'",
        "rich>=13",
    ]
    assert project.project["requires-python"] == ">=3.11,<4"
    files, programs = project.installed(["."])
    assert programs == {".torpor/bin/hr"}
    assert b"Version: 0.3" in files[".torpor/site/hr_bot-0.3.dist-info/METADATA"]
