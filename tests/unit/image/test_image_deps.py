"""Dependency layers: names, refusals, and what uv's complaints look like."""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from torpor.core.errors import Invalid, Missing
from torpor.core.home import Home
from torpor.image import deps
from torpor.image.deps import check_python, ensure_deps, essential_lines, layer_digest

needs_tools = pytest.mark.skipif(
    shutil.which("mkfs.erofs") is None, reason="mkfs.erofs is not installed"
)


@pytest.mark.parametrize("requires", ["", ">=3.9", ">=3.11", ">=3.11.4", "==3.11.*", "<4,>=3.10"])
def test_a_python_that_machines_have(requires: str) -> None:
    check_python(requires, "3.11", "machines have")


@pytest.mark.parametrize("requires", [">=3.12", "<3.11", "==3.10.*", "!=3.11.*"])
def test_a_python_that_machines_do_not_have(requires: str) -> None:
    with pytest.raises(Invalid, match=r"machines have Python 3\.11"):
        check_python(requires, "3.11", "machines have")


def test_a_malformed_python_specifier() -> None:
    with pytest.raises(Invalid, match="not a version specifier"):
        check_python("3.11 or so", "3.11", "machines have")


def test_a_layer_is_named_by_its_requirements_in_any_order() -> None:
    assert layer_digest(["a", "b>=1"]) == layer_digest(["b>=1", "a"])
    assert len({layer_digest(names) for names in (["a"], ["b"], ["a", "b"], ["a>=1"])}) == 4


def test_no_dependencies_need_no_layer(tmp_path: Path) -> None:
    assert ensure_deps(Home(tmp_path), ()) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("requirement", ["foo bar", "--index-url=http://x", "-e .", "a; b", "./x"])
def test_what_is_no_requirement_never_reaches_uv(
    tmp_path: Path, requirement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deps, "_make_layer", None)
    with pytest.raises(Invalid, match="is not a requirement"):
        ensure_deps(Home(tmp_path), ("httpx", requirement))


@needs_tools
def test_a_package_that_cannot_be_had_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    home = Home(tmp_path / "home")
    with pytest.raises(Invalid, match=r"no-such-package>=1 cannot be installed:\n.*") as raised:
        ensure_deps(home, ("no-such-package>=1",))
    assert "no-such-package" in raised.value.message.split("\n", 1)[1]
    assert "wheels for Python 3.11" in raised.value.hint
    assert [path.name for path in home.deps.iterdir()] == [".lock"]


@needs_tools
def test_a_wheel_becomes_a_layer_with_its_version_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    wheel = wheel_of(tmp_path, "1.5")
    home = Home(tmp_path / "home")
    said: list[str] = []
    layer = ensure_deps(
        home, (f"tiny @ {wheel.as_uri()}",), lambda stage, text, _: said.append(text)
    )
    assert layer is not None
    assert layer.read_bytes()[1024:1028] == bytes.fromhex("e2e1f5e0")  # EROFS superblock
    assert b"BODY = 'of tiny'" in layer.read_bytes()
    assert b"#!/usr/bin/python3\n" in layer.read_bytes()
    assert sys.executable.encode() not in layer.read_bytes()
    assert '"tiny": "1.5"' in (layer.parent / "deps.json").read_text()
    assert len(said) == 2
    assert ensure_deps(home, (f"tiny @ {wheel.as_uri()}",), lambda *_: said.append("")) == layer
    assert len(said) == 2


def test_without_uv_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deps, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None if name == "uv" else name)
    with pytest.raises(Missing, match="uv, which installs them, is not on this host"):
        ensure_deps(Home(tmp_path), ("httpx",))


def test_essential_lines_begin_with_the_complaint() -> None:
    said = """\
Using CPython 3.11.2 interpreter at: /usr/bin/python3
  × No solution found when resolving dependencies:
  ╰─▶ Because foo was not found in the package registry, we can conclude that
      your requirements are unsatisfiable.
"""
    assert essential_lines(said) == (
        "No solution found when resolving dependencies:\n"
        "Because foo was not found in the package registry, we can conclude that\n"
        "your requirements are unsatisfiable."
    )


def test_a_long_complaint_keeps_its_beginning_and_its_end() -> None:
    said = "\n".join(["error: begin", *(f"because {n}" for n in range(500)), "hint: end"])
    shown = essential_lines(said).splitlines()
    assert shown[0] == "error: begin"
    assert shown[-1] == "hint: end"
    assert len(shown) == 13


def wheel_of(directory: Path, version: str) -> Path:
    path = directory / f"tiny-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny.py", "BODY = 'of tiny'\n")
        info = f"tiny-{version}.dist-info"
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/entry_points.txt", "[console_scripts]\ntiny = tiny:main\n")
        wheel.writestr(f"{info}/RECORD", f"tiny.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n")
    return path
