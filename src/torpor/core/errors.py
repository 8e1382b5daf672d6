"""Errors, split by who must act.

    TorporError
    ├── CallerError     what was asked cannot be done as asked: the caller changes the request
    │   ├── NotFound        no such run, wait, agent, snapshot
    │   ├── Conflict        right request, wrong moment (wait already answered, run already ended)
    │   ├── Overran         a run took longer than its agent's file allows
    │   ├── Unauthorized    nobody says who asks, or not in a way that is believed
    │   ├── Forbidden       who asks may not
    │   └── Invalid         malformed input (bad JSON, bad PEP 723 block, syntax error)
    │       └── Unfit           a snapshot of another host's machine: whole, and of no use here
    ├── HostError       this host lacks or ran out of something: its operator acts
    │   ├── Missing         a program, device or package is absent
    │   └── Exhausted       disk full, too little memory
    ├── GuestError      the agent or its machine failed: the agent's author acts
    ├── StaleEpoch      a machine that lost its run tried to write (rule 4): it must be killed
    ├── Damaged         stored bytes do not verify
    └── InternalError   torpor is wrong: we act

Every error carries `message` (what was wrong, one or a few lines), `hint` (what to do, may be
empty) and a stable `code` that clients may match. Exit codes belong to `cli/`, HTTP status
codes to `api/`.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

# What the kernel says of a disk that takes no more: it is full, or its user's share is.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Part(NamedTuple):
    """What is wrong with the part at `path` of what was given."""

    path: tuple[str | int, ...]
    message: str

    def __str__(self) -> str:
        where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in self.path)
        return f"{where.removeprefix('.')}: {self.message}" if where else self.message


def pointer(path: Iterable[str | int]) -> str:
    """As a JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


class TorporError(Exception):
    """Base of all errors that torpor raises on purpose. `str(error)` is `message`."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class CallerError(TorporError):
    code = "bad_request"


class NotFound(CallerError):
    code = "not_found"


class Conflict(CallerError):
    code = "conflict"


class Unauthorized(CallerError):
    code = "unauthorized"


class Forbidden(CallerError):
    code = "forbidden"


class Invalid(CallerError):
    """`parts`: what is wrong with which part of it, where that is known."""

    code = "invalid"

    def __init__(self, message: str, *, hint: str = "", parts: Sequence[Part] = ()) -> None:
        super().__init__(message, hint=hint)
        self.parts = tuple(parts)


class Unfit(Invalid):
    """`message` says in what the machine of a snapshot differs from those of this host."""


class Overran(CallerError):
    code = "overran"


class HostError(TorporError):
    code = "host"


class Missing(HostError):
    code = "missing"


class Exhausted(HostError):
    code = "exhausted"


def full_disk(error: BaseException) -> Exhausted | None:
    """`error` as what its operator reads, if a full disk is what it says."""
    if isinstance(error, Exhausted):
        return error
    if not isinstance(error, OSError) or error.errno not in FULL:
        return None
    where = f"{error.filename}: " if error.filename else ""
    full = Exhausted(
        f"{where}{error.strerror}", hint="Free some space; torpor then goes on by itself."
    )
    full.__cause__ = error
    return full


class GuestError(TorporError):
    code = "guest"


class StaleEpoch(TorporError):
    code = "stale_epoch"


class Damaged(TorporError):
    code = "damaged"


class InternalError(TorporError):
    code = "internal"


def problem(error: TorporError) -> dict[str, Any]:
    """An error as a document, as RFC 9457 has it, wherever a program gets one. What is wrong
    with parts of what was given is in `errors`, by JSON pointers."""
    parts = error.parts if isinstance(error, Invalid) else ()
    errors = [{"pointer": pointer(part.path), "detail": part.message} for part in parts]
    return {
        "type": f"urn:torpor:problem:{error.code}",
        "title": re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).capitalize(),
        "detail": error.message,
        "code": error.code,
        "hint": error.hint,
        **({"errors": errors} if errors else {}),
    }
