"""What a recovered agent prints again is in the log once, and what it prints otherwise is there
whole: by content, whatever pieces it comes in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from torpor.contextlog.agents import NewAgent, put_agent
from torpor.contextlog.entries import read_entries
from torpor.contextlog.output import ANEW
from torpor.contextlog.runs import claim, create_run, get_run
from torpor.core.home import Home
from torpor.core.ids import AgentVersion, OpId, RunId
from torpor.core.position import NOT_BEGUN, Position
from torpor.logstore.sqlite import SqliteStore
from torpor.machines.channel import Output
from torpor.wire.link import STDERR, STDOUT
from torpor.worker import beside, printed
from torpor.worker.beside import Beside
from torpor.worker.output import Streams
from torpor.worker.pen import Pen

T = TypeVar("T")

VERSION = AgentVersion("a" * 32)
# Of a life: what it prints, to which stream; a step that ends, or is not run again.
Part = tuple[int, str] | str
Do = Callable[[Awaitable[T]], T]
texts = st.text("ab\né🙂", max_size=12)
cuts = st.lists(st.integers(0, 60), max_size=4)


class Lives:
    """A run whose agent prints to its real log, life after life."""

    def __init__(self, store: SqliteStore, limit: int | None = None) -> None:
        self.store, self._limit = store, limit
        self._steps: dict[str, dict[str, int]] = {}
        self.run = RunId("")

    async def begin(self) -> Lives:
        make: dict[str, Any] = {"version": VERSION, "agent": None, "input": {}, "now": 2.0}
        self.run = (await self.store.write(lambda c: create_run(c, **make))).id
        return self

    async def live(
        self,
        *parts: Part,
        cuts: Sequence[int] = (),
        frozen: tuple[Position, int] | None = None,
    ) -> tuple[Position, int]:
        """Be claimed and print: whole, in `cuts` pieces, and freeze in the end."""
        epoch = await self.store.write(lambda c: claim(c, self.run, 3.0))
        pen, streams = Pen(self.store, self.run, epoch), Streams()
        pen._output_limit = self._limit
        streams.expect([{"op": op, "printed": had} for op, had in self._steps.items()])
        if frozen is not None:
            streams.take_up(*frozen)
        for part in parts:
            if isinstance(part, str):
                if part in self._steps:
                    streams.replayed(OpId(part))
                else:
                    self._steps[part] = streams.offsets()
                continue
            channel, text = part
            for piece in pieces(text.encode(), cuts):
                await pen.write(*await streams.take(Output(channel, piece), pen))
        seq = (await self.store.read(lambda c: get_run(c, self.run))).last_seq
        position = json.dumps(streams.added_to(NOT_BEGUN).to_json())
        return Position.of_json(json.loads(position)), seq

    async def out(self, stream: str = "stdout") -> str:
        kept = Beside(Home(self.store.path.parent).output)
        text = b"".join(kept.whole(self.store, self.run, stream)).decode()
        row = await self.store.read(lambda c: get_run(c, self.run))
        assert {"stdout": row.out_offset, "stderr": row.err_offset}[stream] == len(text.encode())
        return text

    async def anew(self) -> list[dict[str, object]]:
        rows = await self.store.read(lambda c: read_entries(c, self.run, kinds=[ANEW]))
        return [row.data for row in rows]


def pieces(data: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        yield data[start:end]


def both(one: str, other: str) -> str:
    """What the log has after two lives that print these."""
    same = next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    if same == len(other):
        return one
    if same == len(one):
        return other
    seam = "" if one.endswith("\n") else "\n"
    return one + seam + other[other.rfind("\n", 0, same) + 1 :]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is read in pages is read in several."""
    monkeypatch.setattr(printed, "_MANY", 2)
    monkeypatch.setattr(printed, "_CHUNK", 3)


@pytest.fixture
def store(tmp_path: Path, small: None) -> Iterator[SqliteStore]:
    store = SqliteStore.open(tmp_path / "torpor.db")
    yield store
    store.close()


@pytest.fixture
def do(store: SqliteStore) -> Iterator[Do[Any]]:
    def agent(c: Connection) -> None:
        spec = {"memory_mib": 512}
        put_agent(
            c,
            NewAgent(engine="qemu", version=VERSION, name="a", entry="a.py", source=b"", spec=spec),
            1.0,
        )

    with asyncio.Runner() as runner:

        def do(work: Awaitable[Any]) -> Any:
            async def main() -> Any:
                return await work

            return runner.run(main())

        do(store.write(agent))
        yield do


def test_two_lives(store: SqliteStore, do: Do[Any]) -> None:
    """Equal, longer, shorter, other than the first from some byte on, in whatever pieces."""

    @settings(max_examples=60, deadline=None)
    @given(texts, texts, st.lists(cuts, min_size=2, max_size=2), st.sampled_from([None, 1, 3]))
    @example("AT start\n", "PAID run_1m8f\n", [[], []], None)
    @example("ab\ncd\nef", "ab\ncx\nef\n", [[3], [1, 4]], None)
    @example("aé\n", "aè\n", [[2], [2]], None)
    @example("long\n" * 9, "long\n" * 5 + "short\n", [[], []], 11)
    def check(one: str, other: str, cuts: list[list[int]], limit: int | None) -> None:
        async def lead() -> None:
            lives = await Lives(store, limit).begin()
            for text, pieces in zip((one, other), cuts, strict=True):
                await lives.live((STDOUT, text), cuts=pieces)
            assert await lives.out() == both(one, other)
            assert len(await lives.anew()) == (both(one, other) not in (one, other))
            await lives.live((STDOUT, one), cuts=cuts[1])
            await lives.live((STDOUT, other), cuts=cuts[0])
            assert await lives.out() == both(one, other), "each was printed before"

        do(lead())

    check()


def test_many_lives(store: SqliteStore, do: Do[Any]) -> None:
    """Whatever they print, no line of it is missing, and what any of them printed is not repeated
    by a later one. Frozen and thawed in between, it is the same life."""

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.tuples(texts, texts, cuts), min_size=3, max_size=6),
        st.sampled_from([None, 1, 9]),
    )
    def check(printed: list[tuple[str, str, list[int]]], limit: int | None) -> None:
        async def lead() -> None:
            lives = await Lives(store, limit).begin()
            for before, after, cuts in printed:
                had = await lives.out()
                frozen = await lives.live((STDOUT, before), cuts=cuts)
                await lives.live((STDOUT, after), cuts=cuts, frozen=frozen)
                has = await lives.out()
                assert has.startswith(had)
                *lines, last = (before + after).split("\n")
                assert set(lines) <= set(has.split("\n"))
                assert any(line.startswith(last) for line in has.split("\n"))
            for before, after, cuts in printed:
                await lives.live((STDOUT, before + after), cuts=cuts)
                assert await lives.out() == has

        do(lead())

    check()


def test_steps_that_are_not_run_again(store: SqliteStore, do: Do[Any]) -> None:
    """What their bodies printed is skipped, also to stderr, as long as the rest is the same."""

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), texts, texts), max_size=5),
        st.integers(0, 9),
        texts,
        cuts,
    )
    def check(parts: list[tuple[int, str, str]], at: int, new: str, cuts: list[int]) -> None:
        async def lead() -> None:
            lives = await Lives(store).begin()
            first: list[Part] = []
            again: list[Part] = []
            for n, (channel, said, body) in enumerate(parts):
                first += [(channel, said), (channel, body), f"step:{n}#1"]
                again += [(channel, said), f"step:{n}#1"]
            await lives.live(*first, cuts=cuts)
            had = [await lives.out(), await lives.out("stderr")]
            await lives.live(*again, cuts=cuts)
            assert [await lives.out(), await lives.out("stderr")] == had
            changed = list(again)
            at_part = at % (len(again) + 1)
            changed.insert(at_part, (STDOUT, f"\nX{new}\nY\n"))
            await lives.live(*changed, cuts=cuts)
            out = await lives.out()
            assert out.startswith(had[0]) and f"\nX{new}\nY\n" in out
            assert await lives.out("stderr") == had[1]
            rest = "".join(text for part in changed[at_part + 1 :] if (text := said_to(part)))
            assert out.endswith(f"\nX{new}\nY\n{rest}"), "from there on, all of it"

        do(lead())

    check()


def said_to(part: Part) -> str:
    return part[1] if isinstance(part, tuple) and part[0] == STDOUT else ""


def test_how_it_reads(store: SqliteStore, do: Do[Any]) -> None:
    async def lead() -> None:
        lives = await Lives(store).begin()
        await lives.live((STDOUT, "AT start\nat 9:00 be"))
        await lives.live((STDOUT, "AT start\nat 9:01 begun\n"))
        assert await lives.out() == "AT start\nat 9:00 be\nat 9:01 begun\n"
        assert await lives.anew() == [{"stream": "stdout", "offset": 20, "instead": 9}]
        await lives.live((STDOUT, "AT start\nat 9:01 begun\nended\n"))
        assert (await lives.out()).endswith("at 9:01 begun\nended\n")
        # A line without end is not repeated without end.
        await lives.live((STDOUT, "AT start\n" + "." * 100_000))
        had = len(await lives.out())
        await lives.live((STDOUT, "AT start\n" + "." * 100_000 + "!"))
        await lives.live((STDOUT, "AT start\n" + "." * 99_000 + "é\n"))
        assert len(await lives.out()) == had + 1 + 1 + printed.LAST_LINE_BYTES_MAX + 2

    do(lead())


def test_what_was_dropped_is_dropped_again(
    store: SqliteStore, do: Do[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "BESIDE_BYTES_MAX", 8192)

    async def lead() -> None:
        text = "".join(f"{n:07d}\n" for n in range(2000))
        lives = await Lives(store, 100).begin()
        for _ in range(2):
            await lives.live((STDOUT, text), cuts=range(0, 16_000, 1000))
            row = await store.read(lambda c: get_run(c, lives.run))
            assert row.out_offset == 16_000
        kept = Beside(Home(store.path.parent).output)
        assert b"".join(kept.whole(store, lives.run, "stdout")).decode() == text[:8192]

    do(lead())
