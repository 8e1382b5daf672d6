"""Which QEMU, and whether KVM works, with programs that pretend to be QEMU."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from torpor.core.errors import Missing
from torpor.engine.qemu import probe as probing
from torpor.engine.qemu.engine import QemuEngine
from torpor.engine.qemu.probe import BINARY, Probe, find_qemu, host_tsc_khz, probe

KERNEL, INITRAMFS = Path("/k"), Path("/i")
VERSION = 'test "$1" = --version && echo "QEMU emulator version 7.2.22 (Debian)" && exit\n'


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with nothing; its directory of programs."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(probing, "KVM_DEVICE", tmp_path / "kvm")
    return programs


def install(host: Path, script: str) -> Path:
    path = host / BINARY
    path.write_text(script if script.startswith("MZ") else f"#!/bin/sh\n{script}")
    path.chmod(0o755)
    return path


def test_no_qemu(host: Path) -> None:
    with pytest.raises(Missing, match=f"{BINARY} is not installed") as missing:
        find_qemu()
    assert "torpor setup" in missing.value.hint


def test_a_qemu(host: Path) -> None:
    path = install(host, VERSION)
    assert find_qemu() == (str(path), "7.2.22")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo cannot load libfoo.so >&2; exit 127", "said 'cannot load libfoo.so'"),
        ("echo QEMU", "said 'QEMU'"),
        ("MZ no program", "Exec format error"),
    ],
)
def test_a_qemu_that_does_not_run(host: Path, script: str, words: str) -> None:
    install(host, script)
    with pytest.raises(Missing, match=words) as missing:
        find_qemu()
    assert "reinstall" in missing.value.hint


def test_without_kvm(host: Path, tmp_path: Path) -> None:
    install(host, VERSION)
    found = probe(KERNEL, INITRAMFS, tmp_path)
    assert (found.accel, found.version) == ("tcg", "7.2.22")
    assert found.why == f"emulation: there is no {tmp_path}/kvm"
    assert found.tsc_khz == host_tsc_khz()


def test_with_kvm_that_may_not_be_opened(
    host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(host, VERSION)
    (tmp_path / "kvm").touch()
    access = os.access  # which lets root do everything
    monkeypatch.setattr(
        os, "access", lambda path, mode: path != tmp_path / "kvm" and access(path, mode)
    )
    found = probe(KERNEL, INITRAMFS, tmp_path)
    assert found.accel == "tcg"
    assert "may not be opened by this user (join the group kvm)" in found.why


BOOTS = """
for word; do
    case $word in file:*) echo "[1.0] Run /init as init process" > "${word#file:}";; esac
done
exec /bin/sleep 1000
"""


@pytest.mark.parametrize(
    ("script", "accel", "words"),
    [
        (BOOTS, "kvm", "KVM: a kernel booted under it in "),
        ("echo no such CPU >&2; exit 3", "tcg", "QEMU ended with code 3: no such CPU"),
        ("exec /bin/sleep 1000", "tcg", "no kernel had booted under it after"),
    ],
    ids=["boots", "ends", "hangs"],
)
def test_kvm_is_tried(
    host: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    accel: str,
    words: str,
) -> None:
    install(host, VERSION + script)
    (tmp_path / "kvm").touch()
    if "no kernel" in words:
        monkeypatch.setattr(probing, "KVM_BOOT_LIMIT_S", 0.1)
    found = probe(KERNEL, INITRAMFS, tmp_path)
    assert found.accel == accel and words in found.why


def test_the_answer_is_kept_for_what_it_depends_on(host: Path, tmp_path: Path) -> None:
    install(host, VERSION)
    cache = tmp_path / "cache"
    cache.mkdir()
    first = probe(KERNEL, INITRAMFS, cache)
    (kept,) = cache.iterdir()
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"why": "as it was kept"}))
    assert probe(KERNEL, INITRAMFS, cache).why == "as it was kept"
    # What was cut off is no answer.
    kept.write_text("{")
    assert probe(KERNEL, INITRAMFS, cache) == first
    # Another kernel, QEMU or device is another question.
    assert probe(Path("/other"), INITRAMFS, cache) == first
    install(host, VERSION.replace("7.2.22", "9.0"))
    assert probe(KERNEL, INITRAMFS, cache).version == "9.0"
    assert len(list(cache.iterdir())) == 3


def test_the_counter_of_this_host() -> None:
    khz = host_tsc_khz()
    assert khz is None or 500_000 < khz < 10_000_000


def test_a_qemu_that_is_upgraded_under_a_server_is_another_shape(host: Path) -> None:
    def shape() -> str:
        return engine.shape(memory_mib=1, disk_mib=1, image="i", deps="").engine_version

    installed = install(host, VERSION)
    engine = QemuEngine(Probe(str(installed), "7.2.22", "tcg", "", None))
    assert shape() == "7.2.22"
    installed.unlink()  # a package manager is at it
    with pytest.raises(Missing):
        shape()
    install(host, VERSION.replace("7.2.22", "10.0.13"))
    assert shape() == "10.0.13"
