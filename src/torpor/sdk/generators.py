"""The random generators that the agent made and left to the operating system to seed.

Made while the agent's file is imported, such a one would be the same in every run of the version,
and made in a run, the same in its forks: so it is seeded anew in each thaw (`torpor.sdk.freezing`).
One that the agent seeded itself looks alike, and must stay as it is; which is which shows only when
it is seeded. So that is watched from before the file is imported: `random.Random.seed`, and where
numpy gets a seed where the caller names none.

Those of `random` are seeded before any thread runs. numpy's need Python code, which runs first of
all, but perhaps not before a thread that was waiting for the interpreter.

Not found: generators of other libraries, and what a numpy generator of the import is asked to
`spawn`. `docs/agents.md` says what to do.
"""

from __future__ import annotations

import gc
import random
import secrets
import sys
import weakref
from typing import Any

_SEED_BITS = 128  # what numpy asks for
_SEEDS_MAX = 100_000
_SEED_LOCK_S = 1.0


class Generators:
    def __init__(self) -> None:
        self._plain: dict[int, weakref.ref[random.Random]] = {}
        self._seeds: set[int] = set()  # given to numpy, and where as many bits are asked for
        self._looked = 0  # so many of them were there when it was looked last
        self._bits: list[Any] = []  # numpy's bit generators that have one; no weak references

    def watch(self) -> None:
        """From now on. Before numpy is imported, which takes what it needs of `secrets`."""
        seed, randbits = random.Random.seed, secrets.randbits
        plain, seeds = self._plain, self._seeds

        def watched_seed(self: random.Random, a: Any = None, version: int = 2) -> None:
            if a is None:
                plain[id(self)] = weakref.ref(self)
            else:
                plain.pop(id(self), None)
            seed(self, a, version)

        def watched_bits(k: int) -> int:
            drawn = randbits(k)
            if k == _SEED_BITS and len(seeds) < _SEEDS_MAX:
                seeds.add(drawn)
            return drawn

        random.Random.seed = watched_seed  # type: ignore[method-assign]
        secrets.randbits = watched_bits

    def plain(self) -> list[random.Random]:
        """Those of `random`. The shared one is none of them: it was there before."""
        for key, reference in list(self._plain.items()):
            if reference() is None:
                self._plain.pop(key, None)
        return [
            each for reference in list(self._plain.values()) if (each := reference()) is not None
        ]

    def look(self) -> None:
        """Find those of numpy, if there are new ones. Before the heap is spared: what is spared is
        not found any more."""
        numpy_random = sys.modules.get("numpy.random")
        kind = getattr(numpy_random, "BitGenerator", None)
        if kind is None or self._looked == len(self._seeds):
            return
        self._looked = len(self._seeds)
        # Nobody else has these any more.
        self._bits = [each for each in self._bits if sys.getrefcount(each) > 3]
        known = set(map(id, self._bits))
        self._bits += [
            each
            for each in gc.get_objects()
            if isinstance(each, kind) and id(each) not in known and self._is_unseeded(each)
        ]

    def _is_unseeded(self, bits: Any) -> bool:
        entropy = getattr(getattr(bits, "seed_seq", None), "entropy", None)
        return isinstance(entropy, int) and entropy in self._seeds

    def reseed(self) -> None:
        """Those of numpy that were found."""
        for each in self._bits:
            if each.lock.acquire(timeout=_SEED_LOCK_S):
                try:
                    each.state = type(each)().state
                finally:
                    each.lock.release()


generators = Generators()
