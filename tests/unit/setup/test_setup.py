"""What a host of machines lacks is named, and brought by a stand-in of apt-get that makes programs
appear; a host that has all is left alone."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import torpor
from torpor.core.errors import Missing
from torpor.core.home import Home
from torpor.image.build import Image
from torpor.image.tools import ProgramFailed
from torpor.setup import apt, checks, packages, ready, system
from torpor.setup.packages import Package

TEA = Package("tea-tools", "maketea")
CAKE = Package("cake", "bakecake")
APT = """#!/bin/sh
echo "$*" >> "{log}"
case "$*" in
*update) exit {update} ;;
*install*)
    echo '2 newly installed, 0 to remove'
    for name in maketea bakecake; do
        printf '#!/bin/sh\\n' > "{bin}/$name"
        chmod +x "{bin}/$name"
    done
    for name in tea-tools cake; do echo "Unpacking $name (1.0) ..."; done
    for name in tea-tools cake; do echo "Setting up $name:amd64 (1.0) ..."; done ;;
esac
"""
CACHE = """#!/bin/sh
case "$*" in *cake) exit 100 ;; esac
echo "Package: $*"
"""


class Host:
    """A host with a PATH of its own, on which apt-get and apt-cache are stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.log = folder / "bin", folder / "log"
        self.bin.mkdir()
        self.log.touch()
        self.program("env", '#!/bin/sh\nexec /usr/bin/env "$@"\n')

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def has_apt(self, update: int = 0) -> None:
        self.program("apt-get", APT.format(log=self.log, bin=self.bin, update=update))
        self.program("apt-cache", CACHE)

    @property
    def asked(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Of root, that lacks two packages and nothing else."""
    made = Host(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("PATH", str(made.bin))
    monkeypatch.setattr("torpor.image.tools.PATH", f"{made.bin}:/usr/bin:/bin")
    monkeypatch.setattr(packages, "PATH", str(made.bin))
    monkeypatch.setattr(packages, "HOST", (TEA, CAKE))
    monkeypatch.setattr(packages, "COMPILER", ())
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return made


@pytest.fixture
def image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Home]:
    """The data directories for which an image was wanted."""
    wanted: list[Home] = []

    def ensure(home: Home, progress: object) -> Image:
        wanted.append(home)
        return Image("0" * 32, tmp_path)

    monkeypatch.setattr(ready, "ensure_image", ensure)
    return wanted


def test_root_is_brought_what_is_absent_then_the_image(
    host: Host, image: list[Home], tmp_path: Path
) -> None:
    host.has_apt()
    shown: list[tuple[str, float | None]] = []
    home = Home(tmp_path / "home")
    ready.make_ready(home, lambda stage, message, done: shown.append((message, done)))
    update, install = host.asked
    assert update.endswith("update")
    assert install.endswith("install -y --no-install-recommends tea-tools cake")
    assert [done for _, done in shown] == [None, 0.0, 0.25, 0.5, 0.75, 1.0]
    assert shown[-1][0] == "setting up cake"
    assert image == [home]


def test_what_is_here_is_left_alone(
    host: Host, image: list[Home], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.has_apt()
    for each in (TEA, CAKE):
        host.program(each.brings, "#!/bin/sh\n")
    ready.make_ready(Home(tmp_path / "home"), lambda *_: pytest.fail("nothing is to be done"))
    assert host.asked == [] and len(image) == 1
    here = Image("0" * 32, tmp_path)
    monkeypatch.setattr(ready, "find_image", lambda home: here)
    home = Home(tmp_path / "home")
    done = ready.make_ready(home, lambda *_: pytest.fail("nothing is to be done"))
    assert done == here and len(image) == 1


def test_others_are_told_what_root_types(
    host: Host, image: list[Home], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.has_apt()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(packages, "ORDINARY_USER", ())
    with pytest.raises(Missing, match="maketea, bakecake") as refused:
        ready.make_ready(Home(tmp_path / "home"), lambda *_: None)
    assert refused.value.hint.startswith("sudo apt-get install tea-tools cake\n")
    assert host.asked == [] and image == []


def test_where_there_is_no_apt_the_programs_are_named(
    host: Host, image: list[Home], tmp_path: Path
) -> None:
    with pytest.raises(Missing, match="maketea, bakecake") as refused:
        ready.make_ready(Home(tmp_path / "home"), lambda *_: None)
    assert "Debian's names: tea-tools cake" in refused.value.hint
    assert system.system().ok is None and "--engine process" in system.system().hint


def test_what_apt_says_of_a_failure_is_shown(host: Host, image: list[Home], tmp_path: Path) -> None:
    host.has_apt(update=100)
    with pytest.raises(ProgramFailed, match="failed with code 100") as failed:
        ready.make_ready(Home(tmp_path / "home"), lambda *_: None)
    assert "torpor setup" in failed.value.hint


def test_what_only_tests_need_is_left_out_where_the_archive_has_none(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host.has_apt()
    monkeypatch.setattr(apt, "TESTS", (CAKE,))
    apt.install([TEA, CAKE], lambda *_: None)
    assert host.asked[-1].endswith("tea-tools")
    monkeypatch.setattr(apt, "LISTS", tmp_path / "lists")
    assert apt.has(CAKE)  # for all that is known
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "deb.debian.org_Packages.lz4").touch()
    assert not apt.has(CAKE) and apt.has(TEA)


def test_an_ordinary_user_needs_a_range_of_ids(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = (tmp_path / "subuid", tmp_path / "subgid")
    monkeypatch.setattr(checks, "SUBORDINATE", files)
    monkeypatch.setattr(checks, "_user", lambda uid: "rosa")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert not list(checks.subordinate_ids())
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (check,) = checks.subordinate_ids()
    assert check.ok is False and check.hint.endswith("rosa")
    for file in files:
        file.write_text("tom:1:1\nrosa:100000:65536\n")
    assert not list(checks.subordinate_ids())


@pytest.mark.parametrize(
    ("platform_name", "processor", "detail", "hint"),
    [
        ("darwin", "arm64", "macOS: torpor's server runs on Linux only", "TORPOR_URL"),
        ("win32", "AMD64", "Windows: torpor's server runs on Linux only", "torpor.testing"),
        ("linux", "aarch64", "machines need an x86-64 processor", "--engine process"),
    ],
)
def test_where_no_machine_can_run_it_is_said_what_can(
    monkeypatch: pytest.MonkeyPatch, platform_name: str, processor: str, detail: str, hint: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform_name)
    monkeypatch.setattr(platform, "machine", lambda: processor)
    check = system.system()
    assert check.ok is False
    assert detail in check.detail and hint in check.hint


def test_all_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = {check.name: check for check in checks.checks(Home(tmp_path / "home"))}
    assert found["binding of FUSE"].ok is False
    assert "torpor[machines]" in found["binding of FUSE"].hint
    assert found["guest image"].ok is False and "torpor setup" in found["guest image"].hint


def test_an_image_that_was_just_looked_at_is_not_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "find_image", lambda home: pytest.fail("it reads the whole image"))
    check = checks.image(Home(tmp_path / "home"), Image("0" * 32, tmp_path))
    assert check.ok and str(tmp_path) in check.detail


def test_the_binding_is_what_the_extra_asks_for() -> None:
    (requirement,) = ready._requirements("machines")
    assert Requirement(requirement).name == "pyfuse3"
    assert Requirement(requirement).specifier


def test_the_packages_of_a_clone_are_looked_for_by_a_bare_python(tmp_path: Path) -> None:
    """With the standard library alone: `make setup` runs it before there is a .venv."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "torpor.setup"],
        env={"PATH": str(tmp_path), "PYTHONPATH": str(Path(torpor.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "before you install" in done.stderr and "qemu-system-x86" in done.stderr


def test_no_package_is_listed_twice() -> None:
    listed = (*packages.HOST, *packages.ORDINARY_USER, *packages.COMPILER, *packages.TESTS)
    for names in ([each.name for each in listed], [each.brings for each in listed]):
        assert len(names) == len(set(names))
