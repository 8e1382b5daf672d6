"""Commands in a real machine, of a run that sleeps: the command line's side is the user's own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from typing import Any

from tests.e2e.conftest import Start
from tests.e2e.stage import Stage

from torpor.client.execs import Exec

WORK = "/home/agent/work"


def ran(stage: Stage, run: str, *command: str, **more: Any) -> tuple[int | None, bytes]:
    with stage.client.exec(run, {"command": list(command), **more}) as each:
        return _told(each)


def _told(command: Exec) -> tuple[int | None, bytes]:
    text, code = b"", None
    for event in command.events():
        if isinstance(event, tuple):
            text += event[1]
        elif "code" in event:
            code = event["code"]
    return code, text


def test_commands_beside_an_agent_that_sleeps(stage: Stage, start: Start) -> None:
    watch = start("gathered", lines=1)
    watch.until("run.suspended")
    script = f"id -un; pwd; ls -d {WORK}; python3 -c 'import torpor'; exit 7"
    code, text = ran(stage, watch.run, "sh", "-c", script)
    assert code == 7 and text.decode().splitlines()[1:] == [WORK, WORK], text
    assert ran(stage, watch.run, "no-such-program") == (127, b"")
    code, text = ran(stage, watch.run, "id", "-u", user="root")
    assert (code, text) == (0, b"0\n")
    # Several in turn, beside one that stays: a terminal, whose size changes.
    asked = {"command": ["sh"], "stdin": True, "terminal": {"rows": 30, "cols": 100}}
    with stage.client.exec(watch.run, asked) as shell:
        events = shell.events()
        text, said, typing = b"", 0, None
        lines = [b"stty size\n", b"stty size\n", b"sleep 1000\n\x03", b"exit 3\n"]

        def typed() -> Any:
            for line in lines:
                ready.acquire()
                yield line

        ready = threading.Semaphore(1)
        for event in events:
            if isinstance(event, dict) and "began" in event:
                typing = threading.Thread(target=shell.feed, args=(typed(),))
                typing.start()
            text += event[1] if isinstance(event, tuple) else b""
            if said == 0 and b"30 100\r\n" in text:
                shell.resize(50, 200)
                data = os.urandom(3_000_000)
                assert _through(stage, watch.run, data) == hashlib.sha256(data).hexdigest()
                said = 1
                ready.release()
            elif said == 1 and b"50 200\r\n" in text:
                said = 2
                ready.release()
            elif said == 2 and b"^C" in text:
                said = 3
                ready.release()
        assert typing is not None and event == {"code": 3, "signal": None, "problem": ""}
        typing.join()
    suspended = watch.until("run.suspended")
    assert watch.count("run.resumed") >= 1
    assert watch.count("exec.begin") == watch.count("exec.end") == 5, watch
    assert suspended["seq"] > 0
    (wait,) = stage.client.waits(watch.run)
    stage.client.complete(wait["id"], data=1)
    assert watch.ended()["result"] == [0], watch


def _through(stage: Stage, run: str, data: bytes) -> str:
    """What a machine's `sha256sum` says of what the command line is given, by a slow pipe."""
    environment = {**os.environ, "TORPOR_HOME": str(stage.home.root)}
    command = [sys.executable, "-m", "torpor.cli.main", "exec", "-i", run, "sha256sum"]
    done = subprocess.run(
        command, input=data, capture_output=True, env=environment, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[0].decode()
