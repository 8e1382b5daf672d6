"""Names of images, opening them, empty disks, errors of the programs that build."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from torpor.core.errors import Exhausted, Missing, NotFound
from torpor.core.home import Home
from torpor.image import recipe, tools
from torpor.image.build import Image, image_digest, open_image
from torpor.image.bytecode import compile_tree

needs_mkfs = pytest.mark.skipif(
    shutil.which("mkfs.ext4", path="/usr/sbin:/sbin") is None, reason="e2fsprogs is not installed"
)


def test_an_image_is_named_by_root_and_guest_code() -> None:
    root, guest = {"root.erofs": "aa", "vmlinuz": "bb"}, {"a.py": b"1", "b.py": b"2"}
    digest = image_digest(root, guest)
    assert image_digest(dict(reversed(root.items())), dict(reversed(guest.items()))) == digest
    changed = [
        image_digest({**root, "vmlinuz": "cc"}, guest),
        image_digest(root, {**guest, "a.py": b"3"}),
        image_digest(root, {"a.py": b"1"}),
        image_digest(root, {"a.py": b"2", "b.py": b"1"}),
    ]
    assert len({digest, *changed}) == 5


def test_the_mirror_is_no_part_of_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe.digest()
    monkeypatch.setenv("TORPOR_DEBIAN_MIRROR", "http://mirror.example/debian")
    assert recipe.digest() == before
    assert recipe.command("/out")[-1] == "http://mirror.example/debian"


def test_the_recipes_script_is_valid() -> None:
    subprocess.run(["sh", "-n"], input=recipe.SCRIPT.encode(), check=True)


@pytest.mark.parametrize("digest", ["0" * 32, "..", "", "0" * 31 + "/"])
def test_an_absent_image_is_not_found(tmp_path: Path, digest: str) -> None:
    with pytest.raises(NotFound, match="no guest image"):
        open_image(Home(tmp_path).create(), digest)


@needs_mkfs
def test_an_empty_disk_is_sparse_valid_and_always_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one, two = (Image("0" * 32, tmp_path / name).disk(256) for name in ("a", "b"))
    body = one.read_bytes()
    assert len(body) == 256 << 20
    assert body == two.read_bytes()
    zero = bytes(4096)
    pages = (body[at : at + 4096] for at in range(0, len(body), 4096))
    assert sum(page != zero for page in pages) < 64
    subprocess.run(["/sbin/e2fsck", "-fn", one], check=True, capture_output=True)
    assert [p.name for p in (tmp_path / "a").iterdir() if p.name != ".lock"] == ["disk-256.ext4"]


def test_an_absent_program_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "PATH", "/nonexistent")
    with pytest.raises(Missing, match=r"mkfs\.erofs, mmdebstrap") as raised:
        tools.require("mkfs.erofs", "mmdebstrap")
    assert "torpor setup" in raised.value.hint


def test_a_failed_program_is_quoted() -> None:
    with pytest.raises(
        tools.ProgramFailed, match=r"sh failed with code 3:\n40\n(.*\n)+not today"
    ) as raised:
        tools.run(["sh", "-c", "seq 50; echo not today >&2; exit 3"])
    assert raised.value.output.startswith("1\n2\n")
    assert "1\n2\n" not in raised.value.message


def test_a_program_without_space_is_exhausted() -> None:
    with pytest.raises(Exhausted):
        tools.run(["sh", "-c", "echo 'write: No space left on device'; exit 1"])


def test_a_failing_listener_ends_the_program() -> None:
    def refuse(line: str) -> None:
        raise RuntimeError(line)

    # Not terminated, cat would wait for the end of a pipe that nobody closes.
    with pytest.raises(RuntimeError, match="first"):
        tools.run(["sh", "-c", "echo first; exec sleep 1000"], on_line=refuse)


@pytest.mark.skipif(
    sys.version_info[:2] != recipe.PYTHON
    and shutil.which(f"python{recipe.PYTHON_VERSION}") is None,
    reason=f"no Python {recipe.PYTHON_VERSION} to compile with",
)
def test_compiled_modules_are_never_checked_against_their_source(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text("x = 1\n")
    (tmp_path / "bad.py").write_text("print 'python 2'\n")
    assert compile_tree(tmp_path, "/shown")
    (compiled,) = (tmp_path / "__pycache__").iterdir()
    body = compiled.read_bytes()
    assert int.from_bytes(body[4:8], "little") == 0b01  # PEP 552: hash-based, not checked
    assert b"/shown/good.py" in body
    assert str(tmp_path).encode() not in body
