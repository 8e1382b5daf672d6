"""Snapshots verified and pinned, garbage, runs as files; on a service in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import Result

from torpor.client import Client

Torpor = Callable[..., Result]


def asleep(torpor: Torpor, agent: str, client: Client, **more: Any) -> str:
    script = json.dumps({"script": [["approve", "Go on?", None]], **more})
    run = torpor("run", agent, "--detach", "--input", script).stdout.strip()
    while client.run(run)["state"] != "suspended":
        pass
    return str(run)


def test_verifying(torpor: Torpor, agent: str, client: Client) -> None:
    run = asleep(torpor, agent, client)
    done = torpor("snapshots", run, "--verify")
    assert (done.exit_code, "ok" in done.stdout) == (0, True)
    bad = asleep(torpor, agent, client, damaged=True)
    done = torpor("snapshots", bad, "--verify")
    assert done.exit_code == 1
    assert "layer 00 is damaged" in done.stderr
    assert f"touches {bad}" in done.stderr
    done = torpor("snapshots", bad, "--verify", "--json")
    assert (done.exit_code, json.loads(done.stdout)["problems"][0]["runs"]) == (1, [bad])


def test_pinning(torpor: Torpor, agent: str, client: Client) -> None:
    run = asleep(torpor, agent, client)
    snapshot = client.snapshots(run)[0]["id"]
    assert f"{snapshot} is pinned" in torpor("snapshots", run, "--pin", snapshot).stderr
    assert "pinned" in torpor("snapshots", run).stdout
    done = torpor("snapshots", run, "--unpin", snapshot, "--json")
    assert json.loads(done.stdout)["pinned"] is False
    assert torpor("snapshots", run, "--pin", "snap_none").exit_code == 2
    assert torpor("snapshots", run, "--pin", snapshot, "--verify").exit_code == 2


def test_collecting(torpor: Torpor) -> None:
    done = torpor("gc", "--dry-run")
    assert done.exit_code == 0
    for said in ("would be removed", "3.4 MB, 3 files", "16.1 MB, 1 snapshot", "1 unfinished run"):
        assert said in done.stdout
    assert "would" not in torpor("gc").stdout
    assert json.loads(torpor("gc", "--json").stdout)["bytes"] == 3_400_000


def test_a_run_as_a_file(torpor: Torpor, agent: str, client: Client, tmp_path: Path) -> None:
    run = asleep(torpor, agent, client)
    file = tmp_path / "run.torpor"
    done = torpor("export", run, str(file))
    assert done.exit_code == 0, done.stderr
    assert file.stat().st_mode & 0o077 == 0, "it holds a machine's memory"
    assert file.stat().st_size > 3 << 20
    done = torpor("import", str(file))
    assert (done.exit_code, "is here already" in done.stderr) == (2, True)
    file.write_bytes(file.read_bytes().replace(run.encode(), b"run_another"))
    assert json.loads(torpor("import", str(file), "--json").stdout)["id"] == "run_another"
    assert torpor("import", str(tmp_path / "none")).exit_code == 2


def test_what_an_operation_gave(torpor: Torpor, agent: str, client: Client, tmp_path: Path) -> None:
    run = asleep(torpor, agent, client)
    file = tmp_path / "result"
    assert torpor("result", run, "step:a/b#1", "-o", str(file)).exit_code == 0
    assert file.read_bytes() == b"\x00\xffend"
    assert torpor("result", run, "step:a/b#1").stdout_bytes == b"\x00\xffend"
    none = torpor("result", run, "step:c#1")
    assert (none.exit_code, "no operation step:c#1" in none.stderr) == (2, True)


def test_an_export_that_fails_leaves_no_file(
    torpor: Torpor, agent: str, client: Client, tmp_path: Path
) -> None:
    assert torpor("export", "run_none", str(tmp_path / "run.torpor")).exit_code == 2
    run = asleep(torpor, agent, client)
    done = torpor("export", run, str(tmp_path / "none" / "run.torpor"))
    assert (done.exit_code, "there is no directory" in done.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_backing_up(torpor: Torpor, tmp_path: Path) -> None:
    done = torpor("backup", str(tmp_path / "kept"))
    assert done.exit_code == 0
    assert "3 runs, 1 of them unfinished, 2 snapshots" in done.stderr
    assert "without host.key" in done.stderr
    done = torpor("backup", str(tmp_path / "kept"), "--with-key", "--json")
    assert json.loads(done.stdout)["key"] is True
    done = torpor("backup", str(tmp_path / "damaged"))
    assert (done.exit_code, "layer 00 is missing" in done.stderr) == (1, True)
    done = torpor("backup", str(tmp_path / "taken"))
    assert (done.exit_code, "exists already" in done.stderr) == (2, True)
    done = torpor("restore", str(tmp_path))
    assert (done.exit_code, "not a backup of torpor" in done.stderr) == (2, True)
