from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import torpor

# In namespaces of its own; what it mounts, names and brings up is gone with the process.
SCRIPT = """
import os, socket
from torpor.guest import boot
boot.prepare_machine()
boot.prepare_machine()  # what is there already is left alone
assert os.path.ismount("/run") and os.path.ismount("/dev/shm")
print(socket.gethostname())
"""


def test_a_machine_is_prepared() -> None:
    unshare = [shutil.which("unshare") or "unshare", "--mount", "--net", "--uts"]
    try:
        subprocess.run([*unshare, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no namespaces here: {error}")
    # The kernel's settings have no namespace: this host keeps its own.
    hidden = 'mount -t tmpfs none /proc/sys && exec "$@"'
    done = subprocess.run(
        [*unshare, "sh", "-c", hidden, "sh", sys.executable, "-S", "-E", "-c", SCRIPT],
        cwd=Path(torpor.__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("torpor\n", "")
