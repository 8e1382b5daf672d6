"""Runs the agent of a framework against the fake model, strikes where `blows.py` says, and reports
what came of it.

Nothing is struck by chance: the model holds its answer, or the agent holds itself, until the victim
is dead.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.stage import Entry, Server, Watch, base_home, end, own_home
from tests.frameworks.blows import ASLEEP, PLACES, WAITING, Blow, InCall, Outcome, holds
from tests.frameworks.fake_model import Ask, FakeModel, Hold

from torpor.project.reading import read_agent

AGENTS = Path(__file__).parent / "agents"
FINAL = ("completed", "failed", "cancelled")


@dataclass(frozen=True)
class Framework:
    title: str
    file: str
    agent: str = "payer"
    heavy: bool = False  # an emulated machine imports it for minutes


FRAMEWORKS = {
    "openai": Framework("OpenAI SDK", "with_openai.py", "chat"),
    "responses": Framework("OpenAI SDK, Responses as a stream", "with_openai.py", "responses"),
    "agents-sdk": Framework("OpenAI Agents SDK", "with_agents_sdk.py"),
    "pydantic-ai": Framework("Pydantic AI", "with_pydantic_ai.py"),
    "langgraph": Framework("LangGraph", "with_langgraph.py"),
    "mcp": Framework("MCP over stdio", "with_mcp.py"),
    "smolagents": Framework("smolagents", "with_smolagents.py"),
    "litellm": Framework("LiteLLM", "with_litellm.py", heavy=True),
    "dspy": Framework("DSPy", "with_dspy.py", heavy=True),
    "crewai": Framework("CrewAI", "with_crewai.py", heavy=True),
}


class Matrix:
    """One server and one fake model. Agents are deployed when they are first needed."""

    def __init__(self, server: Server, model: FakeModel, engine: str) -> None:
        self._server, self._model, self._engine = server, model, engine
        self._versions: dict[str, str] = {}
        self._deploying = threading.Lock()
        self._scripts = itertools.count(1)

    def deploy(self, framework: Framework) -> str:
        with self._deploying:
            if framework.file not in self._versions:
                source = read_agent(AGENTS / framework.file)
                deployed = self._server.client.deploy(source, lambda *_: None, self._engine)
                self._versions[framework.file] = str(deployed["version"])
            return self._versions[framework.file]

    def run(self, framework: Framework, blows: Sequence[Blow]) -> Outcome:
        """One run, struck by each of the blows."""
        version = self.deploy(framework)
        blows = sorted(blows, key=lambda blow: PLACES.index(blow.place))
        struck = _Struck(self._server, self._model, str(next(self._scripts)))
        return struck.run(version, framework.agent, blows)


@contextmanager
def matrix_of(engine: str) -> Iterator[Matrix]:
    """With a server and a model of its own."""
    model = FakeModel()
    with own_home(base_home()) as home:
        server = Server(home, model.url)
        try:
            server.start()
            yield Matrix(server, model, engine)
            server.stop()
        finally:
            server.clear()
            model.close()


class _Struck:
    """A run that is struck."""

    def __init__(self, server: Server, model: FakeModel, script: str) -> None:
        self._server, self._model, self._script = server, model, script
        self._asleep = self._approved = False

    def run(self, version: str, agent: str, blows: Sequence[Blow]) -> Outcome:
        calls = {
            n: self._call(blows, n) for n, b in enumerate(blows) if isinstance(b.place, InCall)
        }
        for hold in calls.values():
            self._model.hold(hold)
        refused = len(self._model.refused)
        plan = {"script": self._script, "holds": holds(blows)}
        client = self._server.client
        self._run = str(client.start(version, agent, {"plan": plan}, None)["id"])
        self._watch = Watch(client, self._run)
        missed = ""
        try:
            for number, blow in enumerate(blows):
                if PLACES.index(blow.place) > PLACES.index(ASLEEP):
                    self._approve()
                self._reach(blow, calls.get(number))
                self._strike(blow, calls.get(number))
            self._approve()
            self._watch.ended()
        except AssertionError as error:  # it did not come there
            missed = str(error).splitlines()[0]
            if client.run(self._run)["state"] not in FINAL:
                client.cancel(self._run)
        finally:
            for hold in calls.values():
                self._model.release(hold)
        return self._outcome(missed, self._model.refused[refused:])

    def _call(self, blows: Sequence[Blow], number: int) -> Hold:
        """The request that is to be held: what is in flight outlives all but its broker."""
        place = blows[number].place
        assert isinstance(place, InCall)
        again = sum(
            blow.victim == "broker"
            and isinstance(blow.place, InCall)
            and blow.place.turn == place.turn
            for blow in blows[:number]
        )
        return Hold(Ask(self._script, place.turn, 1 + again), place.when)

    def _reach(self, blow: Blow, hold: Hold | None) -> None:
        if hold is not None:
            self._model.wait_held(hold, unless=self._is_over)
        elif blow.place == WAITING:
            self._watch.until("op.begin", lambda entry: entry["op"].startswith("wait:"))
        elif blow.place == ASLEEP:
            self._sleep()
        else:
            here = {"place": blow.place}
            self._watch.until("note.log", lambda entry: entry["data"]["data"] == here)

    def _strike(self, blow: Blow, hold: Hold | None) -> None:
        """What was held goes on: beside a server that is down, or when the run has recovered."""
        if blow.victim == "server":
            self._server.kill()
            if hold is not None:
                self._model.release(hold)
            self._server.start()
        elif blow.victim == "broker":
            for pid in self._server.processes("torpor.egress"):
                end(pid)
        else:
            end(self._machine())
        if blow.ends_epoch:
            self._watch.until("run.recovered")
            self._watch.until("machine.up")
        if hold is not None:
            self._model.release(hold)

    def _machine(self) -> int:
        machine = self._server.client.run(self._run)["machine"]
        assert machine is not None and machine["pid"] is not None, f"nothing to kill: {machine}"
        return int(machine["pid"])

    def _sleep(self) -> None:
        if not self._asleep:
            self._watch.until("run.suspended")
            self._asleep = True

    def _approve(self) -> None:
        if not self._approved:
            self._sleep()
            (wait,) = self._server.client.waits(self._run)
            self._server.client.complete(wait["id"], approved=True)
            self._approved = True

    def _is_over(self) -> bool:
        return self._server.client.run(self._run)["state"] in FINAL

    def _outcome(self, missed: str, refused: Sequence[str]) -> Outcome:
        row = self._server.client.run(self._run)
        entries = list(self._server.client.entries(self._run))
        return Outcome(
            state=row["state"],
            result=row["result"],
            error=missed or row["error"],
            payments=self._model.payments(self._script),
            effects=Counter(_keys(entries)),
            again=Counter(e["op"] for e in entries if e["kind"] == "op.again"),
            slept=self._asleep,
            refused=refused,
        )


def _keys(entries: Sequence[Entry]) -> list[str]:
    """The idempotency key of each payment that was made, as often as it was."""
    notes = [entry["data"] for entry in entries if entry["kind"] == "note.log"]
    return [note["data"]["key"] for note in notes if note["message"] == "paid"]
