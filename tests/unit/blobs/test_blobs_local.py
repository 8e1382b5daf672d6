"""The blob store, and what is left of it when a put fails or dies at any system call."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from torpor.blobs.local import LocalBlobs
from torpor.blobs.protocol import Blob
from torpor.core.errors import Exhausted, HostError

NAMES = ("ab" * 32, "cd" * 32)
BLOBS = (
    Blob("layers", NAMES[0], (b"one", b"", b"two" * 5000)),
    Blob("manifests", NAMES[1], (b"three",)),
)


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


COMPLETE = {
    f"layers/ab/{NAMES[0]}": b"one" + b"two" * 5000,
    f"manifests/cd/{NAMES[1]}": b"three",
}


def test_put_all_stores_all(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    blobs.put_all(BLOBS)
    assert files(tmp_path) == COMPLETE
    path = blobs.materialize("layers", NAMES[0])
    assert path.stat().st_mode & 0o077 == 0, "memory is private"


def test_many_small_chunks_are_one_file(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    chunks = [bytes([i % 256]) for i in range(3000)]
    blobs.put("layers", NAMES[0], chunks)
    assert blobs.get("layers", NAMES[0]) == b"".join(chunks)


def test_an_existing_name_is_left_alone(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    blobs.put_all(BLOBS)
    inodes = {name: (tmp_path / name).stat().st_ino for name in COMPLETE}
    blobs.put_all(BLOBS)
    assert {name: (tmp_path / name).stat().st_ino for name in COMPLETE} == inodes


def test_many_threads_may_put_the_same(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: blobs.put_all(BLOBS), range(30)))
    assert files(tmp_path) == COMPLETE


def test_sweep_removes_what_the_dead_left(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    blobs.put_all(BLOBS)
    (tmp_path / "tmp" / "left").write_bytes(b"x")
    assert blobs.sweep() == 1
    assert files(tmp_path) == COMPLETE


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, bufs: real(fd, [bytes(bufs[0])[:7]]))
    LocalBlobs(tmp_path).put_all(BLOBS)
    assert files(tmp_path) == COMPLETE


CALLS = ("open", "writev", "fsync", "rename", "mkdir")


def failing(call: str, at: int, then: Callable[[], None]) -> tuple[Callable[..., Any], list[int]]:
    """The system call, doing `then` instead the `at`th time; and how often it was called."""
    real = getattr(os, call)
    count = [0]

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        if count[0] == at:
            then()
        return real(*args, **kwargs)

    return wrapper, count


def points(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Every (call, n) that a put of BLOBS into an empty store makes."""
    for call in CALLS:
        with pytest.MonkeyPatch.context() as patch:
            wrapper, count = failing(call, 0, lambda: None)
            patch.setattr(os, call, wrapper)
            LocalBlobs(tmp_path / f"count-{call}").put_all(BLOBS)
        assert count[0], call
        yield from ((call, n) for n in range(1, count[0] + 1))


@pytest.mark.parametrize(
    ("code", "error"),
    [(errno.ENOSPC, Exhausted), (errno.EDQUOT, Exhausted), (errno.EIO, HostError)],
)
def test_a_put_that_fails_anywhere_leaves_nothing_half_done(
    tmp_path: Path, code: int, error: type[Exception]
) -> None:
    def fail() -> None:
        raise OSError(code, os.strerror(code))

    for call, n in points(tmp_path):
        root = tmp_path / f"{call}-{n}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, call, failing(call, n, fail)[0])
            with pytest.raises(error):
                LocalBlobs(root).put_all(BLOBS)
        left = files(root) if root.exists() else {}
        assert left.items() <= COMPLETE.items(), (call, n)
        if call in ("open", "writev"):
            # No fsync came after these but those of directories, whose names were given.
            assert left in ({}, COMPLETE), (call, n)
        LocalBlobs(root).put_all(BLOBS)
        assert files(root) == COMPLETE, "it can be tried again"


CRASH = """
import os, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_blobs_local import BLOBS, failing
from torpor.blobs.local import LocalBlobs
call, n, root = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
LocalBlobs(root)  # made before, like a server does
setattr(os, call, failing(call, n, lambda: os._exit(9))[0])
LocalBlobs(root).put_all(BLOBS)
"""


@pytest.mark.parametrize(("call", "n"), [("writev", 2), ("fsync", 3), ("rename", 1), ("rename", 2)])
def test_a_process_that_dies_leaves_nothing_half_visible(tmp_path: Path, call: str, n: int) -> None:
    code = CRASH.format(here=str(Path(__file__).parent))
    command = [sys.executable, "-c", code, call, str(n), str(tmp_path)]
    assert subprocess.run(command, timeout=60, check=False).returncode == 9
    blobs = LocalBlobs(tmp_path)
    blobs.sweep()
    left = files(tmp_path)
    assert left.items() <= COMPLETE.items()
    assert len(left) == (n - 1 if call == "rename" else 0)
    assert f"manifests/cd/{NAMES[1]}" not in left, "what refers to others comes last"
    blobs.put_all(BLOBS)
    assert files(tmp_path) == COMPLETE


FULL = """
import os, subprocess, sys
from pathlib import Path
from torpor.blobs.local import LocalBlobs
from torpor.blobs.protocol import Blob
from torpor.core.errors import Exhausted
root = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(root)], check=True)
blobs = LocalBlobs(root)
try:
    large, small = (bytes(3 << 20),), (b"x",)
    blobs.put_all([Blob("layers", "ab" * 32, large), Blob("manifests", "cd" * 32, small)])
except Exhausted as error:
    assert error.hint
    print([p.name for p in root.rglob("*") if p.is_file()])
blobs.put("layers", "ef" * 32, [bytes(900 << 10)])
print(blobs.exists("layers", "ef" * 32))
"""


def test_a_full_disk(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is not installed: no small file system to fill")
    space = [unshare, "--user", "--map-root-user", "--mount"]
    probe = [*space, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]
    if subprocess.run(probe, capture_output=True, timeout=30, check=False).returncode:
        pytest.skip("this host does not let us mount a small file system to fill")
    done = subprocess.run(
        [*space, sys.executable, "-c", FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "True"]


def test_a_put_of_what_is_old_makes_it_young(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    blobs.put("layers", NAMES[0], [b"one"])
    os.utime(blobs.materialize("layers", NAMES[0]), (1.0, 1.0))
    assert blobs.is_unused("layers", NAMES[0], before=2.0)
    blobs.put("layers", NAMES[0], [b"one"])
    assert not blobs.is_unused("layers", NAMES[0], before=2.0)


HOLDER = """
import os, signal, sys
from pathlib import Path
from torpor.blobs.local import LocalBlobs
with LocalBlobs(Path(sys.argv[1])).held("layers", [sys.argv[2]]):
    print("held", flush=True)
    signal.pause()
"""


def test_a_hold_of_a_process_that_is_killed_ends_with_it(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    blobs.put("layers", NAMES[0], [b"one"])
    later = blobs.present("layers")[0].touched_at + 1
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), NAMES[0]], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        (hold,) = blobs.holds()
        assert f"-{holder.pid}-" in hold.owner
        assert not blobs.delete_unused("layers", NAMES[0], before=later)
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()
    assert blobs.holds() == []
    assert len(list((tmp_path / "holds").iterdir())) == 1, "its record is there"
    assert blobs.delete_unused("layers", NAMES[0], before=later)
    blobs.sweep()
    assert list((tmp_path / "holds").iterdir()) == []


def test_a_hold_that_cannot_be_recorded_holds_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    blobs = LocalBlobs(tmp_path)
    blobs.put("layers", NAMES[0], [b"one"])
    later = blobs.present("layers")[0].touched_at + 1
    monkeypatch.setattr(Path, "write_text", full)
    with blobs.held("layers", [NAMES[0]]):
        assert not blobs.delete_unused("layers", NAMES[0], before=later)
    assert blobs.delete_unused("layers", NAMES[0], before=later)
