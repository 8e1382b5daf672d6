"""A built directory appears at once, once, and whole; nothing else stays."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from torpor.core.errors import Exhausted
from torpor.image.publish import Workspace, build_once


def _visible(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir() if path.name != ".lock")


def _builder(content: str, started: list[str] | None = None) -> Callable[[Workspace], Path]:
    def build(workspace: Workspace) -> Path:
        if started is not None:
            started.append(content)
        (workspace.directory / "scratch").write_text("goes away")
        made = workspace.directory / "made"
        made.mkdir()
        (made / "file").write_text(content)
        return made

    return build


def test_a_result_is_built_once_and_scratch_goes(tmp_path: Path) -> None:
    started: list[str] = []
    result = tmp_path / "parent" / "name"
    assert build_once(result, _builder("first", started)) == result
    assert build_once(result, _builder("second", started)) == result
    assert (result / "file").read_text() == "first"
    assert started == ["first"]
    assert _visible(result.parent) == ["name"]


def test_a_single_file_can_be_the_result(tmp_path: Path) -> None:
    def build(workspace: Workspace) -> Path:
        (workspace.directory / "x").write_bytes(b"content")
        return workspace.directory / "x"

    assert build_once(tmp_path / "disk", build).read_bytes() == b"content"
    assert _visible(tmp_path) == ["disk"]


def test_racing_builders_share_one_result(tmp_path: Path) -> None:
    result = tmp_path / "name"
    started: list[str] = []
    second_waits = threading.Event()

    def slow(workspace: Workspace) -> Path:
        racer.start()
        assert second_waits.wait(10)
        assert not result.exists()
        return _builder("first", started)(workspace)

    racer = threading.Thread(
        target=build_once,
        args=(result, _builder("second", started)),
        kwargs={"waiting": second_waits.set},
    )
    build_once(result, slow)
    racer.join(10)
    assert started == ["first"]
    assert (result / "file").read_text() == "first"


def test_a_failed_build_leaves_nothing_and_the_next_one_succeeds(tmp_path: Path) -> None:
    def broken(workspace: Workspace) -> Path:
        (workspace.directory / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once(tmp_path / "name", broken)
    assert _visible(tmp_path) == []
    build_once(tmp_path / "name", _builder("whole"))


def test_a_full_disk_is_said_to_be_one(tmp_path: Path) -> None:
    def full(workspace: Workspace) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(Exhausted, match="disk filled up"):
        build_once(tmp_path / "name", full)
    assert _visible(tmp_path) == []


def test_what_a_killed_builder_left_is_removed_by_the_next(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from torpor.image.publish import build_once

def build(workspace):
    (workspace.directory / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)

build_once(Path(sys.argv[1]), build)
"""
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path / "name")], check=False)
    assert killed.returncode == -9
    (left,) = _visible(tmp_path)
    assert left.startswith(".tmp-")
    build_once(tmp_path / "other", _builder("whole"))
    assert _visible(tmp_path) == ["other"]


def test_a_program_that_outlives_its_builder_keeps_the_lock(tmp_path: Path) -> None:
    program = """
import os, signal, subprocess, sys
from pathlib import Path
from torpor.image.publish import build_once

def build(workspace):
    subprocess.Popen(["cat"], stdout=subprocess.DEVNULL, pass_fds=(workspace.lock_fd,))
    os.kill(os.getpid(), signal.SIGKILL)

build_once(Path(sys.argv[1]), build)
"""
    read_end, write_end = os.pipe()
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "name")], stdin=read_end, check=False
    )
    os.close(read_end)
    waited: list[bool] = []

    def end_the_orphan() -> None:  # cat ends with its input: only after we were told to wait
        waited.append(True)
        os.close(write_end)

    build_once(tmp_path / "name", _builder("after"), waiting=end_the_orphan)
    assert waited == [True]
    assert (tmp_path / "name" / "file").read_text() == "after"
