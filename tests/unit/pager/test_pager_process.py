"""The pager's process: started once, ends cleanly, recovers from one that was killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torpor.core.errors import HostError, Missing
from torpor.pager import launch
from torpor.pager.client import PagerClient
from torpor.pager.launch import ensure_pager
from torpor.pager.server import device_of
from torpor.snapshot.layer import PAGE

MEMORY = b"m" * (20 * PAGE)
Until = Callable[[Callable[[], bool], str], None]


def close_dead(fd: int) -> None:
    """Close a file whose file system is gone, which Linux tells the closer of."""
    with contextlib.suppress(OSError):
        os.close(fd)


def test_racing_starters_get_the_same_pager(idle_pager: Any) -> None:
    async def race() -> set[int]:
        clients = await asyncio.gather(*(ensure_pager(idle_pager.home) for _ in range(3)))
        pids = {(await client.ping())["pid"] for client in clients}
        for client in clients:
            await client.close()
        return pids

    (pid,) = asyncio.run(race())
    assert idle_pager.start() == pid


@pytest.mark.parametrize("end", ["signal", "request"])
def test_it_ends_without_a_trace_whoever_uses_its_files(
    idle_pager: Any, until: Until, end: str
) -> None:
    pid = idle_pager.start()
    idle_pager.slot("held", MEMORY, MEMORY, hot=(1, 2))
    held = os.open(idle_pager.path("held"), os.O_RDONLY)
    idle_pager.ask("create", "unbound", len(MEMORY), 0)
    reader = os.fork()
    if reader == 0:
        try:
            idle_pager.path("unbound").read_bytes()
        except OSError:
            os._exit(5)
        os._exit(0)
    until(lambda: idle_pager.state(reader) in "SD", "waiting in its read")
    if end == "signal":
        os.kill(pid, signal.SIGTERM)
    else:
        idle_pager.ask("shutdown")
    until(lambda: not idle_pager.alive(pid), "ended")
    assert os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) == 5
    assert device_of(idle_pager.home.mount) is None
    assert not idle_pager.home.socket("pager").exists()
    with pytest.raises(OSError):
        os.pread(held, PAGE, 10 * PAGE)
    close_dead(held)


def test_it_ends_when_somebody_unmounts_it(idle_pager: Any, until: Until) -> None:
    pid = idle_pager.start()
    subprocess.run(["fusermount3", "-u", str(idle_pager.home.mount)], check=True)
    until(lambda: not idle_pager.alive(pid), "ended")
    assert not idle_pager.home.socket("pager").exists()


def test_a_killed_pager_is_missed_and_the_next_one_clears_what_it_left(
    idle_pager: Any, until: Until
) -> None:
    async def scenario() -> None:
        client: PagerClient = await ensure_pager(idle_pager.home)
        pid = (await client.ping())["pid"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: not idle_pager.alive(pid), "killed")
        with pytest.raises(Missing):
            await client.ping()
        assert device_of(idle_pager.home.mount) is not None
        await (await ensure_pager(idle_pager.home)).close()
        assert (await client.ping())["pid"] != pid
        await client.close()

    idle_pager.start()
    idle_pager.slot("lost", MEMORY, MEMORY)
    overlay = Path(idle_pager.ask("dirty", "lost")["overlay"])
    held = os.open(idle_pager.path("lost"), os.O_RDONLY)
    asyncio.run(scenario())
    close_dead(held)
    assert list(idle_pager.home.mount.iterdir()) == []
    assert not overlay.exists()
    idle_pager.slot("lost", MEMORY, MEMORY)
    assert idle_pager.path("lost").read_bytes() == MEMORY


def test_a_second_process_on_the_same_directory_ends_at_once(pager: Any) -> None:
    second = [sys.executable, "-m", "torpor.pager", "--home", str(pager.home.root)]
    assert subprocess.run(second, check=False, stderr=subprocess.DEVNULL).returncode == 0
    assert pager.ask("ping")["pid"] == pager.start()


def test_without_fuse_the_error_says_so(idle_pager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "FUSE_DEVICE", Path("/dev/no-fuse-here"))
    with pytest.raises(Missing, match="/dev/no-fuse-here does not exist"):
        idle_pager.start()
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Missing, match="fusermount3"):
        idle_pager.start()


def test_a_start_that_fails_shows_the_end_of_the_log(idle_pager: Any) -> None:
    idle_pager.home.mount.write_text("in the way")
    with pytest.raises(HostError, match="ended with status 1") as failed:
        idle_pager.start()
    assert "FileExistsError" in failed.value.message
    idle_pager.home.mount.unlink()


def test_a_pager_that_is_not_there_is_missing(idle_pager: Any) -> None:
    with pytest.raises(Missing, match="does not answer"):
        idle_pager.ask("ping")
