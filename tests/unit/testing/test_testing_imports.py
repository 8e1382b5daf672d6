"""Tests of agents load no server."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import torpor.testing
heavy = ("control", "worker", "logstore", "service", "api", "testing.fakes")
loaded = {each for each in heavy if f"torpor.{each}" in sys.modules}
print(sorted(loaded | {"sqlalchemy", "pydantic", "fastapi"} & sys.modules.keys()))
"""


def test_what_tests_of_agents_import_is_light() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
