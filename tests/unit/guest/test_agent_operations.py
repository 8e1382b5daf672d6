from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.guest.conftest import record

if TYPE_CHECKING:
    from tests.unit.guest.conftest import Driver

Answer = Callable[[dict[str, Any]], Any]

STEPS = """
import asyncio, threading, torpor
from concurrent.futures import ThreadPoolExecutor

ran = []

@torpor.step(retries=2, backoff=0.01)
def flaky(times):
    ran.append(times)
    if len(ran) < times:
        raise ConnectionError(f"attempt {len(ran)}")
    return len(ran)

@torpor.step(retries=5, backoff=0.01)
def hopeless():
    ran.append(1)
    raise torpor.NonRetryable("give up")

@torpor.step(timeout=0.05, retries=1, backoff=0)
def slow():
    ran.append(1)
    threading.Event().wait()

@torpor.step(timeout=0.05)
async def slow_async():
    await asyncio.Event().wait()

@torpor.step
def raw():
    return {"data": b"\\x00\\xff", "pair": (1, 2), 3: None}

@torpor.step(retries=3)
def unfit():
    ran.append(1)
    return object()

@torpor.step
def inner(x): return x + 1

@torpor.step
def outer(x): return inner(inner(x))

@torpor.step
def key(): return torpor.run.idempotency_key

@torpor.step
async def square(x):
    await asyncio.sleep(0)
    return x * x

@torpor.step
def cube(x): return x ** 3

@torpor.step
def waits(): torpor.sleep(1)
"""


def steps(expression: str) -> str:
    """An agent that returns the value of an expression over the steps above."""
    return f"{STEPS}\n@torpor.agent\ndef main():\n    return {expression}\n"


GOOD = {
    "flaky(3)": 3,
    "raw()": {"data": {"$bytes": "AP8="}, "pair": [1, 2], "3": None},
    "repr(raw())": "{'data': b'\\x00\\xff', 'pair': [1, 2], '3': None}",
    "outer(5)": 7,
    "[key(), key()]": ["run_1:step:key#1", "run_1:step:key#2"],
    "torpor.step(lambda x: x + 1)(4)": 5,
    "torpor.step(name='twice')(lambda x: x * 2)(4)": 8,
    "list(ThreadPoolExecutor(4).map(cube, range(8)))": [n**3 for n in range(8)],
    "asyncio.run(square(3))": 9,
}


def test_steps_that_succeed(driver: Driver) -> None:
    assert driver.value(steps(f"[{', '.join(GOOD)}]")) == list(GOOD.values())


# What is called, what it raises, a part of the message, how often the body ran.
BAD = (
    ("flaky(9)", "ConnectionError", "attempt 3", 3),
    ("hopeless()", "torpor.sdk.errors.NonRetryable", "give up", 1),
    ("slow()", "TimeoutError", "longer than 0.05 s", 2),
    ("asyncio.run(slow_async())", "TimeoutError", "", 0),
    ("unfit()", "TypeError", "step unfit cannot be recorded: a value of type builtins.object", 1),
    ("waits()", "torpor.sdk.errors.OutsideRun", "inside the step 'waits'", 0),
)


def test_steps_that_fail(driver: Driver) -> None:
    calls = ", ".join(f"lambda: {call}" for call, *_ in BAD)
    value = driver.value(
        f"""{STEPS}
@torpor.agent
def main():
    results = []
    for call in [{calls}]:
        ran.clear()
        try:
            call()
        except torpor.StepError as error:
            results.append([error.type, str(error), len(ran)])
    return results
"""
    )
    for (call, type, words, attempts), (type_seen, message, ran) in zip(BAD, value, strict=True):
        assert (type_seen, ran) == (type, attempts), call
        assert words in message


def test_a_step_is_an_error_of_its_bodys_class_live_and_replayed(
    drive: Callable[[], Driver],
) -> None:
    source = """
        import torpor

        class Odd(LookupError):
            def __init__(self, number, also):
                super().__init__(f"odd {number}")

        ran = []

        @torpor.step
        def even(number):
            ran.append(number)
            if number % 2:
                raise Odd(number, also=1)

        @torpor.agent
        def main():
            try:
                even(3)
            except Odd as error:
                return [isinstance(error, torpor.StepError), str(error), error.type, error.step]
    """
    live = drive()
    value = live.value(source)
    assert value == [True, "odd 3", "agent.Odd", "even"]
    replayed = drive()
    assert replayed.value(source, journal=live.journal()) == value
    assert not replayed.said("begin")


def test_a_step_is_given_only_once_it_is_recorded(driver: Driver) -> None:
    driver.record = False
    driver.load(steps("[cube(2), print('given')][0]"))
    driver.start()
    op = driver.hear("end")["op"]
    # The agent is waiting now: whatever it might print would be there before this answer.
    driver.say("prepare")
    driver.hear("prepared")
    assert driver.out == b""
    driver.say("resume", time=time.time())
    driver.say("recorded", op=op)
    assert driver.hear("done")["value"] == 8


def test_replay_of_part_of_a_log(drive: Callable[[], Driver]) -> None:
    source = """
        import torpor
        ran = []
        @torpor.step
        def work(n):
            ran.append(n)
            return n * 10
        @torpor.agent
        def main():
            torpor.log("one")
            a = work(1)
            torpor.log("two")
            b = work(2)
            torpor.log("three")
            c = work(3)
            return [a, b, c, ran]
    """
    first = drive()
    assert first.value(source) == [10, 20, 30, [1, 2, 3]]
    second = drive()
    assert second.value(source, journal=first.journal()[:2]) == [10, 20, 30, [3]]
    assert [each["op"] for each in second.said("begin")] == ["step:work#3"]
    # It does not know what of this the log has: the host does (`worker.notes`).
    assert [each["data"]["message"] for each in second.said("note")] == ["one", "two", "three"]


def test_replay_in_another_order(drive: Callable[[], Driver]) -> None:
    source = """
        import asyncio, torpor
        @torpor.step
        async def square(x): return x * x
        @torpor.step
        def cube(x): return x ** 3
        @torpor.agent
        async def main(order):
            first = cube(0)
            squares = await asyncio.gather(*(square(x) for x in order))
            cubes = await asyncio.gather(*(asyncio.to_thread(cube, x) for x in order))
            return [first, squares, cubes, cube(9)]
    """
    first = drive()
    assert first.value(source, order=[1, 2, 3]) == [0, [1, 4, 9], [1, 8, 27], 729]
    sides = [each.get("side", False) for each in first.said("begin")]
    assert sides == [False, *[True] * 6, False]
    assert [each["at"] for each in first.said("begin")] == [
        *("agent.py:9", *["agent.py:3"] * 3, *["agent.py:5"] * 3, "agent.py:12"),
    ]
    second = drive()
    value = second.value(source, journal=first.journal(), order=[3, 1, 2])
    assert value == [0, [9, 1, 4], [27, 1, 8], 729]
    assert not second.said("begin")


# What the agent does when it is replayed, where it did a(1), a(2), b(1) before; what is missed.
DIVERGENCES = {
    "[c(1)]": "step:a#1",
    "[a(1), a(3)]": "step:a#2",
    "[a(2), a(1), b(1)]": "step:a#1",
    "[a(1), a(2), torpor.waitpoint('b')]": "step:b#1",
    "[a(1), a(2), c(1), b(1)]": "step:b#1",
    "[a(1), b(1)]": "step:a#2",
    "[a(1), a(2)]": "step:b#1",
    "asyncio.run(together())": "step:b#1",
    "[a(1), a(2), 1 / 0]": "step:b#1",
}


def test_every_divergence_is_noticed_and_nothing_new_is_begun(drive: Callable[[], Driver]) -> None:
    def source(expression: str) -> str:
        return f"""
            import asyncio, torpor
            a = torpor.step(name="a")(lambda n: n)
            b = torpor.step(name="b")(lambda n: n)
            c = torpor.step(name="c")(lambda n: n)
            async def together():
                return await asyncio.gather(*(asyncio.to_thread(a, n) for n in (1, 2)))
            @torpor.agent
            def main(): return {expression}
        """

    first = drive()
    first.value(source("[a(1), a(2), b(1)]"))
    journal = first.journal()
    for expression, missed in DIVERGENCES.items():
        if "together" in expression:
            first = drive()
            first.value(source("[asyncio.run(together()), b(1)]"))
            journal = first.journal()
        second = drive()
        failed = second.run(source(expression), journal=journal)
        assert failed.get("type") == "Divergence", (expression, failed)
        assert f"recorded: {missed} " in failed["message"], expression
        (verdict,) = second.said("begin")  # nothing but the question whether it may go on
        assert (verdict["kind"], verdict["name"], failed["diverged"]) == ("verdict", missed, missed)
        assert missed in verdict["data"]["superseded"]
        if "/ 0" in expression:
            assert "ZeroDivisionError" in failed["traceback"]


def test_an_agent_that_may_goes_on_without_what_it_did_not_ask_for(
    drive: Callable[[], Driver],
) -> None:
    source = """
        import torpor
        a = torpor.step(name="a")(lambda n: n)
        @torpor.agent
        def main(order):
            return [a(n) for n in order]
    """
    first = drive()
    first.value(source, order=[1, 2, 3, 4])
    second = drive()
    second.go_on = True
    journal = first.journal()
    assert second.value(source, journal=journal, order=[1, 3, 2]) == [1, 3, 2]
    verdict, *new = second.said("begin")
    assert verdict["data"]["superseded"] == [f"step:a#{n}" for n in (2, 3, 4)]
    assert [each["op"] for each in new] == ["step:a#5", "step:a#6"]
    # Another crash: the log has the verdict, and not what was given up.
    third = drive()
    journal = [journal[0], *(each for each in second.journal())]
    assert third.value(source, journal=journal, order=[1, 3, 2]) == [1, 3, 2]
    assert not third.said("begin")
    # Also when it ends early.
    fourth = drive()
    fourth.go_on = True
    assert fourth.value(source, journal=first.journal(), order=[1]) == [1]


def test_a_step_in_doubt_runs_again_under_its_name(drive: Callable[[], Driver]) -> None:
    source = """
        import torpor
        @torpor.step
        def key(n): return torpor.run.idempotency_key
        @torpor.agent
        def main():
            torpor.log("before")
            return [key(1), key(2), key(3)]
    """
    first = drive()
    first.value(source)
    one, two, _ = first.journal()
    doubt = {key: two[key] for key in two if key not in ("ok", "value")}
    second = drive()
    assert second.value(source, journal=[one, {**doubt, "again": 0}]) == [
        f"run_1:step:key#{n}" for n in (1, 2, 3)
    ]
    assert [each["op"] for each in second.said("begin")] == ["step:key#2", "step:key#3"]


def test_divergence_names_both_sides_and_cannot_be_caught(drive: Callable[[], Driver]) -> None:
    source = """
        import torpor
        @torpor.step
        def pay(amount): return amount
        @torpor.agent
        def main(amount):
            try:
                pay(amount)
            except Exception:
                pass
            return "fine"
    """
    first = drive()
    assert first.value(source, amount=5) == "fine"
    failed = drive().run(source, journal=first.journal(), amount=6)
    assert (failed["t"], failed["type"]) == ("failed", "Divergence")
    lines = failed["message"].splitlines()
    assert re.fullmatch(r"  recorded: step:pay#1 \(arguments [0-9a-f]{8}\) at agent.py:8", lines[1])
    assert re.fullmatch(r"  now:      step pay \(arguments [0-9a-f]{8}\) at agent.py:8", lines[2])


def verdicts(begin: dict[str, Any]) -> Any:
    if begin["kind"] == "sleep":
        return None
    if begin["kind"] == "checkpoint":
        return {}
    data = begin["data"]
    return {
        "status": "completed",
        "data": data["data"],
        "approved": True if data["approve"] else None,
        "note": None,
        "by": "Ada",
    }


def test_waits_in_plain_code(driver: Driver) -> None:
    driver.answer = verdicts
    value = driver.value(
        """
        import torpor
        @torpor.agent
        def main():
            verdict = torpor.approve("Send?", data={"n": 1}, timeout="2h")
            torpor.sleep("90s")
            torpor.sleep_until(2_000_000_000)
            torpor.checkpoint()
            a = torpor.waitpoint("a", prompt="A?", data=1, schema={"type": "integer"}, tags=["x"])
            b = torpor.waitpoint("b", data=b"bytes")
            either = torpor.wait_any(a, b)
            both = torpor.wait_all(a, b)
            return [verdict.approved, verdict.by, verdict.data, either.data in (1, b"bytes"),
                    [w.name for w in both], both[1].data, a.result().status]
        """
    )
    assert value == [True, "Ada", {"n": 1}, True, ["a", "b"], {"$bytes": "Ynl0ZXM="}, "completed"]
    begun = {each["op"]: each["data"] for each in driver.said("begin")}
    assert list(begun) == [
        "wait:approve#1",
        "sleep:sleep#1",
        "sleep:sleep#2",
        "checkpoint:checkpoint#1",
        "wait:a#1",
        "wait:b#1",
    ]
    assert begun["sleep:sleep#1"] == {"for_s": 90.0}
    assert begun["sleep:sleep#2"] == {"until": 2_000_000_000}
    assert begun["wait:approve#1"] == {
        "prompt": "Send?",
        "data": {"n": 1},
        "schema": None,
        "timeout_s": 7200,
        "tags": [],
        "approve": True,
    }


def test_a_result_that_is_asked_of_the_wait(driver: Driver) -> None:
    failed = driver.run("""
        import torpor
        @torpor.agent
        def main():
            wait = torpor.waitpoint("q")
            assert not hasattr(wait, "nothing") and wait.name == "q"
            return wait.data
    """)
    assert failed["t"] == "failed" and failed["type"] == "AttributeError"
    assert ".result().data" in failed["message"]


def test_waits_in_coroutines(driver: Driver) -> None:
    driver.answer = verdicts
    value = driver.value(
        """
        import asyncio, torpor
        @torpor.agent
        async def main():
            verdict = await torpor.approve("Send?")
            await torpor.sleep(1)
            await torpor.checkpoint()
            a, b = torpor.waitpoint("a", data=1), torpor.waitpoint("b", data=2)
            either = await torpor.wait_any(a, b)
            both = await torpor.wait_all(a, b)
            answers = await asyncio.gather(a, b, torpor.approve("Also?"))
            try:
                forgotten = torpor.approve("Forgotten?").approved
            except AttributeError as error:
                forgotten = str(error)
            return [verdict.approved, either.status, [w.data for w in both],
                    [type(each).__name__ for each in answers], forgotten]
        """
    )
    assert value[:4] == [True, "completed", [1, 2], ["WaitResult", "WaitResult", "Verdict"]]
    assert "await torpor.approve" in value[4]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_first_of_several_waits_is_the_same_on_replay(
    drive: Callable[[], Driver], asynchronous: bool
) -> None:
    word = ("async ", "await ") if asynchronous else ("", "")
    source = f"""
        import torpor
        @torpor.agent
        {word[0]}def main():
            a, b, c = (torpor.waitpoint(name) for name in "abc")
            return ({word[1]}torpor.wait_any(a, b, c)).name
    """
    live = drive()
    live.load(source)
    live.start()
    begun = [live.hear("begin") for _ in range(3)]
    answer = {"status": "completed", "data": None}
    live.say("result", op="wait:b#1", ok=True, value=answer)
    assert live.hear("done")["value"] == "b"
    # By the time of the replay the others were answered, too.
    ends = {"wait:a#1": 9, "wait:b#1": 7, "wait:c#1": 8}
    records = [record(each, answer) | {"seq": ends[each["op"]]} for each in begun]
    assert drive().value(source, journal=records) == "b"
    # Or while the machine slept, in the middle of the wait.
    slept = drive()
    slept.load(source)
    slept.start()
    for _ in range(3):
        slept.hear("begin")
    slept.say("prepare")
    slept.hear("prepared")
    slept.thaw(journal=records)
    assert slept.hear("done")["value"] == "b"


def test_a_wait_given_up_in_a_coroutine_can_be_waited_for_again(driver: Driver) -> None:
    driver.load(
        """
        import asyncio, torpor
        @torpor.agent
        async def main():
            w = torpor.waitpoint("w")
            try:
                await asyncio.wait_for(w, 0.01)
            except TimeoutError:
                torpor.log("given up")
            return (await w).data
        """
    )
    driver.start()
    begin = driver.hear("begin")
    driver.hear("note")
    driver.say("result", op=begin["op"], ok=True, value={"status": "completed", "data": 5})
    assert driver.hear("done")["value"] == 5


def test_a_timeout_is_no_approval(driver: Driver) -> None:
    driver.answer = lambda begin: {
        "status": "timeout",
        "data": None,
        "approved": None,
        "note": None,
        "by": None,
    }
    value = driver.value(
        """
        import torpor
        @torpor.agent
        def main():
            verdict = torpor.approve("Send?", timeout="1s")
            return [verdict.approved, verdict.status]
        """
    )
    assert value == [False, "timeout"]


def test_status_tells_what_is_waited_for(driver: Driver) -> None:
    driver.load(
        """
        import threading, torpor
        gate = threading.Event()
        @torpor.step
        def work():
            gate.wait()
        @torpor.agent
        def main():
            thread = threading.Thread(target=work)
            thread.start()
            torpor.approve("First?", timeout=60)
            gate.set()
            thread.join()
            torpor.approve("Second?")
        """
    )
    driver.start()
    approve = driver.hear("begin", kind="wait")
    driver.until(lambda: bool(driver.said("status", waiting=1, busy=1)))
    answer = {"status": "completed", "approved": True}
    driver.say("result", op=approve["op"], ok=True, value=answer)
    second = driver.hear("begin", op="wait:approve#2")
    driver.hear("status", waiting=1, busy=0)
    driver.say("result", op=second["op"], ok=True, value=answer)
    driver.hear("done")
    assert driver.said("status")[-1]["waiting"] == 0


def test_threads_wait_at_once(driver: Driver) -> None:
    driver.load(
        """
        import torpor
        from concurrent.futures import ThreadPoolExecutor
        @torpor.agent
        def main():
            with ThreadPoolExecutor(3) as pool:
                return [v.note for v in pool.map(torpor.approve, ["a", "b", "c"])]
        """
    )
    driver.start()
    begun = [driver.hear("begin") for _ in range(3)]
    driver.until(lambda: bool(driver.said("status", waiting=3, busy=0)))
    for each in reversed(begun):
        value = {"status": "completed", "approved": True, "note": each["data"]["prompt"]}
        driver.say("result", op=each["op"], ok=True, value=value)
    assert driver.hear("done")["value"] == ["a", "b", "c"]


def test_notes(driver: Driver) -> None:
    value = driver.value(
        """
        import torpor
        @torpor.agent
        def main():
            torpor.log("hello", level="warning", n=1)
            torpor.emit({"part": 1})
            problems = []
            for bad in (lambda: torpor.log("x", level="loud"), lambda: torpor.emit(object())):
                try:
                    bad()
                except (ValueError, TypeError) as error:
                    problems.append(type(error).__name__)
            return problems
        """
    )
    assert value == ["ValueError", "TypeError"]
    assert [(each["kind"], each["data"]) for each in driver.said("note")] == [
        ("log", {"message": "hello", "level": "warning", "data": {"n": 1}}),
        ("emit", {"part": 1}),
    ]


CANCELLATIONS = {
    "waiting": "torpor.approve('?')",
    "computing": "[torpor.log('busy'), [0 for _ in iter(int, 1)]]",
    "blocked": "[torpor.log('busy'), threading.Event().wait()]",
    "stubborn": "[stubborn(), torpor.approve('?')]",
    "in a step": "wait_step()",
}


@pytest.mark.parametrize("where", CANCELLATIONS)
def test_cancel_reaches_plain_code_wherever_it_is(driver: Driver, where: str) -> None:
    driver.load(
        f"""
        import threading, torpor
        @torpor.step
        def wait_step(): threading.Event().wait()
        def stubborn():
            try: torpor.approve('first?')
            except torpor.Cancelled: pass
        @torpor.agent
        def main():
            try:
                return {CANCELLATIONS[where]}
            finally:
                torpor.step(name="tidy")(lambda: None)()
                print("tidied")
        """
    )
    driver.start()
    driver.hear("begin", "note")
    driver.say("cancel", reason="no longer wanted")
    failed = driver.hear("failed")
    assert (failed["type"], failed["cancelled"]) == ("Cancelled", True)
    assert failed["message"] == "no longer wanted"
    assert driver.out == b"tidied\n"


@pytest.mark.parametrize("where", ["torpor.approve('?')", "asyncio.Event().wait()"])
def test_cancel_reaches_coroutines(driver: Driver, where: str) -> None:
    driver.load(
        f"""
        import asyncio, torpor
        @torpor.agent
        async def main():
            try:
                torpor.log("here")
                await {where}
            finally:
                print("tidied")
        """
    )
    driver.start()
    driver.hear("note")
    driver.say("cancel", reason="")
    failed = driver.hear("failed")
    assert (failed["type"], failed["cancelled"]) == ("Cancelled", True)
    assert driver.out == b"tidied\n"


def test_a_forked_process_is_no_run(driver: Driver) -> None:
    source = """
        import multiprocessing, torpor
        def ask(queue):
            try:
                torpor.log("from elsewhere")
            except RuntimeError as error:
                queue.put(str(error))
        @torpor.agent
        def main():
            fork = multiprocessing.get_context("fork")
            queue = fork.SimpleQueue()
            process = fork.Process(target=ask, args=(queue,))
            process.start()
            process.join()
            return queue.get()
    """
    assert "torpor.log works only in the agent's own process" in driver.value(source)


def test_a_journal_longer_than_a_message_comes_in_parts(drive: Callable[[], Driver]) -> None:
    source = """
        import torpor

        @torpor.step
        def large(n):
            return str(n % 10) * 1_000_000

        @torpor.agent
        def agent():
            return [large(n)[0] for n in range(20)]
    """
    live = drive()
    assert live.value(source) == [str(n % 10) for n in range(20)]
    records = live.journal()
    replayed = drive()
    assert replayed.load(source)["t"] == "loaded"
    for each in records[:-1]:
        replayed.say("journal", records=[each])
    replayed.start(journal=records[-1:])
    assert replayed.hear("done", "failed")["value"] == [str(n % 10) for n in range(20)]
    assert not replayed.said("begin")
