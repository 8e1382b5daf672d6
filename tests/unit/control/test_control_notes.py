"""What a recovered agent says again."""

from __future__ import annotations

from typing import Any

from torpor.contextlog.entries import NewEntry
from torpor.worker.notes import Notes


def note(text: str, op: str | None = None) -> Any:
    return NewEntry("note.emit", op, {"value": text})  # type: ignore[arg-type]


def said(*notes: NewEntry, doubt: str = "") -> Notes:
    return Notes(notes, [{"op": doubt}, {"op": "step:done#1", "ok": True}])


def test_each_takes_one_away_in_whatever_order() -> None:
    notes = said(note("a"), note("b"), note("a"))
    heard = [note(text) for text in ("b", "a", "a", "a", "b")]
    assert [bool(notes.fresh(each)) for each in heard] == [False, False, False, True, True]


def test_words_kind_and_step_count() -> None:
    notes = said(note("a", "step:s#1"))
    for other in (note("a"), note("a", "step:s#2"), note("b", "step:s#1")):
        assert notes.fresh(other) == [other]
    assert notes.fresh(NewEntry("note.log", note("a", "step:s#1").op, {"value": "a"}))
    assert notes.fresh(note("a", "step:s#1")) == []


def test_something_new_of_the_main_line_ends_it() -> None:
    notes = said(note("a"), note("b"), note("c"), doubt="step:again#1")
    notes.begun(
        [{"op": "step:again#1", "kind": "step"}, {"op": "step:new#1", "kind": "step", "side": True}]
    )
    assert notes.fresh(note("a")) == []
    notes.begun([{"op": "step:new#2", "kind": "step", "side": False}])
    assert notes.fresh(note("b"))
