# /// script
# requires-python = ">=3.11"
# [tool.torpor]
# memory = "512M"
# disk = "256M"
# ///
"""What `torpor bench computing` runs, in a machine and, as a script, on the host: a bit of all that
agents compute. It prints, or returns, the milliseconds of each."""

import hashlib
import json
import random
import re
import sqlite3
import subprocess
import sys
import time
import zlib
from collections.abc import Callable

import torpor

MODULES = (
    "argparse, asyncio, concurrent.futures, csv, dataclasses, decimal, difflib, email.message, "
    "http.client, logging.config, multiprocessing, pydoc, ssl, tarfile, unittest, urllib.request, "
    "uuid, xml.etree.ElementTree, zipfile"
)
MAIL = re.compile(r"[\w.+-]+@(?:[\w-]+\.)+[a-z]{2,}|\b\d{4}-\d\d-\d\d\b")
SEED = 12


def imports() -> None:
    """In a new interpreter, as none is imported twice."""
    subprocess.run([sys.executable, "-c", f"import {MODULES}"], check=True)


def as_json() -> None:
    rows = [{"id": n, "name": f"row {n}", "tags": ["a", "b"], "x": n / 7} for n in range(10_000)]
    assert len(json.loads(json.dumps(rows))) == 10_000


def expressions() -> None:
    text = "Write to ann.lee+spam@mail.example.org by 2026-11-28, or do not. " * 16_000
    assert len(MAIL.findall(text)) == 32_000


def sqlite() -> None:
    with sqlite3.connect(":memory:") as database:
        database.execute("create table t (id integer primary key, word text, n integer)")
        rows = ((f"word {n % 977}", n) for n in range(30_000))
        database.executemany("insert into t (word, n) values (?, ?)", rows)
        database.execute("create index t_word on t (word)")
        found = database.execute("select word, sum(n) from t group by word order by 2").fetchall()
    database.close()
    assert len(found) == 977


def sorting() -> None:
    draw = random.Random(SEED)
    words = [f"{draw.random():.12f}" for _ in range(60_000)]
    words.sort(key=lambda word: word[::-1])
    assert len(set(words)) > 59_000


def hashing() -> None:
    data = bytes(1 << 20)
    for _ in range(60):
        data = hashlib.sha256(data).digest() * (1 << 15)


def compressing() -> None:
    text = b"".join(b"line %d of a text that compresses, %x\n" % (n, n * n) for n in range(40_000))
    assert zlib.decompress(zlib.compress(text)) == text


def arithmetic() -> None:
    total = 0.0
    for n in range(1, 600_000):
        total += (n * n % 97) / n
    assert total > 0


CHORES: dict[str, Callable[[], None]] = {
    "imports": imports,
    "JSON": as_json,
    "regular expressions": expressions,
    "SQLite": sqlite,
    "sorting": sorting,
    "SHA-256": hashing,
    "zlib": compressing,
    "arithmetic": arithmetic,
}


@torpor.agent
def mixed() -> dict[str, float]:
    took = {}
    for name, chore in CHORES.items():
        began = time.perf_counter()
        chore()
        took[name] = 1000 * (time.perf_counter() - began)
    return took


if __name__ == "__main__":
    print(json.dumps(mixed()))
