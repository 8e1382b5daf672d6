"""Frameworks against kill -9, as a table: `scripts/frameworks.py --help`. It is in
`tests/frameworks/__main__.py`, beside what its tests run."""

import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
runpy.run_module("tests.frameworks", run_name="__main__", alter_sys=True)
