"""What agents do wrong: named exactly, with all that they had printed, and nobody else is hurt."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.conftest import Start
from tests.e2e.stage import Stage

from torpor.core.errors import GuestError, Invalid
from torpor.project.reading import read_agent

FAILURES = {
    "raise": ("LookupError", "no such thing"),
    "exit": ("SystemExit", "the agent called sys.exit(4); an agent ends by returning its result"),
    "os exit": ("AgentExited", "the agent's process ended: exit code 3"),
    "signal": ("AgentExited", "the agent's process ended: killed by SIGSEGV"),
    "memory": (
        "OutOfMemory",
        "the agent's process ended: it ran out of memory (the machine has 256 MiB; memory = "
        '"512M" in [tool.torpor] gives it more)',
    ),
    "result": (
        "TypeError",
        "the agent's result cannot be recorded: a value of type builtins.object is not JSON; "
        "return text, numbers, lists and dicts (or bytes, dates, dataclasses, …)",
    ),
}


def test_every_way_to_fail_has_its_own_words(start: Start) -> None:
    watches = {how: start("goes_wrong", how=how) for how in (*FAILURES, "nothing")}
    for how, (kind, message) in FAILURES.items():
        run = watches[how].ended()
        assert (run["state"], run["result"]) == ("failed", None)
        assert (run["error"]["type"], run["error"]["message"]) == (kind, message)
        assert watches[how].output() == "going wrong\n"
        if how == "raise":  # the agent's own lines, none of ours
            trace = run["error"]["traceback"].splitlines()
            assert [line.strip() for line in trace if line.startswith("  File")] == [
                line
                for line in map(str.strip, trace)
                if line.startswith('File "/home/agent/work/agents.py"')
            ]
        else:
            assert run["error"]["traceback"] is None
    run = watches["nothing"].ended()
    assert run["state"] == "completed"
    # The clock was right already when the file was imported.
    assert run["created_at"] - 86400 < run["result"] < run["created_at"]


def test_input_that_does_not_fit_makes_no_run(stage: Stage, start: Start) -> None:
    before = stage.client.runs()
    with pytest.raises(Invalid, match="missing: how; unknown: hwo") as refused:
        start("goes_wrong", hwo="raise")
    assert refused.value.hint == "goes_wrong takes how (text)."
    assert stage.client.runs() == before


def test_a_file_that_does_not_load_says_why(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import torpor\n\nprint('so far')\n\n{}['key']\ntorpor.agent(print)\n")
    with pytest.raises(GuestError) as refused:
        stage.client.deploy(read_agent(path), lambda stage, message, fraction: None)
    assert refused.value.message.splitlines() == [
        "broken.py does not load: KeyError: 'key'",
        "Traceback (most recent call last):",
        '  File "/home/agent/work/broken.py", line 5, in <module>',
        "    {}['key']",
        "    ~~^^^^^^^",
        "KeyError: 'key'",
    ]
