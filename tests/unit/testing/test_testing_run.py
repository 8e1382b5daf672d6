"""`torpor.testing`: agents in this process, with the real runtime and the real journal."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import torpor
from torpor.testing import (
    TIMEOUT,
    Answer,
    LogLine,
    ModelRequest,
    ToolCall,
    Unanswered,
    Unused,
    Wait,
    run,
)
from torpor.testing.playing import PlayedRuntime

HOUR, DAY = 3600, 86400
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
ran: list[str] = []  # what steps' bodies did


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


@torpor.step
def work(what: str) -> str:
    ran.append(what)
    return what.upper()


@dataclass
class Order:
    sku: str
    due: datetime


@torpor.agent
def order(line: Order, most: int = 3) -> list[object]:
    torpor.log("ordered", sku=line.sku)
    approved = torpor.approve(f"Buy {line.sku}?", data={"most": most}, timeout="7d").approved
    torpor.emit({"approved": approved})
    torpor.sleep_until(line.due)
    return [work(line.sku), torpor.now().isoformat(), (1, 2)]


INPUT = {"line": {"sku": "tea", "due": "2026-12-01T00:00:00+00:00"}}


def test_an_agent_runs_as_in_a_run_but_at_once() -> None:
    began = time.monotonic()
    outcome = run(order, INPUT, answers={"approve": True}, now=NOON)
    assert time.monotonic() - began < 60  # it slept for days
    assert outcome.result == ["TEA", "2026-12-01T00:00:00+00:00", [1, 2]]
    assert outcome.slept == 2.5 * DAY
    assert outcome.log == [LogLine("ordered", "info", {"sku": "tea"})]
    assert outcome.emitted == [{"approved": True}]
    assert [each.op for each in outcome.operations] == [
        "wait:approve#1",
        "sleep:sleep#1",
        "step:work#1",
        "read:now#1",
    ]
    (wait,) = outcome.waits
    assert (wait.data["prompt"], wait.data["data"]) == ("Buy tea?", {"most": 3})
    assert (wait.value["approved"], wait.at) == (True, NOON)
    assert ran == ["tea"]


def test_a_replay_does_nothing_again() -> None:
    outcome = run(order, INPUT, answers={"approve": True}, now=NOON)
    again = outcome.replay()
    assert (again.result, again.log, ran) == (outcome.result, outcome.log, ["tea"])
    ran.clear()
    assert outcome.entries == 8
    for place in range(9):
        assert outcome.replay(crash_at=place).result == outcome.result
    # Cut off before its result was recorded, the step runs again; recorded, it does not.
    assert ran == ["tea"] * 6
    with pytest.raises(ValueError, match="8 entries"):
        outcome.replay(crash_at=9)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "line"),
        ({"line": {"sku": "tea"}}, "due"),
        ({**INPUT, "most": "many"}, "most"),
        ({**INPUT, "more": 1}, "more"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        run(order, given, answers={"approve": True})


def test_what_is_no_agent_is_refused() -> None:
    with pytest.raises(TypeError, match=r"write @torpor\.agent above it"):
        run(len)


# ---- answers ----


@torpor.agent
def questions() -> list[object]:
    first = torpor.approve("First?", timeout="1h")
    second = torpor.approve("Second?", timeout="1h")
    table = torpor.waitpoint("table", schema={"required": ["number"]}, timeout="2h").result()
    paid = [torpor.event("paid").result().data for _ in range(2)]
    return [first.approved, second.status, second.by, second.note, table.data, table.status, paid]


def test_answers_are_found_by_the_narrowest_key() -> None:
    answers = {
        "approve": False,
        "approve:Second?": Answer(approved=True, by="ann", note="well", after="10m"),
        "waitpoint": {"number": 1},
        "event": 1,
        "event:paid#2": 2,
    }
    outcome = run(questions, answers=answers)
    assert outcome.result == [
        *(False, "completed", "ann", "well"),
        *({"number": 1}, "completed", [1, 2]),
    ]
    assert outcome.slept == 600
    outcome.replay_all()


def test_a_list_is_one_answer_for_each_and_stays_so_in_replays() -> None:
    seen: list[Wait] = []

    def second(wait: Wait) -> bool:
        seen.append(wait)
        return True

    answers = {
        "approve": [TIMEOUT, second],
        "waitpoint:table": Answer({"number": 1}, after="3h"),
        "event:paid": [{"n": 1}, {"n": 2}],
    }
    outcome = run(questions, answers=answers)
    assert outcome.result[:3] == [False, "completed", "test"]
    assert outcome.result[4:] == [None, "timeout", [{"n": 1}, {"n": 2}]]
    assert outcome.slept == HOUR + 2 * HOUR
    assert [(each.key, each.prompt, each.number) for each in seen] == [("approve", "Second?", 2)]
    for place in range(outcome.entries + 1):
        assert outcome.replay(crash_at=place).result == outcome.result


@pytest.mark.parametrize(
    ("answers", "error", "says"),
    [
        ({}, Unanswered, "approve 'First\\?' \\(3600 s\\).*\"approve\": …"),
        ({"approve": [True]}, Unanswered, "approve 'Second\\?'"),
        ({"approve": "yes"}, TypeError, "answered by True, False, TIMEOUT"),
        ({"approve": True, "waitpoint:table": {}}, AssertionError, "number: is required"),
        ({"approve": True, "waitpoint:table": object()}, TypeError, "is not JSON"),
        ({"approve": True, "waitpoint": TIMEOUT, "event:paid": TIMEOUT}, TypeError, "no timeout"),
        ({"approve": ValueError("x")}, TypeError, "only a child can fail"),
        (lambda wait: 1 / 0, ZeroDivisionError, "zero"),
        (lambda wait: ..., Unanswered, "approve 'First"),
    ],
)
def test_a_wrong_or_absent_answer_says_what_it_is_of(
    answers: Any, error: type[BaseException], says: str
) -> None:
    with pytest.raises(error, match=f"(?s){says}"):
        run(questions, answers=answers)


def test_answers_that_are_not_asked_for_are_errors() -> None:
    answers = {"approve": True, "waitpoint": {"number": 1}, "event": [1, 2, 3], "child:x": 1}
    with pytest.raises(Unused, match=r"child:x, event \(number 3 of 3\).*asked for: approve"):
        run(questions, answers=answers)


def test_unanswered_waits_are_given_up_so_that_the_agent_can_clean_up() -> None:
    @torpor.agent
    def cleans() -> None:
        try:
            torpor.waitpoint("never").result()
        except Exception:
            ran.append("swallowed")
        finally:
            ran.append("cleaned")

    with pytest.raises(Unanswered, match="waitpoint:never"):
        run(cleans)
    assert ran == ["cleaned"]


def test_a_wait_whose_timeout_comes_first_must_say_so() -> None:
    @torpor.agent
    def races() -> str:
        quick = torpor.waitpoint("quick", timeout="1h")
        slow = torpor.waitpoint("slow", timeout="2h")
        return torpor.wait_any(quick, slow).name

    with pytest.raises(Unanswered, match="quick"):
        run(races, answers={"waitpoint:slow": Answer(1, after="90m")})
    assert run(races, answers={"waitpoint:slow": Answer(1, after="30m")} | {}).result == "slow"


def test_a_schema_that_cannot_be_used_is_the_waits_error() -> None:
    @torpor.agent
    def odd() -> str:
        try:
            torpor.waitpoint("x", schema={"type": "no type"}).result()
        except ValueError as error:
            return str(error)
        return "taken"

    assert "schema" in run(odd, answers=lambda wait: 1).result


# ---- failing ----


@torpor.agent
def fails(how: str) -> object:
    if how == "raises":
        raise KeyError(how)
    if how == "step":
        return torpor.step(int)("no number")
    return object()


def test_what_the_agent_raises_comes_out_or_is_in_the_outcome() -> None:
    with pytest.raises(KeyError, match="raises"):
        run(fails, {"how": "raises"})
    with pytest.raises(torpor.StepError, match="no number"):
        run(fails, {"how": "step"})
    with pytest.raises(Exception, match=r"cannot be recorded.*object is not JSON"):
        run(fails, {"how": "object"})
    outcome = run(fails, {"how": "step"}, check=False)
    assert isinstance(outcome.error, ValueError)
    assert (outcome.result, [each.ok for each in outcome.steps]) == (None, [False])
    assert outcome.failure is not None and outcome.failure["type"] == "ValueError"
    assert isinstance(outcome.replay().error, ValueError)


def test_retries_take_no_time() -> None:
    @torpor.step(retries=5, backoff="5m")
    def flaky() -> int:
        ran.append("tried")
        if len(ran) < 4:
            raise ValueError("not yet")
        return len(ran)

    @torpor.agent
    def plain() -> int:
        return flaky()

    @torpor.step(retries=5, backoff="5m")
    async def later() -> int:
        await asyncio.sleep(0)
        return flaky.__wrapped__()  # type: ignore[attr-defined, no-any-return]

    @torpor.agent
    async def asynchronous() -> list[object]:
        return list(await asyncio.gather(later(), torpor.sleep("1h")))

    assert run(plain).result == 4
    ran.clear()
    outcome = run(asynchronous)
    assert outcome.result == [4, None]
    assert outcome.slept == HOUR
    assert [each.level for each in outcome.log] == ["warning"] * 3


def test_a_step_that_cannot_be_repeated_is_found() -> None:
    @torpor.step
    def once() -> int:
        ran.append("done")
        assert ran == ["done"], "it is done already"
        return 1

    @torpor.agent
    def main() -> int:
        return once()

    outcome = run(main)
    with pytest.raises(AssertionError, match="it is done already") as raised:
        outcome.replay_all()
    assert "outcome.replay(0)" in raised.value.__notes__[0]


# ---- what is not safe to replay ----


def test_what_depends_on_chance_is_a_divergence_with_both_sides() -> None:
    calls: list[int] = []

    @torpor.agent
    def arguments() -> None:
        calls.append(1)
        work(f"{len(calls)}")

    @torpor.agent
    def more() -> None:
        calls.append(1)
        for each in calls:
            work(str(each))

    @torpor.agent
    def fewer() -> None:
        calls.append(1)
        if len(calls) == 1:
            work("once")

    @torpor.agent
    def result() -> int:
        calls.append(1)
        return len(calls)

    for agent, says in (
        (arguments, r"recorded: step:work#1 \(.*test_testing_run.py:\d+\n  now:      step work"),
        (more, "recorded: nothing more: the agent had ended\n  now:      step work"),
        (fewer, r"recorded: step:work#1 .*\n  now:      the agent ends"),
        (result, "recorded: it returns 1\n  now:      it returns 2"),
    ):
        calls.clear()
        outcome = run(agent)
        with pytest.raises(torpor.Divergence, match=says):
            outcome.replay()


def test_a_divergence_that_the_agent_swallows_is_one_all_the_same() -> None:
    calls: list[int] = []

    @torpor.agent
    def main() -> None:
        calls.append(1)
        try:
            work(f"{len(calls)}")
        except Exception:
            ran.append("swallowed")

    outcome = run(main)
    with pytest.raises(torpor.Divergence):
        outcome.replay()


# ---- loops and threads ----


@torpor.agent
async def loops() -> list[object]:
    said: list[object] = []
    try:
        async with asyncio.timeout(HOUR):
            await torpor.sleep("1d")
    except TimeoutError:
        said.append("timed out")
    async with asyncio.timeout(HOUR):
        await torpor.sleep("1m")
    await asyncio.sleep(DAY)
    both = await asyncio.gather(torpor.waitpoint("a", timeout="1h"), torpor.waitpoint("b"))
    return [*said, *(each.status for each in both)]


def test_timers_of_event_loops_skip_too() -> None:
    answers = {"waitpoint:a": TIMEOUT, "waitpoint:b": Answer(1, after="30m")}
    outcome = run(loops, answers=answers)
    assert outcome.result == ["timed out", "timeout", "completed"]
    assert outcome.slept == pytest.approx(HOUR + 60 + DAY + HOUR, abs=30)


def test_it_runs_where_an_event_loop_runs() -> None:
    async def test() -> tuple[Any, Any, float]:
        before = asyncio.get_running_loop().time()
        plain = run(order, INPUT, answers={"approve": True}, now=NOON).result[0]
        answers = {"waitpoint:a": TIMEOUT, "waitpoint:b": 1}
        within = run(loops, answers=answers).result
        return plain, within, asyncio.get_running_loop().time() - before

    plain, within, took_s = asyncio.run(test())
    assert (plain, within) == ("TEA", ["timed out", "timeout", "completed"])
    assert took_s < HOUR  # that loop's time is as ever


def test_threads_of_the_agent_are_its_own_and_those_of_the_test_are_not() -> None:
    stop = threading.Event()
    server = threading.Thread(target=stop.wait)
    server.start()

    @torpor.agent
    def pool() -> list[object]:
        with ThreadPoolExecutor(3) as pool:
            waits = list(pool.map(lambda n: torpor.waitpoint(f"w{n}").result().data, range(3)))
            works = list(pool.map(work, "abc"))
        torpor.sleep("1d")
        return [waits, works]

    try:
        outcome = run(pool, answers=lambda wait: wait.name)
        assert outcome.result == [["w0", "w1", "w2"], ["A", "B", "C"]]
        assert outcome.replay().result == outcome.result
    finally:
        stop.set()
        server.join()


def test_a_thread_that_the_agent_leaves_behind_does_not_wait_for_ever() -> None:
    left: list[threading.Thread] = []

    def waits(wait: torpor.Waitpoint) -> None:
        with pytest.raises(torpor.Cancelled, match="the run has ended"):
            wait.result()
        ran.append("ended")

    @torpor.agent
    def leaves() -> str:
        wait = torpor.waitpoint("never", timeout="1d")
        left.append(threading.Thread(target=waits, args=(wait,)))
        left[0].start()
        return "gone"

    assert run(leaves, answers={"waitpoint": TIMEOUT}).result == "gone"
    left[0].join()
    assert ran == ["ended"]


# ---- children, models, conversations, artifacts ----


@torpor.agent
def child(n: int) -> int:
    torpor.context.append("user", f"{n}")
    torpor.sleep(n * 60)
    if n == 3:
        raise ValueError("three")
    return len(torpor.context.messages) * n + torpor.approve("Child?").approved


@torpor.agent
def parent() -> list[object]:
    torpor.context.append("system", "Be brief.")
    several = torpor.spawn_many(child, [{"n": 2}, {"n": 1}])
    late = torpor.spawn("child", {"n": 1}, delay="1h")
    first = torpor.wait_any(*several, late).data
    said = []
    for spawned in (torpor.spawn(child, n=3), torpor.spawn("elsewhere", n=0)):
        try:
            spawned.result()
        except torpor.ChildFailed as error:
            said.append(str(error))
    return [first, several.results(), late.result(), said, len(torpor.context.messages)]


def test_children_of_the_same_program_are_run_and_others_are_answered() -> None:
    answers = {"approve": True, "child:elsewhere": RuntimeError("not there")}
    outcome = run(parent, answers=answers)
    said = ["child failed: ValueError: three", "elsewhere failed: RuntimeError: not there"]
    assert outcome.result == [2, [3, 2], 2, said, 1]
    assert outcome.slept == HOUR + 60
    assert [each.input["n"] for each in outcome.children] == [2, 1, 3, 1]
    assert [each.data["agent"] for each in outcome.spawned] == [*["child"] * 4, "elsewhere"]
    outcome.replay_all()
    with pytest.raises(Unanswered, match="child:elsewhere"):
        run(parent, answers={"approve": True})
    with pytest.raises(Unanswered, match=r"approve 'Child\?'"):
        run(parent, answers={"child:elsewhere": 1})


def test_agents_of_several_programs_may_have_the_same_name() -> None:
    def program(answer: int) -> Any:
        @torpor.agent(name="main")
        def main() -> int:
            return answer

        return main

    one, other = program(1), program(2)
    assert (run(one).result, run(other).result) == (1, 2)


def ask(text: str, stream: bool = False, path: str = "/chat/completions") -> bytes:
    body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": text}]}
    url = os.environ["OPENAI_BASE_URL"] + path
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode())) as reply:
        content: bytes = reply.read()
        return content


@torpor.agent
def asks(several: list[str], stream: bool = False) -> list[str]:
    replies = [ask(text, stream).decode() for text in several]
    if stream:
        return replies
    return [json.loads(each)["choices"][0]["message"]["content"] for each in replies]


def test_model_calls_are_answered_and_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere.invalid")
    outcome = run(asks, {"several": ["a", "b"]}, models=["one", "two"])
    assert outcome.result == ["one", "two"]
    assert outcome.replay().result == outcome.result
    assert os.environ["OPENAI_BASE_URL"] == "http://elsewhere.invalid"
    seen: list[ModelRequest] = []

    def reply(request: ModelRequest) -> str:
        seen.append(request)
        return request.json["messages"][0]["content"] * 2  # type: ignore[no-any-return]

    assert run(asks, {"several": ["a", "b"]}, models=reply).result == ["aa", "bb"]
    assert [(each.method, each.path) for each in seen] == [("POST", "/v1/chat/completions")] * 2
    (streamed,) = run(asks, {"several": ["a"], "stream": True}, models="whole").result
    assert '"content": "whole"' in streamed and streamed.endswith("data: [DONE]\n\n")
    with pytest.raises(Unanswered, match="POST /v1/chat/completions"):
        run(asks, {"several": ["a", "b"]}, models=["one"])
    with pytest.raises(Unused, match="1 replies"):
        run(asks, {"several": ["a"]}, models=["one", "two"])


def test_a_replay_gets_the_replies_of_the_first_run() -> None:
    run(asks, {"several": ["a", "b"]}, models=["one", "two"]).replay_all()
    replies = iter(["one", "two"])
    outcome = run(asks, {"several": ["a", "b"]}, models=lambda _: next(replies))
    outcome.replay_all()
    assert outcome.replay(1).result == ["one", "two"]


@torpor.agent
def calls(path: str, stream: bool = False) -> list[str]:
    return [ask(text, stream, path).decode() for text in "ab"]


ADD, SUB = ToolCall("add", {"a": 1, "b": Decimal("2.5")}), ToolCall("sub", {})


def events(stream: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in stream.split("\n") if line[:5] == "data:"]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_tools_that_a_model_calls_are_an_answer_of_each_api() -> None:
    models: list[Any] = [ADD, [ADD, SUB]]
    one, two = map(json.loads, run(calls, {"path": "/chat/completions"}, models=models).result)
    assert one["choices"][0]["finish_reason"] == "tool_calls"
    asked = [c["message"]["tool_calls"] for each in (one, two) for c in each["choices"]]
    assert [[call["function"] for call in some] for some in asked] == [
        [{"name": "add", "arguments": '{"a": 1, "b": "2.5"}'}],
        [
            {"name": "add", "arguments": '{"a": 1, "b": "2.5"}'},
            {"name": "sub", "arguments": "{}"},
        ],
    ]
    assert len({call["id"] for some in asked for call in some}) == 3
    one, two = map(json.loads, run(calls, {"path": "/messages"}, models=models).result)
    assert (one["stop_reason"], one["content"][0]["type"]) == ("tool_use", "tool_use")
    assert [each["input"] for each in two["content"]] == [{"a": 1, "b": "2.5"}, {}]
    one, two = map(json.loads, run(calls, {"path": "/responses"}, models=[ADD, "fine"]).result)
    assert (one["output"][0]["type"], one["output"][0]["name"]) == ("function_call", "add")
    assert two["output"][0]["content"][0]["text"] == "fine"


@pytest.mark.parametrize(
    ("path", "last"),
    [
        ("/chat/completions", "chat.completion.chunk"),
        ("/messages", "message_stop"),
        ("/responses", "response.completed"),
    ],
)
def test_streams_end_and_have_it_all(path: str, last: str) -> None:
    given = {"path": path, "stream": True}
    one, two = run(calls, given, models=[[ADD, SUB], "fine"]).result
    assert [each[-1].get("object", each[-1].get("type")) for each in map(events, (one, two))] == [
        last,
        last,
    ]
    assert "sub" in one and "2.5" in one and "fine" in two


def test_a_loop_that_waits_for_a_connection_does_not_skip_its_timers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks, looked_often = iter(range(5)), threading.Event()
    look = PlayedRuntime.look

    def counted(runtime: PlayedRuntime) -> Any:
        if next(looks, None) is None:
            looked_often.set()
        return look(runtime)

    def serve() -> None:
        connection, _ = listener.accept()
        looked_often.wait()
        connection.sendall(b"hello")
        connection.close()

    @torpor.agent
    async def listens() -> str:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
            monkeypatch.setattr(PlayedRuntime, "look", counted)
            said = (await reader.read()).decode()
            writer.close()
        await asyncio.sleep(DAY)
        return said

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve)
        server.start()
        outcome = run(listens)
        server.join()
    assert outcome.result == "hello"
    assert outcome.slept == pytest.approx(DAY, abs=30)


def test_a_step_at_work_is_waited_for() -> None:
    @torpor.step
    async def listens(port: list[int]) -> str:
        async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello")
            writer.close()

        async with await asyncio.start_server(greet, "127.0.0.1", 0) as server, asyncio.timeout(60):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
            try:
                return (await reader.read()).decode()
            finally:
                writer.close()

    @torpor.agent
    async def both() -> list[object]:
        return list(await asyncio.gather(listens([]), torpor.sleep("1d"), asyncio.sleep(HOUR)))

    outcome = run(both)
    assert outcome.result == ["hello", None, None]
    assert outcome.slept == pytest.approx(DAY, abs=30)


def test_a_model_may_answer_by_an_error() -> None:
    @torpor.agent
    def refused() -> int:
        try:
            ask("x")
        except urllib.error.HTTPError as error:
            return error.code
        return 200

    assert run(refused, models=[(429, {"error": {"message": "slow down"}})]).result == 429


def test_large_results_and_artifacts_are_kept_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text("all is well")

    @torpor.agent
    def publishes() -> int:
        torpor.artifact(tmp_path / "report.txt", name="report.txt")
        torpor.checkpoint()
        large: bytes = torpor.step(lambda: b"x" * 3_000_000)()
        return len(large) + len(torpor.step(lambda: ["y" * 2_000_000])()[0])

    outcome = run(publishes)
    assert outcome.result == 5_000_000
    assert outcome.artifacts == {"report.txt": b"all is well"}
    assert outcome.steps[0].value == b"x" * 3_000_000
    (tmp_path / "report.txt").unlink()
    assert outcome.replay().result == 5_000_000


def test_runs_do_not_see_one_another() -> None:
    @torpor.agent
    def talks() -> int:
        torpor.context.append("user", "x")
        return len(torpor.context.messages)

    assert [run(talks).result for _ in range(3)] == [1, 1, 1]
    assert torpor.context.messages == []
    with pytest.raises(torpor.OutsideRun):
        torpor.sleep(1)
    assert threading.active_count() == len([t for t in threading.enumerate() if t.is_alive()])
    assert not [t for t in threading.enumerate() if t.name in ("torpor", "torpor-models")]


def test_a_run_in_another_thread_is_refused_while_one_is() -> None:
    said: list[str] = []

    @torpor.agent
    def outer() -> None:
        def within() -> None:
            try:
                run(asks, {"several": []})
            except RuntimeError as error:
                said.append(str(error))

        thread = threading.Thread(target=within)
        thread.start()
        thread.join()

    run(outer)
    assert "run one at a time" in said[0]


def test_a_pool_of_processes_has_no_steps_here_either() -> None:
    source = """
import multiprocessing, torpor
from torpor.testing import run

@torpor.step
def work(n): return n

@torpor.agent
def main():
    with multiprocessing.get_context("fork").Pool(1) as pool:
        try:
            return pool.map(work, [1])
        except torpor.OutsideRun as error:
            return str(error)

print(run(main).result)
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, check=True)
    assert b"only in the agent's own process" in done.stdout
