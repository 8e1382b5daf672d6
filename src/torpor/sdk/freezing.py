"""How an agent's process stands still, and what it does before it moves again (rule 8).

`hold` is called by the one thread that talks to the supervisor, and keeps Python's global
interpreter lock while it waits: no other Python thread of the process can run. Once released it
gives the process its identity of this epoch and new seeds for the random generators that live in
user space (`torpor.sdk.generators` has the agent's own), and says so to the supervisor, and only
then lets the other threads go on.

Two things make that exact. ctypes.PyDLL calls C functions without giving up the lock. And all of
it, from "held" to "fresh", is one chain of C iterators that one call of a C function consumes:
no bytecode runs in between, so the interpreter never comes to a point where it would hand the
lock to a thread that asked for it before the freeze. (A garbage collection could run Python code
in the middle; it is off meanwhile.) Signals are blocked in this thread, so that the blocking read
is not cut short.

The supervisor answers a held process with one marshalled dict, at most RELEASE_BYTES_MAX long:
`seeds` is a list of one string of 32 bytes after a thaw, and an empty list when the machine was
not frozen after all; all other keys go to the identity as they are.
"""

from __future__ import annotations

import collections
import ctypes
import gc
import marshal
import random
import signal
import struct
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from itertools import chain, count, repeat
from operator import add, itemgetter
from typing import Any, TypeVar

from torpor.guest.held import FRESH, HELD, RELEASE_BYTES_MAX, SEED_BYTES
from torpor.sdk.errors import text_of
from torpor.sdk.generators import generators
from torpor.wire import messages

Hook = TypeVar("Hook", bound=Callable[[], object])

_libc = ctypes.PyDLL(None)
# glibc's malloc_trim(3): the kernel gets free memory back and fills it with zeros, which cost a
# snapshot nothing; what was left in it costs half its size. Other C libraries have none.
_release_memory: Callable[[int], object] = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)
_freeze_hooks: list[Callable[[], object]] = []
_thaw_hooks: list[Callable[[], object]] = []


def on_freeze(hook: Hook) -> Hook:
    """Call `hook` before the machine is frozen: close what cannot sleep. If it raises, the
    machine is not frozen. It has two seconds, and cannot use operations."""
    _freeze_hooks.append(hook)
    return hook


def on_thaw(hook: Hook) -> Hook:
    """Call `hook` when the machine runs again, before any answer is delivered: seed your own
    random generators, reconnect. Also called when a freeze for which the `on_freeze` hooks ran
    did not happen. What it raises is printed and goes no further."""
    _thaw_hooks.append(hook)
    return hook


def before_freeze() -> str:
    """Run the hooks. If one fails, why, and those of the thaw have run; else nothing."""
    try:
        for hook in _freeze_hooks:
            hook()
    except BaseException as error:
        after_freeze()
        described = messages.error(type(error).__name__, text_of(error))  # of bounded length
        return f"an on_freeze hook raised {described['type']}: {described['message'][:2000]}"
    generators.look()
    flush_output()  # a line that was begun is shown while it sleeps
    _release_memory(0)
    return ""


def hooked(*, thaws: bool = False) -> bool:
    """Whether others' code runs before a freeze; with `thaws`, or after one."""
    return bool(_freeze_hooks or (thaws and _thaw_hooks))


def flush_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:  # noqa: SIM105 -- each step does this, and `suppress` takes as long again
            stream.flush()
        except Exception:  # the agent may have closed or replaced them
            pass


def spare_heap() -> None:
    """What there is now stays. To look through it for garbage again and again takes time, and
    writes to it: its pages would be in each snapshot."""
    generators.look()
    gc.freeze()


def after_freeze() -> None:
    for hook in _thaw_hooks:
        try:
            hook()
        except BaseException:
            # Not its repr, which may be that of an object with secrets in it.
            name = getattr(hook, "__qualname__", type(hook).__qualname__)
            print(f"torpor: on_thaw hook {name} failed:", file=sys.stderr)
            traceback.print_exc()


def hold(fd: int, identity: dict[str, Any]) -> None:
    """Say "held" on `fd`, wait for the release, take it, say "fresh". Raises if the other side
    is gone."""
    buffer = ctypes.create_string_buffer(RELEASE_BYTES_MAX)
    seeds = _Seeds(identity)
    actions: Iterator[Any] = chain(
        map(_libc.write, (fd,), (HELD,), (1,)),
        map(_libc.read, (fd,), (buffer,), (RELEASE_BYTES_MAX,)),
        map(identity.update, map(marshal.loads, (buffer,))),
        *_reseeders(seeds),
        map(_libc.write, (fd,), (FRESH,), (1,)),
    )
    collecting = gc.isenabled()
    gc.disable()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        collections.deque(actions, maxlen=0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if collecting:
            gc.enable()
        seeded = bool(identity.pop("seeds", None))
    if seeded:
        generators.reseed()


class _Seeds:
    """The seeds that the release will bring, each time anew as an iterator that is not read
    before its turn in the chain has come."""

    def __init__(self, identity: dict[str, Any]) -> None:
        self._identity = identity

    def later(self) -> Iterator[bytes]:
        return chain.from_iterable(map(itemgetter("seeds"), (self._identity,)))


def _reseeders(seeds: _Seeds) -> Iterator[Iterator[Any]]:
    shared: Any = random._inst
    # The C method below random.Random.seed, which itself is Python.
    seed_shared = super(random.Random, shared).seed
    to_int: Any = int.from_bytes
    yield map(seed_shared, map(to_int, seeds.later(), ("little",)))
    yield map(setattr, (shared,), ("gauss_next",), (None,))
    yield from _plain_reseeders(seeds)
    yield map(setattr, (tempfile,), ("_name_sequence",), (None,))
    if ssl := sys.modules.get("ssl"):
        yield map(ssl.RAND_add, seeds.later(), (float(SEED_BYTES),))
    if numpy_random := sys.modules.get("numpy.random"):
        words = struct.Struct(f"<{SEED_BYTES // 4}I").unpack
        yield map(numpy_random.seed, map(words, seeds.later()))


def _plain_reseeders(seeds: _Seeds) -> Iterator[Iterator[Any]]:
    """For the agent's own; each gets another seed."""
    plain, c_class = generators.plain(), random.Random.__mro__[1]
    to_int: Any = int.from_bytes
    first = chain.from_iterable(map(repeat, map(to_int, seeds.later(), ("little",))))
    c_seed: Any = vars(c_class)["seed"]
    yield map(c_seed, plain, map(add, first, count(1)))
    # As many as there are, if there is a seed.
    nothing: Any = {}.get
    nones = chain.from_iterable(map(repeat, map(nothing, seeds.later())))
    yield map(object.__setattr__, plain, repeat("gauss_next"), nones)
