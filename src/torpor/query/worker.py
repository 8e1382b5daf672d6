"""One question: the process in which somebody's SQL runs.

    python -I -m torpor.query.worker      one JSON object on stdin, JSON lines on stdout

It reads the database and can do nothing else. Each of these would do alone against most:

 1. the file is opened read-only, and `query_only` is set;
 2. SQLite asks an authorizer about all that a statement refers to: it may select, call functions
    that SQLite calls innocuous, and read the views, and of the tables just the columns that these
    read (so no keys, no hashes of tokens, no sources). No ATTACH, no PRAGMA, no writes;
 3. the process has no environment, may write no file, have no child's memory, and its own memory
    and processor time are limited by the kernel;
 4. SQLite's own limits: lengths, depth, size of the statement;
 5. a progress handler ends a statement whose time is up; the parent kills what still lives then.

Rows leave as they are found, so that there is no limit of memory to their number, but one of
theirs and one of bytes.
"""

from __future__ import annotations

import json
import math
import os
import re
import resource
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from torpor.core.amounts import parse_amount
from torpor.core.errors import Invalid
from torpor.core.prices import Prices
from torpor.core.replies import read_reply
from torpor.query.views import VIEWS

MEMORY_BYTES_MAX = 1 << 30
TEXT_BYTES_MAX = 32 << 20  # of one value
_TICK = 20_000  # instructions of SQLite's between two looks at the clock
_CACHE_KIB = 64 << 10

_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: TEXT_BYTES_MAX,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 200,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 100,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 100_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 50,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1000,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 100,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}

_INNOCUOUS = 0x200000  # SQLITE_INNOCUOUS, in the flags of pragma_function_list
_JSON = re.compile(r"->>?|json(_\w+)?")
_TABLE_FUNCTIONS = ("json_each", "json_tree")


def main() -> int:
    question = json.load(sys.stdin)
    for line in answer(question):
        _write(sys.stdout, line)
    return 0


def answer(question: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """`columns`, then `row`s, then `done`; or `error`."""
    started = time.monotonic()
    try:
        prices = Prices(question["prices"], question["price_unknown"])
        c = connect(question["path"], prices, started + question["timeout_s"])
        _confine(question["timeout_s"])
        try:
            cursor = c.execute(question["sql"], question["parameters"])
        except sqlite3.ProgrammingError as error:
            raise _Refused(str(error)) from error
        if cursor.description is None:
            raise _Refused("this is no question: only SELECT gives rows")
        yield {"columns": [column[0] for column in cursor.description]}
        rows, room, more = 0, question["bytes_max"], False
        for row in cursor:
            cells = list(map(_cell, row))
            room -= len(json.dumps(cells))
            if rows == question["rows_max"] or room < 0:
                more = True
                break
            rows += 1
            yield {"row": cells}
        yield {"done": {"rows": rows, "more": more, "ms": (time.monotonic() - started) * 1000}}
    except _Refused as error:
        yield {"error": {"message": str(error), "kind": "sql"}}
    except sqlite3.Error as error:
        yield {"error": {"message": str(error), "kind": _kind(error)}}
    except MemoryError:
        yield {"error": {"message": "out of memory", "kind": "memory"}}
    except (ValueError, OverflowError) as error:
        yield {"error": {"message": str(error), "kind": "sql"}}


class _Refused(Exception):
    pass


def connect(path: str, prices: Prices, until: float) -> sqlite3.Connection:
    """The views, and nothing else, of the database at `path`. `until` is of `time.monotonic`."""
    c = sqlite3.connect(f"file:{_quoted(path)}?mode=ro", uri=True, isolation_level=None)
    c.text_factory = lambda raw: raw.decode(errors="replace")
    for pragma in (
        "query_only = ON",
        "trusted_schema = OFF",
        "cell_size_check = ON",
        "temp_store = MEMORY",
        f"cache_size = -{_CACHE_KIB}",
    ):
        c.execute(f"PRAGMA {pragma}")
    # Views in `temp` are ours alone, and hide the tables of the same names. `query_only` would
    # refuse them, too.
    c.execute("PRAGMA query_only = OFF")
    ours = _functions(c, prices)
    for view in VIEWS:
        c.execute(f"CREATE TEMP VIEW {view.name} AS {view.sql}")
    c.execute("PRAGMA query_only = ON")
    for name in _TABLE_FUNCTIONS:  # they come to be when they are used first, which is refused
        c.execute(f"SELECT * FROM {name}('[]')")
    functions = ours | {
        name
        for name, flags in c.execute("SELECT name, flags FROM pragma_function_list")
        if flags & _INNOCUOUS or _JSON.fullmatch(name)
    }
    tables = {name.lower() for (name,) in c.execute("SELECT name FROM main.sqlite_master")}
    c.set_authorizer(_only(_columns_read(c), tables, functions))
    for limit, most in _LIMITS.items():
        c.setlimit(limit, most)
    c.set_progress_handler(lambda: time.monotonic() > until, _TICK)
    return c


def _columns_read(c: sqlite3.Connection) -> set[tuple[str, str]]:
    """(table, column) of all that the views read; SQLite itself is asked."""
    found: set[tuple[str, str]] = set()

    def note(action: int, one: str | None, two: str | None, where: str | None, _: Any) -> int:
        if action == sqlite3.SQLITE_READ:
            found.add((str(one), str(two)))
            found.add((str(one), ""))  # as in count(*)
        return sqlite3.SQLITE_OK

    c.set_authorizer(note)
    for view in VIEWS:
        c.execute(f"EXPLAIN SELECT * FROM temp.{view.name}")
    c.set_authorizer(None)
    return found


def _only(
    readable: set[tuple[str, str]], tables: set[str], functions: set[str]
) -> Callable[..., int]:
    """What is allowed, as SQLite's authorizer: all else is denied."""
    views = {view.name for view in VIEWS}

    def authorize(
        action: int, one: str | None, two: str | None, where: str | None, inside: str | None
    ) -> int:
        match action:
            case sqlite3.SQLITE_SELECT | sqlite3.SQLITE_RECURSIVE:
                allowed = True
            case sqlite3.SQLITE_FUNCTION:
                allowed = two in functions
            case sqlite3.SQLITE_READ if not two:
                # Rows are counted, of what somebody wrote, as they wrote it: a name in WITH too.
                name = str(one).lower()
                hidden = name in tables or name.startswith(("sqlite_", "pragma_"))
                allowed = not hidden or (name, "") in readable
            case sqlite3.SQLITE_READ:
                allowed = (
                    (one in views and where == "temp")
                    or one in _TABLE_FUNCTIONS
                    # By way of a view only. But `inside` names what is in WITH, too, so that it is
                    # the columns that keep secrets.
                    or ((str(one), two) in readable and inside is not None)
                )
            case _:
                allowed = False
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    return authorize


def _functions(c: sqlite3.Connection, prices: Prices) -> set[str]:
    functions: tuple[tuple[str, int, Callable[..., Any]], ...] = (
        ("torpor_text", 1, lambda data: read_reply(_value(data)).text),
        ("torpor_arguments", 2, _arguments),
        ("torpor_model", 1, _model),
        ("torpor_cost", 4, prices.cost),
        ("torpor_charge", 5, prices.charge),
        ("torpor_limit", 2, _limit),
        ("torpor_host", 1, lambda url: _part_of(url, 0)),
        ("torpor_path", 1, lambda url: _part_of(url, 1)),
    )
    for name, arguments, function in functions:
        c.create_function(name, arguments, function, deterministic=True)
    return {name for name, *_ in functions}


def _value(data: Any) -> Any:
    """The result in an op.end entry."""
    try:
        found = json.loads(data)
    except (TypeError, ValueError, RecursionError):
        return None
    return found.get("value") if isinstance(found, dict) else None


def _arguments(data: Any, n: Any) -> str | None:
    tools = read_reply(_value(data)).tools
    return tools[n - 1].arguments if isinstance(n, int) and 1 <= n <= len(tools) else None


_MODEL = re.compile(r'"model"\s*:\s*"([^"\\]{1,200})"')


def _model(data: Any) -> str | None:
    """The model that a call was meant for, from an op.begin entry."""
    try:
        question = json.loads(data)["data"]
        texts = [question["body"]] if "body" in question else question["parts"]
        found = _MODEL.search("".join(text for text in texts if isinstance(text, str)))
    except (TypeError, ValueError, KeyError, RecursionError):
        return None
    return found and found.group(1)


def _limit(budget: Any, kind: str) -> float | int | None:
    """What `[tool.torpor.budget]` says of a kind."""
    try:
        found = json.loads(budget).get(kind)
        return None if found is None else parse_amount(kind, found, kind)
    except (TypeError, ValueError, AttributeError, Invalid):
        return None


_URL = re.compile(r"\w+://(\[[^]]*\]|[^/:?#]*)(?::\d+)?([^?#]*)")


def _part_of(url: Any, n: int) -> str | None:
    """Its host, or its path."""
    found = _URL.match(url) if isinstance(url, str) else None
    return found and (found.groups()[n] or None)


def _cell(value: Any) -> Any:
    """As JSON can say it."""
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _kind(error: sqlite3.Error) -> str:
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_INTERRUPT:
            return "time"
        case sqlite3.SQLITE_NOMEM:
            return "memory"
        case sqlite3.SQLITE_AUTH:
            return "refused"
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_CORRUPT:
            return "host"
        case _:
            return "sql"


def _confine(timeout_s: float) -> None:
    seconds = math.ceil(timeout_s) + 1
    for what, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES_MAX),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    os.nice(5)  # the server goes first


def _quoted(path: str) -> str:
    return "".join(f"%{ord(each):02x}" if each in "%?#" else each for each in path)


def _write(out: TextIO, line: dict[str, Any]) -> None:
    out.write(json.dumps(line, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    sys.exit(main())
