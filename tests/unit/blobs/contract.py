"""What every store of blobs promises (`torpor.blobs.protocol`), a test each.

A module of tests subclasses `BlobsContract` and says how one opens its store: `again` opens the
same store as another process would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from torpor.blobs.protocol import Blob, Blobs
from torpor.core.errors import InternalError, NotFound

ONE, TWO = "ab" * 32, "cd" * 32
BLOBS = (Blob("layers", ONE, (b"one", b"", b"two" * 5000)), Blob("manifests", TWO, (b"three",)))
AGES = 1e12  # a time that everything was put before


class BlobsContract:
    @pytest.fixture
    def again(self) -> Callable[[], Blobs]:
        """Opens the test's store, as often as it is called."""
        raise NotImplementedError

    @pytest.fixture
    def blobs(self, again: Callable[[], Blobs]) -> Blobs:
        return again()

    def test_what_was_put_is_there(self, blobs: Blobs) -> None:
        assert not blobs.exists("layers", ONE) and blobs.size("layers", ONE) is None
        assert blobs.present("layers") == []
        blobs.put_all(BLOBS)
        for blob in BLOBS:
            assert isinstance(blob.chunks, tuple)
            content = b"".join(blob.chunks)
            assert blobs.exists(blob.kind, blob.name)
            assert blobs.size(blob.kind, blob.name) == blob.size == len(content)
            assert blobs.get(blob.kind, blob.name) == content
            with blobs.open(blob.kind, blob.name) as file:
                assert (file.read(3), file.read()) == (content[:3], content[3:])
            assert blobs.materialize(blob.kind, blob.name).read_bytes() == content
            assert [(b.name, b.size) for b in blobs.present(blob.kind)] == [(blob.name, blob.size)]
        assert {"layers", "manifests"} <= set(blobs.kinds())

    def test_what_was_not_put_is_not_found(self, blobs: Blobs) -> None:
        for read in (blobs.get, blobs.open, blobs.materialize):
            with pytest.raises(NotFound):
                read("layers", ONE)

    def test_an_empty_blob_is_a_blob(self, blobs: Blobs) -> None:
        blobs.put("layers", ONE, [])
        assert blobs.get("layers", ONE) == b"" and blobs.size("layers", ONE) == 0

    def test_a_draft_becomes_a_blob_or_nothing(self, blobs: Blobs) -> None:
        with blobs.draft() as draft:
            draft.write([b"lost"])
        with blobs.draft() as draft:
            draft.write([b"a", b"b"])
            draft.write([b"c"])
            assert draft.size == 3
            blobs.put_all([Blob("layers", ONE, draft)])
        assert blobs.get("layers", ONE) == b"abc"
        assert len(blobs.present("layers")) == 1

    def test_a_stream_is_stored_whole_or_not_at_all(self, blobs: Blobs) -> None:
        def breaks_off() -> Iterator[bytes]:
            yield b"one"
            raise RuntimeError("gone")

        with pytest.raises(RuntimeError):
            blobs.put_stream("layers", ONE, 6, breaks_off())
        assert not blobs.exists("layers", ONE)
        for _ in range(2):
            chunks = iter([b"one", b"", b"two"])
            blobs.put_stream("layers", ONE, 6, chunks)
            assert list(chunks) == [], "read to its end, also when the name is there"
            assert blobs.get("layers", ONE) == b"onetwo"

    def test_a_put_that_breaks_off_leaves_nothing(self, blobs: Blobs) -> None:
        def breaks_off() -> Iterator[Blob]:
            yield BLOBS[0]
            raise RuntimeError("gone")

        with pytest.raises(RuntimeError):
            blobs.put_all(breaks_off())
        assert not blobs.exists("layers", ONE)

    def test_many_threads_may_put_the_same(self, blobs: Blobs) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: blobs.put_all(BLOBS), range(20)))
        assert blobs.get("manifests", TWO) == b"three"

    @pytest.mark.parametrize("name", ["", "a", "../../etc/passwd", "ab/cd", "ab\0cd", ".."])
    def test_only_plain_names_are_taken(self, blobs: Blobs, name: str) -> None:
        with pytest.raises(InternalError):
            blobs.put("layers", name, [b"x"])

    def test_what_is_deleted_is_gone_but_for_who_reads_it(self, blobs: Blobs) -> None:
        blobs.put_all(BLOBS)
        with blobs.open("manifests", TWO) as file:
            blobs.delete("manifests", TWO)
            blobs.delete("manifests", TWO)
            assert not blobs.exists("manifests", TWO)
            assert file.read() == b"three"

    def test_what_is_young_is_in_use(self, blobs: Blobs) -> None:
        blobs.put("layers", ONE, [b"one"])
        (one,) = blobs.present("layers")
        assert not blobs.is_unused("layers", ONE, before=one.touched_at)
        assert not blobs.delete_unused("layers", ONE, before=one.touched_at)
        assert blobs.is_unused("layers", ONE, before=AGES)
        assert blobs.delete_unused("layers", ONE, before=AGES)
        assert not blobs.is_unused("layers", ONE, before=AGES), "it is not there"
        assert not blobs.delete_unused("layers", ONE, before=AGES)

    def test_a_put_makes_young_what_is_there(self, blobs: Blobs) -> None:
        blobs.put("layers", ONE, [b"one"])
        (first,) = blobs.present("layers")
        blobs.put("layers", ONE, [b"one"])
        (second,) = blobs.present("layers")
        assert second.touched_at >= first.touched_at
        assert not blobs.is_unused("layers", ONE, before=second.touched_at)

    def test_what_is_held_is_in_use(self, blobs: Blobs) -> None:
        blobs.put("layers", ONE, [b"one"])
        with blobs.held("layers", [ONE, TWO]):
            with blobs.held("layers", [ONE]):
                assert not blobs.delete_unused("layers", ONE, before=AGES)
            assert not blobs.delete_unused("layers", ONE, before=AGES), "held twice"
        assert blobs.delete_unused("layers", ONE, before=AGES)

    def test_a_hold_holds_against_every_process(self, again: Callable[[], Blobs]) -> None:
        mine, other = again(), again()
        mine.put("layers", ONE, [b"one"])
        with mine.held("layers", [ONE]):
            (hold,) = other.holds()
            assert (hold.kind, hold.names) == ("layers", (ONE,))
            assert mine.holds() == [hold]
            assert not other.is_unused("layers", ONE, before=AGES)
            assert not other.delete_unused("layers", ONE, before=AGES)
        assert other.holds() == []
        assert other.delete_unused("layers", ONE, before=AGES)

    def test_holds_end_with_their_owner(self, again: Callable[[], Blobs]) -> None:
        mine, other = again(), again()
        mine.put("layers", ONE, [b"one"])
        with mine.held("layers", [ONE]):
            mine.close()
            assert other.holds() == []
            assert other.delete_unused("layers", ONE, before=AGES)

    def test_a_sweep_takes_nothing_that_lives(self, again: Callable[[], Blobs]) -> None:
        mine, other = again(), again()
        mine.put_all(BLOBS)
        with mine.held("layers", [ONE]):
            other.sweep()
            assert len(other.holds()) == 1
        assert mine.get("manifests", TWO) == b"three"

    def test_how_much_room_there_is(self, blobs: Blobs) -> None:
        free = blobs.free_bytes()
        assert free is None or free > 0
