"""Ask a question: start the process for it, read what it finds, end it when its time is up.

Few at once: they share the host with the agents. Whoever comes when all places are taken waits for
one; the time that a question has begins when it has a place.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torpor.core.errors import CallerError, Exhausted, HostError, Invalid
from torpor.core.prices import Prices

AT_ONCE = 2
WAITING_MAX = 32
TIMEOUT_S, TIMEOUT_S_MAX = 10.0, 60.0
ROWS, ROWS_MAX = 1000, 10_000
BYTES_MAX = 8 << 20
SQL_CHARS_MAX = 100_000
_WORKER_START_S = 10.0  # until the process has loaded, on a busy host
_GRACE_S = 1.0  # until it is killed, not asked
_LINE_BYTES_MAX = 2 * BYTES_MAX
_COMMAND = [sys.executable, "-I", "-m", "torpor.query.worker"]

Parameters = Sequence[Any] | Mapping[str, Any]


class TookTooLong(CallerError):
    """The question's time was up."""

    code = "too_slow"


@dataclass(frozen=True)
class Question:
    sql: str
    parameters: Parameters = ()
    rows_max: int = ROWS
    timeout_s: float = TIMEOUT_S


@dataclass(frozen=True)
class Answer:
    """`more`: there are more rows than were asked for, or than fit into BYTES_MAX."""

    columns: list[str]
    rows: list[list[Any]]
    more: bool
    ms: float

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


class Asking:
    """All questions of one server."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._places = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def ask(self, question: Question, prices: Prices) -> Answer:
        """Raises Invalid (what SQLite says of the SQL, what it may not do), TookTooLong, Exhausted
        (memory; too many wait), HostError."""
        if self._waiting >= WAITING_MAX:
            raise Exhausted(f"{WAITING_MAX} queries are waiting already", hint="Try again later.")
        self._waiting += 1
        try:
            async with self._places:
                self._waiting -= 1
                try:
                    return await _ask(self._database, question, prices)
                finally:
                    self._waiting += 1
        finally:
            self._waiting -= 1


async def _ask(database: Path, question: Question, prices: Prices) -> Answer:
    request = {
        "path": str(database),
        "sql": question.sql,
        "parameters": question.parameters,
        "rows_max": question.rows_max,
        "bytes_max": BYTES_MAX,
        "timeout_s": question.timeout_s,
        "prices": prices.table,
        "price_unknown": prices.unknown,
    }
    process = await asyncio.create_subprocess_exec(
        *_COMMAND,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES_MAX,
        env={},
        cwd="/",
    )
    try:
        async with asyncio.timeout(_WORKER_START_S + question.timeout_s + _GRACE_S):
            out, err = await process.communicate(json.dumps(request).encode())
    except TimeoutError as error:
        raise _too_slow(question) from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return _read(question, out, err, process.returncode or 0)


def _read(question: Question, out: bytes, err: bytes, code: int) -> Answer:
    columns: list[str] = []
    rows: list[list[Any]] = []
    for line in out.splitlines():
        try:
            message = json.loads(line)
        except ValueError:  # cut off: it was ended
            break
        match message:
            case {"columns": columns}:
                pass
            case {"row": row}:
                rows.append(row)
            case {"done": done}:
                return Answer(columns, rows, done["more"], done["ms"])
            case {"error": error}:
                raise _error(question, error["kind"], error["message"])
    if code < 0:  # by the kernel, at one of its limits
        raise _too_slow(question)
    if b"MemoryError" in err:
        raise _error(question, "memory", "")
    raise HostError(
        f"the query's process ended with {code}",
        hint=err.decode(errors="replace").strip().rpartition("\n")[2],
    )


def _error(question: Question, kind: str, message: str) -> Exception:
    match kind:
        case "time":
            return _too_slow(question)
        case "memory":
            return Exhausted(
                "the query needs more memory than queries may use",
                hint="Select fewer rows, or fewer columns.",
            )
        case "refused":
            return Invalid(
                f"not allowed: {message}",
                hint="Queries can read the views of docs/sql.md, and change nothing.",
            )
        case "host":
            return HostError(f"the database cannot be read: {message}")
        case _:
            return Invalid(message, hint="The views and their columns are in docs/sql.md.")


def _too_slow(question: Question) -> TookTooLong:
    return TookTooLong(
        f"the query took longer than {question.timeout_s:g} s",
        hint="Select less: one run, a shorter time, an aggregate.",
    )
