"""What every store promises (`torpor.logstore.protocol`), whichever database it is made of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, func, insert, select, update
from tests.unit.logstore.conftest import log, make_run, texts

from torpor.contextlog import schema
from torpor.contextlog.entries import NewEntry, append
from torpor.contextlog.news import CancelRequested, Claimable, Due, News, report
from torpor.contextlog.runs import request_cancel
from torpor.core.errors import InternalError, NotFound, TorporError
from torpor.core.ids import RunId
from torpor.logstore.protocol import Store

pytestmark = pytest.mark.anyio

Reopen = Callable[[], Store]


def how_many(c: Connection) -> int:
    return c.scalar(select(func.count()).select_from(schema.entries)) or 0


class Gate:
    """Holds the writer up, so that what is written meanwhile makes one batch."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._entered, self._open = asyncio.Event(), asyncio.Event()

    async def __aenter__(self) -> None:
        self._writing = asyncio.create_task(self._store.write(self._hold))
        await self._entered.wait()

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)  # what was begun is queued now
        self._open.set()
        await self._writing

    def _hold(self, c: Connection) -> None:
        self._loop.call_soon_threadsafe(self._entered.set)
        asyncio.run_coroutine_threadsafe(self._open.wait(), self._loop).result()


async def test_a_write_gives_its_value_and_is_read_again(store: Store, reopen: Reopen) -> None:
    run = await store.write(make_run)
    await store.write(log(run, "one"))
    assert await store.read(texts(run)) == ["one"]
    assert await asyncio.to_thread(store.read_here, texts(run)) == ["one"]
    store.close()
    assert await reopen().read(texts(run)) == ["one"]


async def test_a_failing_write_is_rolled_back_alone(store: Store) -> None:
    run = await store.write(make_run)

    def fails(c: Connection) -> None:
        log(run, "lost")(c)
        raise LookupError("on purpose")

    async with Gate(store):
        writes = [
            asyncio.create_task(store.write(log(run, f"{i}") if i % 3 else fails))
            for i in range(30)
        ]
    done = await asyncio.gather(*writes, return_exceptions=True)
    assert [isinstance(d, LookupError) for d in done] == [i % 3 == 0 for i in range(30)]
    with pytest.raises(LookupError):  # and where it has the transaction for itself
        await store.write(fails)
    assert await store.read(texts(run)) == [f"{i}" for i in range(30) if i % 3]


async def test_a_statement_that_fails_does_not_spoil_the_writes_beside_it(store: Store) -> None:
    run = await store.write(make_run)
    orphan = {"run": "run_none", "seq": 1, "at": 1.0, "kind": "note.log", "data": {}}

    def fails(c: Connection) -> None:
        c.execute(insert(schema.entries), [orphan])

    async with Gate(store):
        writes = [
            asyncio.create_task(store.write(each)) for each in (log(run, "a"), fails, log(run, "b"))
        ]
    done = await asyncio.gather(*writes, return_exceptions=True)
    assert [isinstance(each, Exception) for each in done] == [False, True, False]
    assert "foreign key" in str(done[1]).lower()
    assert await store.read(texts(run)) == ["a", "b"]


async def test_what_no_future_can_hold_is_answered_too(store: Store) -> None:
    with pytest.raises(InternalError, match="a write raised StopIteration"):
        await store.write(lambda c: next(iter(())))


async def test_queued_writes_share_a_transaction(store: Store) -> None:
    run = await store.write(make_run)
    before = await store.read(how_many)
    seen: list[int] = []

    def look(c: Connection) -> None:
        log(run, "x")(c)
        seen.append(store.read_here(how_many))

    async with Gate(store):
        writes = [asyncio.create_task(store.write(look)) for _ in range(3)]
    await asyncio.gather(*writes)
    assert seen == [before] * 3  # none of the three was committed before the others
    assert await store.read(how_many) == before + 3


async def test_a_write_cancelled_in_the_queue_does_not_happen(store: Store) -> None:
    run = await store.write(make_run)
    async with Gate(store):
        dropped = asyncio.create_task(store.write(log(run, "dropped")))
        await asyncio.sleep(0)
        dropped.cancel()
        await asyncio.gather(dropped, return_exceptions=True)
    await store.write(log(run, "kept"))
    assert await store.read(texts(run)) == ["kept"]


@pytest.mark.parametrize(
    "change", [update(schema.entries).values(kind="x"), delete(schema.entries)]
)
async def test_entries_refuse_change(store: Store, change: Any) -> None:
    run = await store.write(make_run)
    await store.write(log(run, "stays"))
    with pytest.raises(Exception, match="append-only"):
        await store.write(lambda c: c.execute(change))
    assert await store.read(texts(run)) == ["stays"]


async def test_readers_cannot_write_and_see_one_moment(store: Store) -> None:
    run = await store.write(make_run)
    with pytest.raises(TorporError, match=r"read-?only"):
        await store.read(log(run, "x"))
    loop = asyncio.get_running_loop()

    def twice(c: Connection) -> tuple[int, int]:
        first = how_many(c)
        asyncio.run_coroutine_threadsafe(store.write(log(run, "y")), loop).result()
        return first, how_many(c)

    first, second = await store.read(twice)
    assert first == second
    assert await store.read(texts(run)) == ["y"]


async def test_a_write_that_ends_the_transaction_fails_its_batch(store: Store) -> None:
    run = await store.write(make_run)

    def breaks(c: Connection) -> None:
        log(run, "lost")(c)
        c.exec_driver_sql("ROLLBACK")

    with pytest.raises(InternalError, match="ended the transaction"):
        await store.write(breaks)
    await store.write(log(run, "kept"))
    assert await store.read(texts(run)) == ["kept"]


async def test_a_subscriber_is_notified_of_committed_writes_to_its_run_only(store: Store) -> None:
    def fails(c: Connection) -> None:
        log(run, "lost")(c)
        raise LookupError("on purpose")

    run, other = await store.write(make_run), await store.write(make_run)
    with store.subscribe(run) as mine, store.subscribe(other) as theirs:
        await store.write(log(run, "one"))  # before anyone waits: remembered
        await asyncio.wait_for(mine.wait(), 10)
        waiting = asyncio.create_task(mine.wait())
        with pytest.raises(LookupError):
            await store.write(fails)
        await store.write(log(other, "theirs"))
        await asyncio.wait_for(theirs.wait(), 10)
        assert not waiting.done()
        await store.write(log(run, "two"))
        await asyncio.wait_for(waiting, 10)
    await store.write(log(run, "nobody listens"))
    left = asyncio.create_task(mine.wait())
    await store.write(log(run, "still nobody"))
    assert not left.done()
    left.cancel()


async def test_listeners_get_all_news_in_order_once_it_is_committed(store: Store) -> None:
    received: list[News] = []
    run = await store.write(make_run)
    store.listen(received.append)

    def fails(c: Connection) -> None:
        report(c, Due())
        raise LookupError("on purpose")

    async with Gate(store):
        writes = [
            asyncio.create_task(store.write(each))
            for each in (lambda c: report(c, Due()), fails, lambda c: request_cancel(c, run, 3.0))
        ]
        assert received == []
    await asyncio.gather(*writes, return_exceptions=True)
    await asyncio.sleep(0)
    assert received[:2] == [Due(), CancelRequested(run)]
    assert set(map(type, received[2:])) <= {Claimable}


async def test_appended_entries_are_counted_when_they_are_committed(store: Store) -> None:
    run = await store.write(make_run)
    before = store.appended
    three = [NewEntry("note.log", None, {"text": f"{i}"}) for i in range(3)]
    await store.write(lambda c: append(c, run, None, three, 2.0))
    with pytest.raises(NotFound):
        await store.write(lambda c: append(c, RunId("run_none"), None, three, 2.0))
    assert store.appended == before + 3


async def test_a_copy_is_of_one_moment_and_opens_as_a_store(
    store: Store, reopen: Reopen, tmp_path: Path
) -> None:
    run = await store.write(make_run)
    await store.write(log(run, "before"))
    await asyncio.to_thread(store.copy_to, tmp_path / "copy.db")
    await store.write(log(run, "after"))
    store.close()
    (tmp_path / "copy.db").rename(store.path)
    assert await reopen().read(texts(run)) == ["before"]


async def test_free_space_is_given_back_while_others_write(store: Store) -> None:
    run = await store.write(make_run)
    await store.write(lambda c: [log(run, "x" * 100_000)(c) for _ in range(20)])
    full = await store.read(store.used_bytes)
    assert full > 2_000_000

    def remove(c: Connection) -> None:
        c.execute(insert(schema.deleting), [{"run": run}])
        c.execute(delete(schema.entries).where(schema.entries.c.run == run))
        c.execute(delete(schema.deleting))

    await store.write(remove)
    assert await store.read(store.used_bytes) < full - 1_500_000
    other = await store.write(make_run)
    await asyncio.gather(store.give_back(), *(store.write(log(other, f"{i}")) for i in range(20)))
    assert len(await store.read(texts(other))) == 20


async def test_closing_finishes_queued_writes_and_refuses_later_ones(
    store: Store, reopen: Reopen
) -> None:
    run = await store.write(make_run)
    writes = [asyncio.create_task(store.write(log(run, f"{i}"))) for i in range(5)]
    await asyncio.sleep(0)
    store.close()
    store.close()
    assert len(await asyncio.gather(*writes)) == 5
    with pytest.raises(InternalError):
        await store.write(log(run, "late"))
    assert await reopen().read(texts(run)) == list("01234")
