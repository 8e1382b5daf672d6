# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "cryptography", "grpcio", "lxml", "numpy", "orjson", "pandas", "pillow", "psycopg[binary]",
#     "pydantic-core", "pyzmq", "tiktoken", "tokenizers",
# ]
# [tool.torpor]
# memory = "768M"
# disk = "128M"
# max_import = "10m"
# ///
"""A dozen of the packages of scripts/wheels.txt in a machine, with its kernel and its processor."""

import subprocess
from importlib import import_module

import torpor

MODULES = (
    "cryptography.hazmat.bindings._rust",
    "grpc._cython.cygrpc",
    "lxml.etree",
    "numpy",
    "orjson",
    "pandas",
    "PIL._imaging",
    "psycopg",
    "pydantic_core",
    "zmq",
    "tiktoken",
    "tokenizers",
)
loaded = {name: import_module(name) for name in MODULES}


def said(*command: str) -> str:
    return subprocess.check_output(command, text=True).strip()


@torpor.agent
def go() -> dict[str, object]:
    table = loaded["pandas"].DataFrame({"a": loaded["numpy"].arange(5)})
    said("git", "init", "-q", "there")
    return {
        "sum": int(table.a.sum()),
        "text": loaded["lxml.etree"].fromstring("<a>b</a>").text,
        "json": loaded["orjson"].loads(b"[1]"),
        "psycopg": loaded["psycopg"].pq.__impl__,
        "git": said("git", "-C", "there", "rev-parse", "--is-inside-work-tree"),
        "curl": said("curl", "--version").split()[0],
        # A program of a dependency, in a Python of its own that finds the others.
        "program": said("f2py", "-v").split(".")[0],
    }
