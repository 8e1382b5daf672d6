"""Tracebacks as people read them."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from torpor.dashboard import tracebacks
from torpor.dashboard.tracebacks import Frame, Part

WRITTEN = """Traceback (most recent call last):
  File "/home/me/.torpor/work/run_1m8fvncfebmfjhg2/work/pay/agent.py", line 32, in billing
    return charge({"id": invoice})
           ^^^^^^^^^^^^^^^^^^^^^^^
  File "/venv/lib/python3.12/site-packages/httpx/_client.py", line 7, in get
    raise ConnectError(
        "no")
  File "/usr/lib/python3.12/json/decoder.py", line 355, in raw_decode
    obj, end = self.scan_once(s, idx)
KeyError: 'amount'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/home/agent/work/agent.py", line 34, in billing
    raise ValueError(f"invoice {invoice}") from error
ValueError: invoice 7
  in two lines
"""


def test_frames_of_libraries_are_together_and_paths_are_short() -> None:
    read = tracebacks.read(WRITTEN)
    first = Frame("pay/agent.py", 32, "billing", 'return charge({"id": invoice})')
    client = Frame("httpx/_client.py", 7, "get", 'raise ConnectError(\n"no")', "httpx")
    decoder = "obj, end = self.scan_once(s, idx)"
    assert read.parts[:3] == (
        Part((first,)),
        Part((client, Frame("json/decoder.py", 355, "raw_decode", decoder, "json"))),
        Part(
            text="KeyError: 'amount'\n\n"
            "The above exception was the direct cause of the following exception:"
        ),
    )
    assert read.parts[1].libraries == "httpx, json"
    assert read.parts[-1] == Part(text="ValueError: invoice 7\n  in two lines")
    assert (read.frames, read.where) == (4, read.parts[3].frames[0])
    assert read.where is not None and read.where.file == "agent.py"


def _raised(wrong: Callable[[], object]) -> str:
    try:
        wrong()
    except Exception:
        return traceback.format_exc()
    raise AssertionError


def test_what_python_writes_is_read() -> None:
    read = tracebacks.read(_raised(lambda: json.loads("{")))
    last = read.parts[-1]
    assert last.text.startswith("json.decoder.JSONDecodeError: Expecting property name")
    assert read.where is not None and read.where.file.endswith("test_dashboard_tracebacks.py")
    assert [part.libraries for part in read.parts if part.frames] == ["", "json"]


def test_a_group_of_exceptions_keeps_its_words() -> None:
    async def two() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_fail("one"))
            group.create_task(_fail("two"))

    read = tracebacks.read(_raised(lambda: asyncio.run(two())))
    said = "\n".join(part.text for part in read.parts)
    assert "ValueError: one" in said and "ValueError: two" in said
    assert read.where is not None and read.where.function == "_fail"


async def _fail(why: str) -> None:
    raise ValueError(why)


def test_what_is_none_is_text() -> None:
    assert tracebacks.read("the machine is lost").parts == (Part(text="the machine is lost"),)
    assert tracebacks.read("").parts == ()


@given(st.text(alphabet=st.sampled_from(' \n|+^~"File,line1in/abc'), max_size=120))
def test_whatever_it_is_it_is_read(text: str) -> None:
    tracebacks.read(text)
    tracebacks.read(f'  File "a.py", line 1, in f\n{text}')
