"""Commands without a terminal, against a real server on a service in memory."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from torpor.cli import complete
from torpor.client import Client, Ended
from torpor.core.home import Home

LIMIT_S = 20

Torpor = Callable[..., Result]


def script(*steps: Any) -> str:
    return json.dumps({"script": steps})


def ended(client: Client, run: str) -> dict[str, Any]:
    assert isinstance(list(client.follow(run))[-1], Ended)
    return client.run(run)


def detached(torpor: Torpor, agent: str, *steps: Any) -> str:
    done = torpor("run", agent, "--detach", "--input", script(*steps))
    assert done.exit_code == 0
    return str(done.stdout.strip())


def suspended(client: Client, run: str) -> dict[str, Any]:
    """The run's open wait, once it sleeps for it."""
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        if client.run(run)["state"] == "suspended":
            return client.waits(run)[0]
    raise AssertionError("it never slept")


def test_a_result_is_on_stdout_and_all_talk_on_stderr(torpor: Torpor, agent: str) -> None:
    steps = (["print", "one\ntw"], ["log", "noted"], ["return", {"x": [1]}])
    done = torpor("run", agent, "--input", script(*steps))
    assert done.exit_code == 0
    assert done.stdout == 'one\ntw\n{\n  "x": [\n    1\n  ]\n}\n'
    assert "noted n=1" in done.stderr
    assert "completed · ran" in done.stderr


def test_json_is_one_document(torpor: Torpor, agent: str) -> None:
    done = torpor("run", agent, "--json", "--input", script(["print", "out\n"], ["return", "text"]))
    assert json.loads(done.stdout)["result"] == "text"
    assert "out" in done.stderr


def test_a_text_result_is_plain_and_none_is_nothing(torpor: Torpor, agent: str) -> None:
    assert torpor("run", agent, "-i", 'script=[["return", "a\\nb"]]').stdout == "a\nb\n"
    assert torpor("run", agent).stdout == ""


def test_a_failed_run_exits_1_with_the_agents_traceback(torpor: Torpor, agent: str) -> None:
    done = torpor("run", agent, "--input", script(["fail", "ValueError", "no such topic"]))
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "agent.py, line 1" in done.stderr
    assert "failed: ValueError: no such topic" in done.stderr


def test_a_run_that_misses_a_file_which_is_here_says_so(
    torpor: Torpor, agent: str, tmp_path: Path
) -> None:
    here = tmp_path / "agent.py"
    here.write_bytes(Path(agent).read_bytes())
    (tmp_path / "notes.txt").touch()
    message = "[Errno 2] No such file or directory: 'notes.txt'"
    failing = script(["fail", "FileNotFoundError", message])
    done = torpor("run", str(here), "--input", failing)
    assert done.exit_code == 1
    assert 'include = ["notes.txt"]' in " ".join(done.stderr.split())
    assert "include" not in torpor("run", agent, "--input", failing).stderr


def test_without_a_terminal_a_wait_tells_how_to_answer(
    program: list[str], agent: str, client: Client
) -> None:
    steps = (["wait", "Unattended?", None], ["return", 1])
    command = [*program, "run", agent, "--input", script(*steps)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        told = ""
        while (asked := re.search(r"torpor complete (wait_\w+)", told)) is None:
            line = process.stderr.readline()
            assert line, told
            told += line
        while "asleep" not in told:  # who answers sooner finds it awake
            line = process.stderr.readline()
            assert line, told
            told += line
        client.complete(asked.group(1), data=5)
        out, rest = process.communicate(timeout=LIMIT_S)
    told += rest
    assert (process.returncode, out) == (0, "1\n")
    assert "waiting: Unattended?" in told
    assert "asleep: waiting for an answer: Unattended? · 1.2 MB · freed the machine" in told
    assert "awake in 120 ms" in told


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--input", "{"], "not valid JSON"),
        (["--input", "[1]"], "must be a JSON object"),
        (["--input", "@/nowhere"], "cannot read"),
        (["-i", "novalue"], "KEY=VALUE"),
        (["-i", "a=@/nowhere"], "cannot read"),
        (["-i", "a=1e400"], "larger than a number can be"),
        (["-i", "a=" + "9" * 5000], "4,300 digits"),
        (["-i", 'a="\\ud800"'], "surrogate"),
        (["-i", "a=" + "[" * 65 + "]" * 65], "nested more than 64 deep"),
        (["--input", '{"a": NaN}'], "NaN is not JSON"),
        (["--input", '{"a": 1e400}'], "larger than a number can be"),
        (["--input", '{"a": ' * 65 + "1" + "}" * 65], "nested more than 64 deep"),
        (["--colour"], "No such option"),
    ],
)
def test_usage_errors_exit_2(torpor: Torpor, agent: str, args: list[str], says: str) -> None:
    done = torpor("run", agent, *args, env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert says in done.stderr


def test_what_is_no_text_is_refused_in_words(torpor: Torpor, agent: str) -> None:
    """Arguments that are not UTF-8 come as halves of surrogate pairs."""
    for args in (["-i", "a=\udcff"], ["-i", "\udcff=1"], ["--id-key", "\udcff"]):
        done = torpor("run", agent, "-d", *args)
        assert (done.exit_code, "the value holds half" in done.stderr) == (2, True)
        assert "internal error" not in done.stderr
    done = torpor("show", "run_\udcff")
    assert (done.exit_code, "is not text" in done.stderr) == (2, True)


def test_input_from_every_side(torpor: Torpor, agent: str, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "in.txt"
    file.write_text("a file's text")
    pairs = ("n=1", "t=plain text", "u=a=b", f"f=@{file}", 'q="1"', "x=NaN")
    given = [part for pair in pairs for part in ("-i", pair)]
    done = torpor("run", agent, "-d", "--input", "-", *given, input='{"n": 0, "whole": true}')
    assert client.run(done.stdout.strip())["input"] == {
        "n": 1,
        "whole": True,
        "t": "plain text",
        "u": "a=b",
        "f": "a file's text",
        "q": "1",
        "x": "NaN",
    }


def test_a_typed_parameter_is_read_as_its_annotation_says(
    torpor: Torpor, agent: str, client: Client
) -> None:
    pairs = ("count=5", "dry_run=False", "name=5", "due=2026", "script=[]", "more=1")
    given = [part for pair in pairs for part in ("-i", pair)]
    done = torpor("run", agent, "-d", *given)
    assert client.run(done.stdout.strip())["input"] == {
        "count": 5,
        "dry_run": False,
        "name": "5",
        "due": "2026",
        "script": [],
        "more": 1,
    }


def test_what_an_agent_takes_is_shown(torpor: Torpor, agent: str) -> None:
    torpor("deploy", agent)
    shown = torpor("agents", "show", "player").stdout
    assert "script     anything  required" in shown
    done = torpor("agents", "show", "nobody")
    assert (done.exit_code, "no agent 'nobody' is deployed" in done.stderr) == (2, True)
    whole = json.loads(torpor("agents", "show", "player", "--json").stdout)
    assert whole["agent"]["schema"]["properties"]["count"]["type"] == "integer"


def test_the_same_key_is_the_same_run(torpor: Torpor, agent: str) -> None:
    first, second = (torpor("run", agent, "-d", "--id-key", "k").stdout for _ in range(2))
    assert first == second


def test_approve_by_a_runs_id_or_the_start_of_one(
    torpor: Torpor, agent: str, client: Client
) -> None:
    run = detached(torpor, agent, ["approve", "Send?", {"a": 1}], ["return", "sent"])
    suspended(client, run)
    done = torpor("approve", run, "--note", "fine")
    assert (done.exit_code, "approved by" in done.stderr) == (0, True)
    value = client.waits(run, all=True)[0]["value"]
    assert (value["approved"], value["note"]) == (True, "fine")
    ended(client, run)
    again = torpor("deny", run)
    assert again.exit_code == 2
    shown = " ".join(torpor("show", run).stdout.split())
    assert "3.0 kB of 9.0 kB in its log, 5.0 kB beside it, 1.0 kB not kept: torpor logs" in shown
    assert "does not wait for an answer" in again.stderr


SHOWN = {"method": "POST", "url": "https://x.example/\u202e\x1b[2J", "body": "one\ntwo"}


def test_a_permission_is_shown_and_decided(torpor: Torpor, agent: str, client: Client) -> None:
    script = (["permission", "POST https://x.example/", SHOWN], ["return", "sent"])
    for options, data, words in (
        (("approve",), {"decision": "once"}, "allowed once by"),
        (("approve", "--for-run"), {"decision": "run"}, "allowed for this run by"),
        (("deny", "--note", "no"), {"decision": "deny", "reason": "no"}, "denied by"),
    ):
        run = detached(torpor, agent, *script)
        wait = suspended(client, run)["id"]
        verb, *more = options
        for shown in (torpor("waits", run).stdout, torpor("show", run).stdout):
            assert "url: https://x.example/\ufffd\ufffd[2J" in shown and "  two" in shown
        assert f"torpor approve {wait} [--for-run]" in torpor("show", run).stdout
        assert torpor("waits", "--whole", wait).stdout == "all of POST https://x.example/\n"
        done = torpor(verb, wait, *more)
        assert (done.exit_code, words in done.stderr) == (0, True), done.stderr
        assert client.wait(wait)["value"]["data"] == data
    assert torpor("approve", wait, "--for-run", "--data", "1").exit_code == 2


def test_a_shell_offers_the_waits_that_a_person_may_answer(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ("wait", "sleep", "event", "child", "doubt")
    about = {"prompt": "Sure?", "op": "wait:a#1", "data": None, "approve": False}
    found = [{"id": f"wait_{kind}", "kind": kind, **about} for kind in kinds]
    monkeypatch.setattr(Client, "waits", lambda self: found)
    assert [id for id, _ in complete.waits("wait_")] == ["wait_wait", "wait_doubt"]


def test_deny_and_complete_by_a_waits_id(torpor: Torpor, agent: str, client: Client) -> None:
    run = detached(torpor, agent, ["approve", "One?", None], ["wait", "Two?", None])
    wait = suspended(client, run)["id"]
    assert torpor("deny", wait, "--json").exit_code == 0
    assert torpor("approve", wait).exit_code == 2
    while not (open_now := client.waits(run)):
        pass
    assert torpor("complete", open_now[0]["id"], "--data", "1e999").exit_code == 2
    assert torpor("complete", open_now[0]["id"], "--data", '{"a": 1}').exit_code == 0
    assert [w["value"]["data"] for w in client.waits(run, all=True)] == [None, {"a": 1}]


@pytest.mark.parametrize(
    ("schema", "typed", "value"),
    [
        (None, "hello", "hello"),
        (None, '"hello"', "hello"),
        (None, "5", 5),
        (None, '{"a": 1}', {"a": 1}),
        (None, "{", "{"),
        ({"type": "string"}, "5", "5"),
        ({"type": "string"}, "true", "true"),
        ({"type": "integer"}, "5", 5),
        ({"type": "boolean"}, "yes", True),
        ({"enum": ["1", "b"]}, "1", "1"),
        ({"$ref": "#/$defs/name", "$defs": {"name": {"type": "string"}}}, "7", "7"),
    ],
)
def test_data_is_read_as_inputs_are(
    torpor: Torpor,
    agent: str,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    schema: object,
    typed: str,
    value: object,
) -> None:
    """`--data hello` as `-i x=hello`: the wait's schema decides, by default JSON, or else text."""
    run = detached(torpor, agent, ["wait", "What?", None], ["event", "paid", None], ["return", 1])
    real, real_waits = Client.wait, Client.waits
    monkeypatch.setattr(Client, "wait", lambda *a: real(*a) | {"schema": schema})
    monkeypatch.setattr(
        Client, "waits", lambda *a, **k: [w | {"schema": schema} for w in real_waits(*a, **k)]
    )
    wait = suspended(client, run)["id"]
    assert torpor("complete", wait, "--data", typed).exit_code == 0
    while not any(w["kind"] == "event" for w in client.waits(run)):
        pass
    assert torpor("send", run, "paid", "--data", typed).exit_code == 0
    ended(client, run)
    assert [w["value"]["data"] for w in client.waits(run, all=True)] == [value, value]


def test_an_event_is_taken_kept_or_known(torpor: Torpor, agent: str, client: Client) -> None:
    run = detached(torpor, agent, ["event", "paid", None], ["return", "thanks"])
    wait = suspended(client, run)
    assert "waiting for the event: paid" in torpor("ps").stdout
    assert f"torpor send {run} paid --data VALUE" in torpor("show", run).stdout
    assert "does not wait for an answer" in torpor("complete", run).stderr
    assert "kept until" in torpor("send", run, "other").stderr
    assert "nothing was changed" in torpor("send", run, "paid", "--id", "known").stderr
    assert torpor("send", run, "paid", "--data", "1e999").exit_code == 2
    assert torpor("waits", run, "--tag", "approve").stderr == "nothing waits\n"
    assert wait["id"] in torpor("waits", run, "--tag", "event").stdout
    assert f"{run} has it" in torpor("send", run, "paid", "--data", '{"p": 1}').stderr
    ended(client, run)
    assert client.wait(wait["id"])["value"]["data"] == {"p": 1}
    late = torpor("send", run, "paid")
    assert (late.exit_code, "is completed" in late.stderr) == (2, True)


def test_hooks_are_made_listed_and_revoked(torpor: Torpor, client: Client) -> None:
    made = torpor("hooks", "create", "shop", "--event", "paid", "--run-at", "data.run")
    assert (made.exit_code, "whsec_" in made.stdout, "only this once" in made.stderr) == (
        0,
        True,
        True,
    )
    hook = client.hooks()[0]["id"]
    listed = torpor("hooks", "list").stdout
    assert hook in listed and "sends paid" in listed and "whsec_" not in listed
    assert torpor("hooks", "create", "none").exit_code == 2
    assert "revoked" in torpor("hooks", "revoke", hook).stderr
    assert torpor("hooks", "list").stderr == "no hooks\n"
    assert "revoked" in torpor("hooks", "list", "--all").stdout
    assert torpor("hooks", "secret", "https://example.com").stdout.startswith("whsec_")


def test_looking_at_a_run(torpor: Torpor, agent: str, client: Client) -> None:
    evil = "[red]Pay\x1b[2J?"
    run = detached(
        torpor, agent, ["print", "hello\n"], ["log", "noted"], ["approve", evil, {"a": 1}]
    )
    suspended(client, run)
    for command, *says in (
        ("ps", run, "suspended", "waiting for approval: [red]Pay"),
        ("waits", run, "[red]Pay"),
        (f"show {run}", "suspended", "1.2 MB in 1 snapshot", "hello", "torpor approve wait_"),
        (f"show {run[:-2]}", run),
        (f"logs {run}", "run.created", "hello", "noted", "wait:approve#2"),
        (f"trace {run}", "machine 1", "wait:approve#2", "under way", "frozen", "1.2 MB"),
        (f"snapshots {run}", "snap_", "8 ms"),
    ):
        done = torpor(*command.split())
        assert done.exit_code == 0, done.stderr
        assert "\x1b" not in done.stdout
        for text in says:
            assert text in done.stdout
        assert json.loads(torpor(*command.split(), "--json").stdout)
    assert run in [
        r["id"] for r in json.loads(torpor("ps", "--status", "suspended", "--json").stdout)
    ]
    assert torpor("cancel", run).exit_code == 0
    assert torpor("cancel", run).exit_code == 2
    assert client.run(run)["state"] == "cancelled"
    assert run in torpor("ps", "--all").stdout


def test_following_a_log_ends_with_the_run(torpor: Torpor, agent: str, client: Client) -> None:
    run = detached(torpor, agent, ["print", "hello\n"], ["return", 1])
    assert "run.completed" in torpor("logs", "-f", run).stdout
    lines = torpor("logs", "-f", "--json", run).stdout.splitlines()
    assert [json.loads(line) for line in lines] == list(client.entries(run))


def test_deploy_tells_the_agents(torpor: Torpor, agent: str) -> None:
    assert "script" in torpor("deploy", agent).stdout
    assert json.loads(torpor("deploy", agent, "--json").stdout)["agents"][0]["name"] == "player"


def test_up_when_it_is_up(torpor: Torpor) -> None:
    done = torpor("up")
    assert (done.exit_code, "already up" in done.stdout) == (0, True)
    assert json.loads(torpor("up", "--json").stdout)["engine"] == "memory"


def test_errors_are_words_and_a_hint(torpor: Torpor, tmp_path: Path) -> None:
    done = torpor("show", "run_none")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "error: no run run_none\nSee the runs there are.\n"
    assert torpor("run", str(tmp_path / "none.py")).exit_code == 2
    (tmp_path / "bad.py").write_text("def (")
    assert "bad.py, line 1" in torpor("run", str(tmp_path / "bad.py")).stderr
    (tmp_path / "wrong.py").write_text("# does not load")
    done = torpor("run", str(tmp_path / "wrong.py"))
    assert (done.exit_code, "ImportError" in done.stderr) == (1, True)


def test_no_server_is_3(torpor: Torpor, tmp_path: Path) -> None:
    elsewhere = {"TORPOR_HOME": str(tmp_path / "none")}
    for command in ("ps", "waits", "show run_x", "approve wait_x", "logs -f run_x"):
        done = torpor(*command.split(), env=elsewhere)
        assert done.exit_code == 3
        assert "torpor up" in done.stderr
    assert torpor("down", env=elsewhere).exit_code == 0


def test_what_nobody_foresaw_is_one_line_and_a_file(
    torpor: Torpor, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError("this is a bug")

    monkeypatch.setattr(Client, "waits", fail)
    done = torpor("waits")
    assert done.exit_code == 5
    line, hint = done.stderr.splitlines()
    assert line == "error: internal error: RuntimeError: this is a bug"
    assert hint.startswith(f"The traceback is in {home.run}/crash-")
    [crash] = home.run.glob("crash-*.log")
    assert "Traceback" in crash.read_text()
