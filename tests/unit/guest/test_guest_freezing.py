from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import pytest

from torpor.sdk.arguments import digest

if TYPE_CHECKING:
    from tests.unit.guest.conftest import Driver

DONE = {"status": "completed", "data": None, "approved": True}

# Draws from every generator that lives in a process.
RANDOM = """
import os, random, ssl, sys, tempfile, torpor

def draw():
    return [
        random.random(), random.gauss(0, 1), ssl.RAND_bytes(8).hex(),
        next(tempfile._get_candidate_names()),
    ]

@torpor.agent
def main():
    random.seed(1); random.gauss(0, 1); draw()
    before = random.getstate()
    torpor.approve("?")
    return [torpor.run.epoch, random.getstate() == before, draw()]
"""


def waiting(driver: Driver, source: str, **given: Any) -> dict[str, Any]:
    """Load and start an agent that ends up waiting; its wait's `begin`."""
    assert driver.load(source)["t"] == "loaded"
    driver.start(**given)
    begin = driver.hear("begin")
    driver.until(lambda: bool(driver.said("status", waiting=1, busy=0)))
    return begin


def test_a_thaw_brings_identity_and_randomness_before_anything_runs(driver: Driver) -> None:
    wait = waiting(driver, RANDOM)
    driver.say("prepare")
    driver.hear("prepared")
    # What comes with the thaw, even before it, has to wait for it.
    driver.say("result", op=wait["op"], ok=True, value=DONE)
    driver.thaw(epoch=7)
    thawed = driver.hear("thawed")
    assert thawed["epoch"] == 7
    epoch, same_state, _ = driver.hear("done")["value"]
    assert (epoch, same_state) == (7, False)


def test_a_resume_changes_nothing(driver: Driver) -> None:
    wait = waiting(driver, RANDOM)
    driver.say("prepare")
    driver.hear("prepared")
    driver.say("resume", time=time.time())
    assert driver.hear("resumed")["at"] == pytest.approx(time.time(), abs=20)
    driver.say("result", op=wait["op"], ok=True, value=DONE)
    epoch, same_state, _ = driver.hear("done")["value"]
    assert (epoch, same_state) == (1, True)
    assert not driver.said("thawed")


GENERATORS = """
import random, torpor
import numpy as np

class Mine(random.Random):
    def __init__(self, *args):
        super().__init__(*args)

LATER = random.Random(5)
LATER.seed()
UNSEEDED = [random.Random(), Mine(), LATER, np.random.default_rng(), np.random.RandomState(),
    np.random.Generator(np.random.MT19937()), np.random.Generator(np.random.SFC64())]
SEEDED = [random.Random(42), Mine("x"), np.random.default_rng(42), np.random.RandomState(42)]
random.Random()  # nobody keeps it
BACK = random.Random()
BACK.seed(7)
SEEDED.append(BACK)
for each in UNSEEDED + SEEDED:
    getattr(each, "gauss", each.normal if hasattr(each, "normal") else None)(0, 1)

def state(each):
    if hasattr(each, "getstate"):
        return repr(each.getstate())
    bits = getattr(each, "bit_generator", None)
    return repr(bits.state if bits is not None else each.get_state())

@torpor.agent
def main():
    made = random.Random(), np.random.default_rng(), np.random.default_rng(3)
    several = [*UNSEEDED, *made[:2], *SEEDED, made[2]]
    before = list(map(state, several))
    torpor.approve("?")
    after = list(map(state, several))
    return [[a != b for a, b in zip(before, after)], len(set(after)) == len(after)]
"""


@pytest.mark.parametrize("thawed", [True, False])
def test_generators_that_the_agent_left_to_be_seeded_are_seeded_anew(
    driver: Driver, thawed: bool
) -> None:
    packages = str(Path(numpy.__file__).parents[1])
    wait = waiting(driver, f"import sys; sys.path.append({packages!r})\n{GENERATORS}")
    driver.say("prepare")
    driver.hear("prepared")
    if thawed:
        driver.thaw()
        driver.hear("thawed")
    else:
        driver.say("resume", time=time.time())
        driver.hear("resumed")
    driver.say("result", op=wait["op"], ok=True, value=DONE)
    changed, distinct = driver.hear("done")["value"]
    assert changed == [thawed] * 9 + [False] * 6
    assert distinct


TICKING = """
import threading, time, torpor

def tick():
    while True:
        print(time.monotonic_ns(), flush=True)

@torpor.agent
def main():
    for _ in range(2):
        threading.Thread(target=tick, daemon=True).start()
    torpor.approve("?")
"""


def test_busy_threads_stand_still_until_the_thaw(driver: Driver) -> None:
    waiting(driver, TICKING)
    driver.until(lambda: len(driver.out) > 1000)
    driver.say("prepare")
    driver.hear("prepared")
    held = time.monotonic_ns()
    subprocess.run([sys.executable, "-S", "-c", "pass"], check=True)  # the world goes on
    thawing = time.monotonic_ns()
    driver.thaw()
    driver.hear("thawed")
    seen = len(driver.out)
    driver.until(lambda: len(driver.out) > seen + 1000)
    ticks = [int(line) for line in driver.out.split(b"\n")[:-1] if line.isdigit()]
    assert [tick for tick in ticks if tick < held]
    assert not [tick for tick in ticks if held < tick < thawing]
    assert [tick for tick in ticks if tick > thawing]


def test_no_thread_draws_from_the_old_seeds_in_the_new_epoch(driver: Driver) -> None:
    """Rule 8, with threads that ask for the interpreter's lock all the time."""
    source = """
        import random, threading, torpor

        drawn, lock, stop = [], threading.Lock(), threading.Event()

        def draw():
            while not stop.is_set():
                with lock:
                    before = torpor.run.epoch
                    value = random.random()
                    if torpor.run.epoch == before:
                        drawn.append((before, value))
                    else:
                        drawn.append((0, value))

        @torpor.agent
        def main():
            random.seed(1)
            threads = [threading.Thread(target=draw) for _ in range(3)]
            for thread in threads: thread.start()
            torpor.approve("?")
            stop.set()
            for thread in threads: thread.join()
            old = random.Random(1)
            kinds = {(epoch, value == old.random()) for epoch, value in drawn if epoch}
            return sorted(kinds)
    """
    wait = waiting(driver, source)
    driver.say("prepare")
    driver.hear("prepared")
    driver.thaw()
    driver.hear("thawed")
    driver.say("result", op=wait["op"], ok=True, value=DONE)
    assert driver.hear("done")["value"] == [[1, True], [2, False]]


def test_results_of_the_log_after_the_snapshot_arrive_with_the_thaw(
    driver: Driver, record: Callable[[Any, Any], dict[str, Any]]
) -> None:
    source = """
        import torpor
        ran = []
        @torpor.step
        def work(n):
            ran.append(n)
            return n
        @torpor.agent
        def main():
            verdict = torpor.approve("?")
            return [verdict.by, work(1), work(2), ran]
    """
    wait = waiting(driver, source)
    driver.say("prepare")
    driver.hear("prepared")
    answered = record(wait, {**DONE, "by": "Ada"})
    worked = {
        "op": "step:work#1",
        "kind": "step",
        "name": "work",
        "digest": digest((1,), {}),
        "ok": True,
        "value": 100,
    }
    driver.thaw(journal=[answered, worked])
    assert driver.hear("done")["value"] == ["Ada", 100, 2, [2]]
    assert [each["op"] for each in driver.said("begin", kind="step")] == ["step:work#2"]
    # An answer that also comes by the other way is of no effect.
    driver.say("result", op=wait["op"], ok=True, value=DONE)


def test_a_step_that_the_log_has_ended_is_not_ended_twice(
    driver: Driver, record: Callable[[Any, Any], dict[str, Any]]
) -> None:
    source = """
        import threading, torpor
        gate = threading.Event()
        @torpor.step
        def work():
            gate.wait()
            return "mine"
        @torpor.agent
        def main():
            results = []
            thread = threading.Thread(target=lambda: results.append(work()))
            thread.start()
            torpor.approve("?")
            gate.set()
            thread.join()
            return results
    """
    driver.load(source)
    driver.start()
    step, wait = driver.hear("begin", kind="step"), driver.hear("begin", kind="wait")
    driver.say("prepare")
    driver.hear("prepared")
    driver.thaw(journal=[record(step, "the log's"), record(wait, DONE)])
    assert driver.hear("done")["value"] == ["the log's"]
    assert not driver.said("end")


HOOKS = """
import torpor
calls = []

@torpor.on_freeze
def before():
    calls.append("freeze")
    if torpor.run.input["bad"]:
        raise OSError("the door is open")

@torpor.on_thaw
def after():
    calls.append("thaw")

@torpor.on_thaw
def broken():
    try:
        torpor.sleep(1)
    except RuntimeError as error:
        calls.append("refused")
    raise ValueError("only a warning")

@torpor.agent
def main(bad):
    torpor.approve("?")
    return calls
"""


def test_hooks_run_around_the_freeze(driver: Driver) -> None:
    wait = waiting(driver, HOOKS, bad=False)
    driver.say("prepare")
    driver.hear("prepared")
    driver.say("result", op=wait["op"], ok=True, value=DONE)
    driver.thaw()
    assert driver.hear("done")["value"] == ["freeze", "thaw", "refused"]
    assert b"only a warning" in driver.err


def test_a_hook_that_fails_prevents_the_freeze(driver: Driver) -> None:
    wait = waiting(driver, HOOKS, bad=True)
    driver.say("prepare")
    assert "OSError: the door is open" in driver.hear("unprepared")["reason"]
    driver.say("result", op=wait["op"], ok=True, value=DONE)
    assert driver.hear("done")["value"] == ["freeze", "thaw", "refused"]


def test_an_agent_that_does_not_stand_still_in_time_is_not_frozen(driver: Driver) -> None:
    gate = driver.directory / "gate"
    os.mkfifo(gate)
    source = f"""
        import torpor

        @torpor.on_freeze
        def hook():
            open({str(gate)!r}).read()

        @torpor.agent
        def main():
            torpor.approve("?")
            return "unharmed"
    """
    wait = waiting(driver, source)
    driver.say("prepare")
    assert "2 s" in driver.hear("unprepared")["reason"]
    gate.write_text("")  # only now it stands still, and is let go again
    driver.say("result", op=wait["op"], ok=True, value=DONE)
    assert driver.hear("done")["value"] == "unharmed"


def test_a_prepare_that_is_taken_back(driver: Driver) -> None:
    wait = waiting(driver, RANDOM)
    for _ in range(5):
        driver.say("prepare")
        driver.say("resume", time=time.time())
    driver.say("result", op=wait["op"], ok=True, value=DONE)
    assert driver.hear("done")["value"][1] is True


def test_a_machine_with_an_idle_agent_or_none_can_be_frozen(driver: Driver) -> None:
    driver.say("prepare")
    driver.hear("prepared")
    driver.thaw(epoch=1)
    driver.hear("thawed")
    assert driver.load(RANDOM)["t"] == "loaded"
    driver.say("prepare")
    driver.hear("prepared")
    driver.thaw(epoch=2)
    driver.hear("thawed")
    driver.start()
    driver.say("result", op=driver.hear("begin")["op"], ok=True, value=DONE)
    driver.hear("done")


def test_two_processes_with_the_same_state_draw_differently_after_their_thaws(
    drive: Callable[[], Driver],
) -> None:
    drawn = []
    for _ in range(2):
        driver = drive()
        wait = waiting(driver, RANDOM)
        driver.say("prepare")
        driver.hear("prepared")
        driver.thaw()
        driver.hear("thawed")
        driver.say("result", op=wait["op"], ok=True, value=DONE)
        drawn.append(driver.hear("done")["value"][2])
    assert all(one != other for one, other in zip(*drawn, strict=True))


def test_numpys_shared_generator_is_reseeded(driver: Driver) -> None:
    pytest.importorskip("numpy")
    import numpy

    site = str(Path(numpy.__file__).parent.parent)
    source = f"""
        import sys
        sys.path.append({site!r})
        import numpy, torpor
        @torpor.agent
        def main():
            numpy.random.seed(1)
            expected = numpy.random.RandomState(1).random_sample()
            torpor.approve("?")
            return bool(numpy.random.random_sample() == expected)
    """
    wait = waiting(driver, source)
    driver.say("prepare")
    driver.hear("prepared")
    driver.thaw()
    driver.say("result", op=wait["op"], ok=True, value=DONE)
    assert driver.hear("done")["value"] is False


def test_the_cgroup_freezes_what_is_not_python(drive: Callable[..., Driver], cgroup: Path) -> None:
    driver = drive(cgroup)
    waiting(
        driver,
        """
        import subprocess, torpor
        @torpor.agent
        def main():
            subprocess.Popen(["sh", "-c", "while :; do sleep 0.01; echo tick; done"])
            torpor.approve("?")
        """,
    )
    driver.until(lambda: b"tick" in driver.out)
    driver.say("prepare")
    driver.hear("prepared")
    assert "frozen 1" in (cgroup / "agent" / "cgroup.events").read_text()
    # It has done nothing: stopping it would only change pages.
    assert "frozen 0" in (cgroup / "gateway" / "cgroup.events").read_text()
    driver.thaw()
    driver.hear("thawed")
    seen = len(driver.out)
    driver.until(lambda: len(driver.out) > seen)
    assert "frozen 0" in (cgroup / "agent" / "cgroup.events").read_text()


def resting(driver: Driver, rest_s: float = 1.0) -> dict[str, Any]:
    """How the agent answers when it may only be held if it rests."""
    driver.say("prepare", rest_s=rest_s)
    return driver.hear("prepared", "unprepared")


def when_resting(driver: Driver, rest_s: float = 1.0) -> dict[str, Any]:
    while (answer := resting(driver, rest_s))["t"] == "unprepared":
        assert answer["again_s"] > 0
    return answer


def go_on(driver: Driver) -> None:
    driver.say("resume", time=time.time())
    driver.hear("resumed")


LINES = {
    "thread": """
        import threading, torpor

        gate = threading.Lock()
        gate.acquire()

        def line(name):
            torpor.waitpoint(name).result()
            while not gate.acquire(blocking=False): pass
            torpor.log(name)

        @torpor.agent
        def main():
            threads = [threading.Thread(target=line, args=(n,), daemon=True) for n in "ab"]
            for thread in threads: thread.start()
            torpor.approve("Go on?")
            gate.release()
            torpor.approve("Again?")
    """,
    "loop": """
        import asyncio, threading, torpor

        gate = threading.Lock()
        gate.acquire()

        async def line(name):
            await torpor.waitpoint(name)
            while not gate.acquire(blocking=False): await asyncio.sleep(0)
            torpor.log(name)

        def approvals():
            torpor.approve("Go on?")
            gate.release()
            torpor.approve("Again?")

        @torpor.agent
        async def main():
            other = threading.Thread(target=approvals)
            other.start()
            await asyncio.gather(line("a"), line("b"))
    """,
}


@pytest.mark.parametrize("source", LINES.values(), ids=list(LINES))
def test_one_that_was_answered_is_at_work_until_it_waits_again(
    driver: Driver, record: Callable[..., dict[str, Any]], source: str
) -> None:
    """However long that takes, and whoever else waits."""
    assert driver.load(source)["t"] == "loaded"
    driver.start()
    driver.until(lambda: bool(driver.said("status", waiting=3, busy=0)))
    assert when_resting(driver).keys() == {"t"}
    driver.thaw(journal=[record(driver.said("begin", name="b")[0], DONE)])
    driver.hear("thawed")
    for _ in range(6):
        assert resting(driver)["t"] == "unprepared"
    # One that is to stand still all the same is known to be at work.
    driver.say("prepare", rest_s=1.0, anyhow=True)
    assert driver.hear("prepared", "unprepared") == {"t": "prepared", "at_work": True}
    go_on(driver)
    driver.say("result", op="wait:approve#1", ok=True, value=DONE)
    driver.until(lambda: bool(driver.said("note") and driver.said("begin", op="wait:approve#2")))
    assert when_resting(driver).keys() == {"t"}


def test_a_thread_that_sleeps_keeps_the_machine_awake_so_long(driver: Driver) -> None:
    source = """
        import threading, time, torpor

        @torpor.agent
        def main():
            threading.Thread(target=time.sleep, args=(0.3,)).start()
            threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
            torpor.approve("?")
    """
    waiting(driver, source)
    assert when_resting(driver).keys() == {"t"}


@pytest.mark.parametrize(
    "sleep",
    [
        "threading.Thread(target=time.sleep, args=(3600,)).start()",
        "threading.Thread(target=threading.Event().wait, args=(3600,)).start()",
        "threading.Timer(3600, print).start()",
        "subprocess.Popen(['sleep', '3600'])",
        "signal.alarm(3600)",
        "threading.Thread(target=select.select, args=([], [], [], 3600)).start()",
    ],
)
def test_what_the_kernel_counts_keeps_the_machine_awake(driver: Driver, sleep: str) -> None:
    source = f"""
        import select, signal, subprocess, threading, time, torpor

        @torpor.agent
        def main():
            {sleep}
            torpor.approve("?")
    """
    waiting(driver, source)
    for _ in range(6):
        answer = resting(driver)
        assert answer["t"] == "unprepared" and answer["reason"]


def test_a_ticker_does_not(driver: Driver) -> None:
    source = """
        import threading, time, torpor

        def tick():
            while True:
                time.sleep(0.2)

        @torpor.agent
        def main():
            threading.Thread(target=tick).start()
            torpor.approve("?")
    """
    waiting(driver, source)
    assert when_resting(driver).keys() == {"t"}


TIMEOUT = """
import asyncio, torpor

@torpor.agent
async def main(s):
    try:
        async with asyncio.timeout(s):
            await torpor.approve("?")
    except TimeoutError:
        return "timed out"
"""


def test_a_loops_timer_says_when_to_wake(driver: Driver) -> None:
    waiting(driver, TIMEOUT, s=3600)
    answer = when_resting(driver)
    assert 3500 < answer["wake_in"] <= 3600
    go_on(driver)
    # One that is due sooner is not worth a freeze.
    assert resting(driver, rest_s=4000.0)["t"] == "unprepared"
