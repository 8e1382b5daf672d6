"""torpor doctor: what is absent, and the command that brings it."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import pytest

from torpor.control.observe.doctor import examine
from torpor.core.checks import Check
from torpor.core.home import Home
from torpor.engine.qemu import host
from torpor.pager import launch
from torpor.setup import packages


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Home:
    """A data directory of a host, of an ordinary user, that has nothing but a Python."""
    monkeypatch.delenv("TORPOR_ENGINE", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    monkeypatch.setattr(packages.Package, "is_here", lambda package: False)
    monkeypatch.setattr(launch, "FUSE_DEVICE", Path(os.devnull))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return Home(tmp_path / "home")


def hints(home: Home) -> str:
    return " ".join(check.hint for check in examine(home).checks if check.ok is False)


def test_a_bare_host_is_told_of_every_package_that_machines_need(
    bare: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = hints(bare)
    monkeypatch.setattr("shutil.which", lambda name, path=None: f"/usr/bin/{name}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    told += hints(bare)
    needed = {*packages.HOST, *packages.ORDINARY_USER, *packages.COMPILER}
    assert {each.name for each in needed} <= set(re.findall(r"[\w.-]+", told))
    assert "pip install 'torpor[machines]'" in told


def test_a_host_without_machines_can_run_processes(bare: Home) -> None:
    assert examine(bare).can_run


def test_what_emulation_costs_is_said(bare: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def told() -> Check:
        return next(check for check in examine(bare).checks if check.name == "acceleration")

    monkeypatch.setattr(host, "KVM_DEVICE", Path(os.devnull))
    assert "probed once there is an image" in told().detail
    monkeypatch.setattr(host, "KVM_DEVICE", bare.root / "absent")
    check = told()
    assert check.ok is None
    assert "15 times as long" in check.detail
    assert "KVM" in check.hint
    assert "--engine process" in check.hint


def test_a_file_of_the_host_that_denies_all_is_seen(bare: Home) -> None:
    def found() -> list[Check]:
        return [check for check in examine(bare).checks if check.name == "egress.toml"]

    assert found() == []
    bare.create()
    bare.egress.write_text('[[deny]]\nhost = "**.example.net"\n')
    assert [check.ok for check in found()] == [True]
    bare.egress.write_text("[[deny")
    (check,) = found()
    assert check.ok is False and "egress.toml" in check.detail
    assert "reach nothing" in check.hint and examine(bare).can_run
