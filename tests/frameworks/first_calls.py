"""`scripts/frameworks.py --first`: how long an agent's first model call takes, where its machine
has a warm hook and where not, beside the same agent without a machine.

The agent itself takes the time, by the machine's clock: from before its framework is called until
it has the fake model's answer. Its second call is what the first would take if nothing were lazy.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tests.e2e.stage import Server, Watch, base_home, own_home
from tests.frameworks.fake_model import FakeModel
from tests.frameworks.matrix import AGENTS

from torpor.project.reading import read_agent

FILES = {
    "openai": "first_openai.py",
    "pydantic-ai": "first_pydantic_ai.py",
    "langgraph": "first_langgraph.py",
}
# How an agent is carried, and the environment of its file.
WAYS = {
    "without a machine": ("process", {}),
    "in a machine": ("qemu", {}),
    "in a machine, warmed": ("qemu", {"WARM": "1"}),
}


@dataclass(frozen=True)
class Calls:
    """Medians, in seconds."""

    framework: str
    way: str
    first_s: float
    second_s: float
    runs: int


def measure(names: Sequence[str], runs: int) -> Iterator[Calls]:
    """Raises AssertionError if a hook's call has reached the model."""
    model, scripts = FakeModel(), itertools.count(1)
    with own_home(base_home()) as home:
        server = Server(home, model.url)
        try:
            server.start()
            for name, (way, (engine, env)) in itertools.product(names, WAYS.items()):
                source = replace(read_agent(AGENTS / FILES[name]), env=env)
                deployed = server.client.deploy(source, lambda *_: None, engine)
                assert not model.payments("warm")
                took = []
                for _ in range(runs):
                    given = {"script": str(next(scripts))}
                    run = server.client.start(deployed["version"], "main", given, None)
                    ended = Watch(server.client, str(run["id"])).ended()
                    assert ended["state"] == "completed", ended["error"]
                    took.append(ended["result"])
                first, second = (statistics.median(each) for each in zip(*took, strict=True))
                yield Calls(name, way, first, second, runs)
            server.stop()
        finally:
            server.clear()
            model.close()
