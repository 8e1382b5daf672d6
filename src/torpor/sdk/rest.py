"""Whether an agent's process has come to rest, and what in it goes on by itself, and when.

A process rests when none of its threads that count runs or wants to, no event loop has something
ready, and no child process runs. That is looked up, not guessed from how much time has passed: an
answer that was delivered wakes a thread or makes a loop ready in the same moment, and that shows
until it was acted on. A thread that the kernel has blocked stays so until something wakes it; all
of them are read twice, and none has run in between, so there was a moment when all were blocked.

What counts is what keeps a Python process alive, threads that are not daemons; and daemons that
have used operations (`lines`).

Timers are of two kinds. Those of event loops move on with the time that a machine sleeps
(`torpor.sdk.looptime`): the machine may sleep, and is woken for them. What the kernel counts (a
thread in `time.sleep` or in a wait with a timeout, an alarm, a timerfd, a child process that
sleeps) stands still with the machine, and so keeps it awake. Who sets timers again and again and
does nothing that the host hears of is a ticker, whose timers count no more (`Timers`).

While recorded calls are under way, timeouts are to stand still with the machine: that of a thread
that is blocked on a connection on which an answer may come (`torpor.sdk.answers`) keeps nothing
awake then, and no timer of an event loop counts but sleeps.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakSet

from torpor.sdk import answers, looptime

# After so many looks that found a new timer, with nothing done in between, new ones do not count.
ROUNDS_MAX = 3
AGAIN_S_MIN, AGAIN_S_MAX = 0.05, 1.0
# Who waits for the interpreter's lock waits this long at most before it asks for it.
_INTERPRETER_LOCK_S = 0.02
_TASKS = "/proc/self/task"
_TIMESPEC = struct.Struct("qq")  # and struct timeval
_ALARM = "alarm"
_FUTEX_WAIT, _FUTEX_WAIT_BITSET = 0, 9
_FUTEX_COMMAND, _FUTEX_REALTIME = 0x7F, 0x100
_ABSOLUTE = 1  # TIMER_ABSTIME

# The threads that have used operations.
lines: WeakSet[threading.Thread] = WeakSet()


class _Kind(NamedTuple):
    """Of a system call that waits: where its timeout is among its arguments, and in what."""

    name: str
    argument: int
    unit: str = "timespec"


_KINDS = {
    "futex": _Kind("futex", 3),
    "nanosleep": _Kind("nanosleep", 0),
    "clock_nanosleep": _Kind("clock_nanosleep", 2),
    "epoll_wait": _Kind("epoll", 3, "ms"),
    "epoll_pwait": _Kind("epoll", 3, "ms"),
    "epoll_pwait2": _Kind("epoll", 3),
    "poll": _Kind("poll", 2, "ms"),
    "ppoll": _Kind("poll", 2),
    "select": _Kind("select", 4, "timeval"),
    "pselect6": _Kind("select", 4),
    "rt_sigtimedwait": _Kind("sigwait", 2),
}
_NUMBERS: dict[str, dict[str, int]] = {
    "x86_64": {
        "futex": 202,
        "nanosleep": 35,
        "clock_nanosleep": 230,
        "epoll_wait": 232,
        "epoll_pwait": 281,
        "epoll_pwait2": 441,
        "poll": 7,
        "ppoll": 271,
        "select": 23,
        "pselect6": 270,
        "rt_sigtimedwait": 128,
    },
    "aarch64": {
        "futex": 98,
        "nanosleep": 101,
        "clock_nanosleep": 115,
        "epoll_pwait": 22,
        "epoll_pwait2": 441,
        "ppoll": 73,
        "pselect6": 72,
        "rt_sigtimedwait": 137,
    },
}
_MACHINE = os.uname().machine if hasattr(os, "uname") else ""  # tests of agents run on Windows, too
_CALLS = {number: _KINDS[name] for name, number in _NUMBERS.get(_MACHINE, {}).items()}


class Call(NamedTuple):
    """What a thread is blocked in: a system call, and how long at most."""

    kind: str  # "": one that has no timeout; "unknown": the kernel does not tell
    at: float | None = None  # when it ends by itself, of `time.monotonic`; None: not
    exact: bool = True  # or `at` is counted from now, for want of its beginning
    arguments: Sequence[int] = ()

    @property
    def wants_lock(self) -> bool:
        """It waits for the interpreter's lock, or as shortly."""
        return (
            self.kind == "futex"
            and self.at is not None
            and self.at < time.monotonic() + _INTERPRETER_LOCK_S
        )


class Timers:
    """Which of the timers that are found, look by look, count."""

    def __init__(self) -> None:
        self._counting: dict[Any, float] = {}
        self._rounds = 0

    def earliest(self, found: Mapping[Any, float], active: bool) -> float | None:
        """When the first of those that count is due. `active`: something was done since the last
        look."""
        counting = {key: at for key, at in self._counting.items() if key in found}
        if active:
            self._rounds = 0
        if active or found.keys() - counting.keys():
            self._rounds += 1
            if self._rounds <= ROUNDS_MAX:
                # The first time that one was seen is what tells most of one without a beginning.
                counting = dict(found) | counting
        self._counting = counting
        return min(counting.values(), default=None)


class Rest(NamedTuple):
    """What a look has found."""

    busy: str = ""  # what is at work; empty: nothing
    again_s: float = AGAIN_S_MIN
    wake_in: float | None = None  # until the first timer of an event loop that counts
    calls: bool = False  # recorded calls are under way

    def report(self) -> dict[str, Any]:
        """As the host gets it."""
        woken = {} if self.wake_in is None else {"wake_in": self.wake_in}
        return woken | ({"at_work": True} if self.busy else {})


@dataclass
class _Found:
    calls: bool  # recorded calls are under way
    busy: str = ""
    holding: dict[Any, float] = field(default_factory=dict)  # kernel timers, by monotonic time
    waking: dict[Any, float] = field(default_factory=dict)  # loops' timers, by loop time

    def works(self, what: str) -> None:
        self.busy = self.busy or what

    def waits(self, task: str, call: Call) -> None:
        if call.at is not None and not (
            self.calls and answers.may_come(task, call.kind, call.arguments)
        ):
            # One whose beginning is not known is another when its thread has run meanwhile.
            key = call.at if call.exact else _read(f"{task}/schedstat")
            self.holding[task, key] = call.at


class Watch:
    """Looks at this process, of which `own` threads are torpor's. `entering` are the threads that
    are about to begin something; `apart` is what was `there_already`, and is not the agent's."""

    def __init__(
        self,
        own: Collection[threading.Thread],
        entering: Collection[int],
        apart: Collection[Any] = (),
    ) -> None:
        self._own, self._entering, self._apart = own, entering, apart
        self._holding, self._waking = Timers(), Timers()
        self._active = True
        self._again_s = AGAIN_S_MIN

    def stir(self) -> None:
        """Something came for the agent, or it does something that the host hears of."""
        self._active = True

    @property
    def stirred(self) -> bool:
        """Whether something did since the last look, or is about to."""
        return self._active or bool(self._entering)

    def look(self, near_s: float | None, *, calls: bool = False) -> Rest:
        """Whether the process rests, and no timer that counts is due within `near_s`; with None it
        does not matter. With `calls`, recorded calls are under way."""
        if near_s is None:
            return Rest(calls=calls)
        active, self._active = self._active, False
        if active:
            self._again_s = AGAIN_S_MIN
        found = self._find(calls)
        holding = self._holding.earliest(found.holding, active)
        waking = self._waking.earliest(found.waking, active)
        if found.busy:
            again_s, self._again_s = self._again_s, min(AGAIN_S_MAX, self._again_s * 2)
            return Rest(found.busy, again_s)
        if holding is not None:
            return Rest("a thread or a process sleeps", _soon(holding - time.monotonic()))
        if waking is None:
            return Rest(calls=calls)
        wake_in = max(0.0, waking - looptime.loop_time())
        if wake_in < near_s:
            return Rest("a timer of its event loop is due", _soon(wake_in))
        return Rest(wake_in=wake_in, calls=calls)

    def _find(self, calls: bool) -> _Found:
        found = _Found(calls)
        threads = {f"{_TASKS}/{each.native_id}": each for each in self._counted() if each.ident}
        ran = {task: _read(f"{task}/schedstat") for task in threads}
        # Who starts one waits until it runs; it is nowhere to be seen before.
        if any(each.ident is None for each in self._alive()):
            found.works("a thread begins")
        loops = looptime.running_loops()
        for task, thread in threads.items():
            _look_at(task, thread, loops.get(thread.ident or 0), found)
        alarm_s = signal.getitimer(signal.ITIMER_REAL)[0]
        if alarm_s and _ALARM not in self._apart:
            found.holding[_ALARM] = time.monotonic() + alarm_s
        timerfds = _timerfds()
        found.holding.update((key, at) for key, at in timerfds.items() if key not in self._apart)
        for task in _children(_TASKS, self._apart):
            call = _blocked(task)
            if call is None:
                found.works(f"a child process runs ({task})")
            else:
                found.waits(task, call)
        if self._entering or any(_read(f"{task}/schedstat") != n for task, n in ran.items()):
            found.works("a thread runs")
        return found

    def _counted(self) -> list[threading.Thread]:
        return [each for each in self._alive() if not each.daemon or each in lines]

    def _alive(self) -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each not in self._own]


def _soon(left_s: float) -> float:
    return min(max(left_s, AGAIN_S_MIN), AGAIN_S_MAX)


def _look_at(task: str, thread: threading.Thread, loop: Any, found: _Found) -> None:
    call = _blocked(task)
    if call is None or call.wants_lock:
        found.works(f"thread {thread.name} runs")
        return
    if loop is None:
        found.waits(task, call)
        return
    for handle in list(loop._scheduled):
        if not handle.cancelled() and (not found.calls or looptime.is_sleep(handle)):
            found.waking[id(handle), handle.when()] = handle.when()
    if call.kind in ("epoll", "unknown"):
        if loop._ready:
            found.works("its event loop has something to do")
    else:  # in the middle of a callback
        found.waits(task, call)


def worked_s(apart: Collection[int] = (), looking: Collection[int] = ()) -> dict[int, float]:
    """How many seconds each thread of this process has run, or waited for a processor to run on,
    by its native id; not those that are `apart`, and only the running of those that are `looking`.
    Where the kernel does not know of threads, 0 is all of them."""
    seconds = {}
    for tid in _ids(_TASKS):
        words = _read(f"{_TASKS}/{tid}/schedstat").split()
        if len(words) > 1 and tid not in apart:
            waited = 0 if tid in looking else int(words[1])
            seconds[tid] = (int(words[0]) + waited) / 1e9
    return seconds or {0: time.process_time()}


def there_already() -> Collection[Any]:
    """What a process has that keeps it from rest and is not of what it begins now."""
    children = {int(pid) for tid in _ids(_TASKS) for pid in _children_of(_TASKS, tid)}
    alarm = {_ALARM} if signal.getitimer(signal.ITIMER_REAL)[0] else set()
    return {*children, *alarm, *_timerfds()}


def has_children() -> bool:
    """Whether a process that this one has started is there."""
    return any(_children(_TASKS))


def _children(tasks: str, apart: Collection[Any] = ()) -> Iterator[str]:
    """The threads of the processes that those of `tasks` have started, and those of theirs."""
    for tid in _ids(tasks):
        for pid in _children_of(tasks, tid):
            if int(pid) in apart:
                continue
            theirs = f"/proc/{int(pid)}/task"
            yield from (f"{theirs}/{each}" for each in _ids(theirs))
            yield from _children(theirs)


def _children_of(tasks: str, tid: int) -> list[bytes]:
    return _read(f"{tasks}/{tid}/children").split()


def _ids(directory: str) -> list[int]:
    try:
        return [int(name) for name in os.listdir(directory)]  # noqa: PTH208
    except OSError:
        return []


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 -- as quick as can be
            return file.read(4096) or b""
    except OSError:
        return b""


def _blocked(task: str) -> Call | None:
    """What the kernel has the thread wait for; None while it runs, or could."""
    words = _read(f"{task}/syscall").split()
    if not words:
        return Call("unknown")  # gone, or nothing that may be looked at
    if words[0] == b"running":
        return None
    kind = _CALLS.get(int(words[0]))
    if kind is None:
        return Call("")
    arguments = [int(word, 16) for word in words[1:7]]
    given = arguments[kind.argument]
    if kind.unit == "ms":
        ms = given & 0xFFFFFFFF
        at = None if ms >= 1 << 31 else time.monotonic() + ms / 1000
        return Call(kind.name, at, False, arguments)
    if not given:
        return Call(kind.name)
    seconds = _time_at(task, given, 1e9 if kind.unit == "timespec" else 1e6)
    if seconds is None:
        return Call(kind.name)
    clock = _absolute_clock(kind.name, arguments)
    if clock is None:
        return Call(kind.name, time.monotonic() + seconds, False, arguments)
    at = seconds - (time.time() - time.monotonic()) if clock == time.CLOCK_REALTIME else seconds
    return Call(kind.name, at)


def _absolute_clock(name: str, arguments: list[int]) -> int | None:
    """What clock a timeout is a time of; None: it is a duration."""
    if name == "futex" and arguments[1] & _FUTEX_COMMAND != _FUTEX_WAIT:
        realtime = arguments[1] & _FUTEX_REALTIME
        return time.CLOCK_REALTIME if realtime else time.CLOCK_MONOTONIC
    if name == "clock_nanosleep" and arguments[1] & _ABSOLUTE:
        return arguments[0]
    return None


def _time_at(task: str, address: int, fraction: float) -> float | None:
    """A struct timespec or timeval in a thread's memory, in seconds."""
    with contextlib.suppress(OSError, struct.error, OverflowError):
        fd = os.open(f"{task}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            whole, part = _TIMESPEC.unpack(os.pread(fd, _TIMESPEC.size, address))
        finally:
            os.close(fd)
        return float(whole + part / fraction)
    return None


def _timerfds() -> dict[Any, float]:
    """When the timerfds of this process are due."""
    found: dict[Any, float] = {}
    for fd in _ids("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}") != "anon_inode:[timerfd]":  # noqa: PTH115
                continue
            for line in _read(f"/proc/self/fdinfo/{fd}").decode().splitlines():
                if line.startswith("it_value:"):
                    whole, part = line.partition("(")[2].rstrip(")").split(",")
                    left_s = int(whole) + int(part) / 1e9
                    if left_s:
                        found["timerfd", fd] = time.monotonic() + left_s
    return found
