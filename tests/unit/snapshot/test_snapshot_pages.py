"""Pages that are read when they are needed."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.snapshot import pages as module
from torpor.snapshot.layer import PAGE
from torpor.snapshot.pages import (
    InFile,
    InMemory,
    Some,
    chunks,
    hashes_of,
    page_ranges,
    source_hashes,
)

CONTENT = np.random.default_rng(7).integers(0, 256, (40, PAGE)).astype(np.uint8)


@given(st.sets(st.integers(0, 200)))
def test_runs(numbers: set[int]) -> None:
    firsts, counts = page_ranges(np.array(sorted(numbers), dtype=np.int64))
    parts = [range(first, first + count) for first, count in zip(firsts, counts, strict=True)]
    assert [n for part in parts for n in part] == sorted(numbers)
    assert all(a.stop < b.start for a, b in itertools.pairwise(parts))


ROWS = st.lists(st.integers(0, 39))


@given(ROWS, ROWS)
def test_pages_come_in_the_order_that_was_asked_for(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], rows: list[int]
) -> None:
    path = tmp_path_factory.mktemp("pages") / "file"
    path.write_bytes(CONTENT.tobytes())
    of, asked = np.array(numbers, np.int64), np.array(rows, np.int64)
    assert (InFile(path).read(of) == CONTENT[of]).all()
    if numbers:
        asked %= len(numbers)
        for source in (InFile(path, of), Some(InMemory(CONTENT), of), Some(InFile(path), of)):
            assert len(source) == len(numbers)
            assert (source.read(asked) == CONTENT[of][asked]).all()


def test_what_is_beyond_the_end_of_a_file_is_zero(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (PAGE + 7))
    read = InFile(path, np.array([0, 1, 2, 900])).read(np.arange(4))
    assert read.tobytes() == (b"x" * (PAGE + 7)).ljust(4 * PAGE, b"\0")


def test_a_file_is_readable_when_its_name_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT.tobytes())
    source = InFile(path)
    path.unlink()
    assert (source.read(np.array([39, 0])) == CONTENT[[39, 0]]).all()


@pytest.mark.parametrize("most", [1, 7, 100])
def test_hashes_of_a_source_are_those_of_its_pages(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(module, "CHUNK_PAGES", most)
    assert (source_hashes(InMemory(CONTENT)) == hashes_of(CONTENT)).all()
    assert max(map(len, chunks(40))) == min(most, 40)
    assert not len(source_hashes(InMemory(CONTENT[:0])))
