"""Which timers count, and what an event loop's time is. How a process rests is in
`tests/unit/guest/test_guest_freezing.py`, by real ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from types import SimpleNamespace

import pytest

from torpor.replay.journal import Early, Recorded
from torpor.sdk import holding, looptime, rest
from torpor.sdk.holding import Holding
from torpor.sdk.rest import ROUNDS_MAX, Timers


def test_the_first_timer_counts_until_it_is_gone() -> None:
    timers = Timers()
    assert timers.earliest({"a": 5.0, "b": 3.0}, active=True) == 3.0
    assert timers.earliest({"a": 5.0}, active=False) == 5.0
    assert timers.earliest({}, active=False) is None


def test_a_ticker_counts_no_more_but_what_was_there_before_does() -> None:
    timers = Timers()
    assert timers.earliest({"timeout": 100.0, 0: 0.0}, active=True) == 0.0
    for tick in range(1, ROUNDS_MAX):
        assert timers.earliest({"timeout": 100.0, tick: float(tick)}, active=False) == tick
    for tick in range(ROUNDS_MAX, 10):
        assert timers.earliest({"timeout": 100.0, tick: float(tick)}, active=False) == 100.0


def test_who_does_something_sets_timers_anew() -> None:
    timers = Timers()
    for tick in range(10):
        assert timers.earliest({tick: float(tick)}, active=True) == tick


def test_a_timer_without_a_beginning_counts_from_its_first_look() -> None:
    timers = Timers()
    assert timers.earliest({"a": 5.0}, active=True) == 5.0
    assert timers.earliest({"a": 6.0}, active=False) == 5.0


def test_loops_time_moves_on_with_a_sleep_and_never_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(day=1000.0, since_boot=10.0)
    monkeypatch.setattr(
        looptime,
        "time",
        SimpleNamespace(time=lambda: clock.day, monotonic=lambda: clock.since_boot),
    )
    loops = looptime._LoopClock()
    assert loops() == 10.0
    clock.day, clock.since_boot = 1001.0, 11.0
    assert loops() == 11.0
    clock.day += 3600  # asleep for an hour
    assert loops() == 3611.0
    clock.day -= 0.5  # a correction
    assert loops() == 3611.0
    clock.day, clock.since_boot = clock.day + 1, clock.since_boot + 1
    assert loops() == 3612.0
    loops.restart()
    assert loops() == 12.0


def test_waiting_for_a_processor_counts_as_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that gets none is not quiet."""
    threads = {"1": b"1250000000 2000000000 9\n", "2": b"0 500000000 3\n"}
    monkeypatch.setattr(rest, "_ids", lambda directory: [1, 2])
    monkeypatch.setattr(rest, "_read", lambda path: threads[path.split("/")[-2]])
    monkeypatch.setattr(time, "process_time", lambda: 1.25)
    assert rest.worked_s() == {1: 3.25, 2: 0.5}
    assert rest.worked_s(apart={1}) == {2: 0.5}
    assert rest.worked_s(looking={1}) == {1: 1.25, 2: 0.5}
    monkeypatch.setattr(rest, "_read", lambda path: b"")  # no such kernel
    assert rest.worked_s() == {0: 1.25}


def test_threads_that_are_held_do_not_keep_each_other_from_being_quiet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a busy host each look waits for a processor, and no other thread does anything."""
    looks = 0
    this = threading.get_native_id()

    def worked_s(apart: Collection[int], looking: Collection[int]) -> dict[int, float]:
        nonlocal looks
        looks += 1
        return {each: looks for each in (this, 8) if each not in apart}

    held = Holding(lambda: False)
    held.blocked.add(8)  # something else is held there
    monkeypatch.setattr(holding, "worked_s", worked_s)
    monkeypatch.setattr(holding, "QUIET_SHORT_S", 0.001)
    began = time.monotonic()
    clock = SimpleNamespace(monotonic=lambda: began + looks)
    monkeypatch.setattr(holding, "time", clock)
    record: Recorded = {"op": "step:a#1", "kind": "step", "name": "a", "digest": "d"}
    early = held.hold(Early(record, alike=True), None)
    early.block()
    assert early.late is early.early
    assert looks == 2


def test_a_process_with_a_thread_that_has_not_begun_does_not_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rest, "_TASKS", "/nowhere")
    watch = rest.Watch(threading.enumerate(), ())
    assert watch.look(0.0).busy == ""
    started = [*threading.enumerate(), threading.Thread()]  # as `enumerate` has it until it runs
    monkeypatch.setattr(threading, "enumerate", lambda: started)
    assert watch.look(0.0).busy == "a thread begins"
