"""Whatever the description of the API allows to be asked, and much that it does not, is answered:
never by a failure of the server's.

Schemathesis makes the requests from /openapi.json; they go to a server process by TCP, with a key.
What would end the server, write to this host's file system, or install packages is asked of the
service in memory instead. The same requests each time.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok

from torpor.client import Client, stop_server
from torpor.core.home import Home

LIMIT_S = 30
# Asked of the service in memory, which deploys, copies and imports nothing.
IN_MEMORY = {("POST", "/v1/agents"), ("POST", "/v1/backups"), ("POST", "/v1/dashboard/links")}
NEVER = {("POST", "/v1/shutdown")}
FEW = settings(
    max_examples=8,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@contextmanager
def serving(*command: str) -> Iterator[tuple[str, str]]:
    """(URL, key) of a server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{free.getsockname()[1]}"
    with tempfile.TemporaryDirectory(prefix="torpor-") as folder:
        home = Home(Path(folder)).create()
        environment = os.environ | {"TORPOR_LISTEN": at, "TORPOR_ENGINE": "process"}
        with (home.root / "log").open("w") as log:
            process = subprocess.Popen([*command, folder], env=environment, stderr=log)
            until = time.monotonic() + LIMIT_S
            while not (home.run / "server.json").exists() and time.monotonic() < until:
                assert process.poll() is None, (home.root / "log").read_text()
                time.sleep(0.05)
            try:
                yield f"http://{at}", Client(home).create_key("test", ["admin"])["key"]
            finally:
                stop_server(home)
                process.wait(LIMIT_S)


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[bool, tuple[str, str]]]:
    """By whether it is in memory."""
    with (
        serving(sys.executable, "-m", "torpor.api", "--home") as real,
        serving(sys.executable, "-m", "torpor.testing.fakes.service") as memory,
    ):
        yield {False: real, True: memory}


def test_no_request_makes_the_server_fail(servers: dict[bool, tuple[str, str]]) -> None:
    asked = 0
    for in_memory, (url, key) in servers.items():
        headers = {"authorization": f"Bearer {key}"}
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=headers)
        for found in schema.get_all_operations():
            assert isinstance(found, Ok), found
            operation = found.ok()
            named = operation.method.upper(), operation.path
            if named not in NEVER and (named in IN_MEMORY) is in_memory:
                asked += ask(operation.as_strategy(), headers)
    assert asked > 100


def ask(cases: SearchStrategy[Any], headers: dict[str, str]) -> int:
    """Some of these requests; how many it were."""
    asked = 0

    @FEW
    @given(cases)
    def each(case: Any) -> None:
        nonlocal asked
        asked += 1
        answer = case.call(headers=headers, timeout=LIMIT_S)
        case.validate_response(answer, checks=[not_a_server_error])

    each()
    return asked
