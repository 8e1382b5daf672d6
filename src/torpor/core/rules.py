"""How the runs of an agent are treated, as `[tool.torpor]` of its file says. None of it makes
another version: deployed again, an agent has the rules that its file then says, for all its runs.

    queue = "mail"                              # the queue of its runs; by default one of their own
    [tool.torpor.budget]                        # of each run, on the network (`core.egress`)
    [tool.torpor.queues.mail]                   # limits of a queue
    concurrency = 4                             # so many of its runs have a machine at once
    per_key = 1                                 # so many of the same key (`--key`)
    rate = "10/1m"                              # so many start within that time
    retries = 3                                 # a run that failed is tried again, so often
    retry_backoff = "5s"                        # after that, twice as long each time
    memory_max = "2G"                           # out of memory: again, on a bigger machine
    max_compute = "1h"                          # with a machine, waits excluded; longer has failed
    max_wall = "7d"                             # from its start; longer has failed
    max_import = "15m"                          # its file is imported within that, else refused
    output = "64M"                              # so much of what it prints is in the log
    upgradable = true                           # `torpor upgrade` may move runs to this version
    permission_timeout = "12h"                  # nobody has decided within that: denied
    engine = "process"                          # what its runs are of, where nobody says otherwise
    freeze_on_model_wait = true                 # frozen under a model's call that takes longer than
                                                # a freeze; false: never; "5s": longer than that

Pure. What is given stays as it was given (`Rules.given`): so it travels, and so it is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torpor.core.durations import seconds
from torpor.core.egress import UNLIMITED, Budget, parse_budget
from torpor.core.errors import Invalid
from torpor.core.sizes import parse_memory, size_mib
from torpor.core.starting import check_name

T = TypeVar("T")

COUNT_MAX = 1_000_000
QUEUES_MAX = 100
_RATE = re.compile(r"([1-9][0-9]{0,5})\s*/\s*([0-9.]*\s*(?:ms|[smhdw]))")


@dataclass(frozen=True)
class Rate:
    """`count` within `per_s` seconds."""

    count: int
    per_s: float
    text: str


@dataclass(frozen=True)
class Limits:
    """Of a queue; None is without limit."""

    concurrency: int | None = None
    per_key: int | None = None
    rate: Rate | None = None


@dataclass(frozen=True)
class Rules:
    queue: str | None = None
    queues: Mapping[str, Limits] = field(default_factory=dict)
    retries: int = 0
    retry_backoff_s: float = 5.0
    memory_max_mib: int | None = None
    max_compute_s: float | None = None
    max_wall_s: float | None = None
    max_import_s: float = 300.0
    output_bytes: int = 64 << 20
    upgradable: bool = False
    engine: str | None = None
    freeze_on_model_wait: bool | float = True  # seconds that a call must have taken
    budget: Budget = UNLIMITED
    permission_timeout_s: float | None = None  # where who asks names none
    given: Mapping[str, Any] = field(default_factory=dict, compare=False)


def parse_rules(given: Mapping[str, Any], what: str) -> Rules:
    """The rules that `given` says, keys of KEYS as a file has them. `what` begins the message of
    the Invalid that it raises."""
    if not isinstance(given, Mapping) or not given.keys() <= set(KEYS):
        raise Invalid(f"{what}: the rules are {', '.join(KEYS)}")
    read = {
        name: check(given[key], f"{what}: {key}")
        for key, (name, check) in _CHECKS.items()
        if key in given
    }
    return Rules(**read, given=dict(given))


def parse_rate(value: Any, what: str) -> Rate:
    """A rate such as "10/1m", "100/h"."""
    match = _RATE.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    if match is not None:
        span = match[2] if match[2][0].isdigit() else f"1{match[2]}"
        per_s = _refusing(lambda: seconds(span), what)
        if per_s > 0:
            return Rate(int(match[1]), per_s, value.strip())
    raise Invalid(f'{what}: {value!r} is not a rate such as "10/1m" (how many, in what time)')


def parse_limits(given: Any, what: str) -> Limits:
    if not isinstance(given, Mapping) or not given.keys() <= {"concurrency", "per_key", "rate"}:
        raise Invalid(f"{what}: a queue can have concurrency, per_key and rate")
    count = {key: _count(given[key], f"{what}.{key}", 1) for key in given if key != "rate"}
    rate = parse_rate(given["rate"], f"{what}.rate") if "rate" in given else None
    return Limits(**count, rate=rate)


def _queues(given: Any, what: str) -> dict[str, Limits]:
    if not isinstance(given, Mapping) or len(given) > QUEUES_MAX:
        raise Invalid(f"{what} must be a table of at most {QUEUES_MAX} queues")
    return {
        check_name(name, what): parse_limits(limits, f"{what}.{name}")
        for name, limits in given.items()
    }


def _count(value: Any, what: str, low: int) -> int:
    if type(value) is not int or not low <= value <= COUNT_MAX:
        raise Invalid(f"{what} must be a whole number from {low} to {COUNT_MAX:,}")
    return value


def _refusing(do: Callable[[], T], what: str) -> T:
    try:
        return do()
    except ValueError as error:
        raise Invalid(f"{what}: {error}") from error


def _duration(value: Any, what: str) -> float:
    span = _refusing(lambda: seconds(value), what)
    if span <= 0:
        raise Invalid(f"{what} must be longer than zero")
    return span


def _patience(value: Any, what: str) -> bool | float:
    if isinstance(value, bool):
        return value
    with suppress(ValueError):
        if isinstance(value, str) and (span := seconds(value)) > 0:
            return span
    raise Invalid(f'{what} must be true, false, or how long a call must have taken, such as "5s"')


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise Invalid(f"{what} must be true or false")
    return value


# What a file calls it → what `Rules` does, and how it is read.
_CHECKS: dict[str, tuple[str, Callable[[Any, str], Any]]] = {
    "queue": ("queue", check_name),
    "queues": ("queues", _queues),
    "retries": ("retries", lambda value, what: _count(value, what, 0)),
    "retry_backoff": ("retry_backoff_s", _duration),
    "memory_max": ("memory_max_mib", parse_memory),
    "output": ("output_bytes", lambda value, what: size_mib(str(value), 2, 1 << 20, what) << 20),
    "max_compute": ("max_compute_s", _duration),
    "max_wall": ("max_wall_s", _duration),
    "max_import": ("max_import_s", _duration),
    "upgradable": ("upgradable", _flag),
    "engine": ("engine", check_name),  # whether there is one: `torpor.engine.registry`
    "freeze_on_model_wait": ("freeze_on_model_wait", _patience),
    "budget": ("budget", parse_budget),
    "permission_timeout": ("permission_timeout_s", _duration),
}
KEYS = tuple(_CHECKS)
