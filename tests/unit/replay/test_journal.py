from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.model.ids import op_id
from torpor.replay.journal import Divergence, Journal, Recorded


def record(name: str, n: int, digest: str, kind: str = "step") -> Recorded:
    op = op_id(kind, name, n)
    return {
        "op": op,
        "kind": kind,
        "name": name,
        "digest": digest,
        "ok": True,
        "value": f"{op} {digest}",
    }


def test_an_empty_journal_is_live() -> None:
    assert Journal().match("step:a#1", "step", "a", "d") is None
    assert Journal().unused == ()


def test_a_recorded_operation_gives_its_outcome_once_and_what_follows_is_live() -> None:
    first = record("a", 1, "d")
    journal = Journal([first])
    assert journal.match("step:a#1", "step", "a", "d") == first
    assert journal.unused == ()
    assert journal.match("step:a#2", "step", "a", "d") is None


def test_operations_of_other_names_are_live_and_leave_the_records_unused() -> None:
    records = [record("a", 1, "d"), record("a", 1, "d", kind="wait")]
    journal = Journal(records)
    assert journal.match("step:b#1", "step", "b", "d") is None
    assert journal.match("sleep:a#1", "sleep", "a", "d") is None
    assert journal.unused == tuple(records)


def test_other_arguments_diverge_and_the_message_names_both_sides() -> None:
    journal = Journal([record("search", 1, "aaaa")])
    with pytest.raises(Divergence) as caught:
        journal.match("step:search#1", "step", "search", "bbbb", where="agent.py:12")
    for part in ("agent.py:12", "step:search#1", "step search", "aaaa", "bbbb"):
        assert part in caught.value.message
    assert caught.value.hint
    # The refused call used nothing up.
    assert journal.match("step:search#1", "step", "search", "aaaa") is not None


def test_another_kind_under_the_same_id_diverges() -> None:
    journal = Journal([{**record("a", 1, "d"), "kind": "wait"}])
    with pytest.raises(Divergence, match=r"wait a, arguments d.* asks for step a"):
        journal.match("step:a#1", "step", "a", "d")


def test_a_number_whose_record_went_to_another_call_cannot_be_live() -> None:
    journal = Journal([record("a", 1, "x"), record("a", 2, "y")])
    assert journal.match("step:a#1", "step", "a", "y") == record("a", 2, "y")
    with pytest.raises(Divergence, match="already matched"):
        journal.match("step:a#2", "step", "a", "z")
    assert journal.match("step:a#2", "step", "a", "x") == record("a", 1, "x")


calls = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), max_size=8)


def numbered(order: Sequence[tuple[str, str]]) -> list[Recorded]:
    counts: dict[str, int] = {}
    records = []
    for name, digest in order:
        counts[name] = counts.get(name, 0) + 1
        records.append(record(name, counts[name], digest))
    return records


@given(calls, st.data())
def test_the_same_calls_in_any_order_use_every_record_once(
    order: list[tuple[str, str]], data: st.DataObject
) -> None:
    log = numbered(order)
    journal = Journal(log)
    asked = numbered(data.draw(st.permutations(order)))
    found = [journal.match(a["op"], a["kind"], a["name"], a["digest"]) for a in asked]
    assert all(
        f is not None and (f["name"], f["digest"]) == (a["name"], a["digest"])
        for f, a in zip(found, asked, strict=True)
    )
    assert sorted(f["op"] for f in found if f) == sorted(r["op"] for r in log)
    assert journal.unused == ()
    assert journal.match(op_id("step", "a", len(order) + 1), "step", "a", "x") is None


@given(calls, calls)
def test_a_result_is_never_given_to_other_arguments_nor_twice(
    log: list[tuple[str, str]], asks: list[tuple[str, str]]
) -> None:
    records = numbered(log)
    journal = Journal(records)
    given_out: list[str] = []
    for ask in numbered(asks):
        before = journal.unused
        try:
            found = journal.match(ask["op"], ask["kind"], ask["name"], ask["digest"])
        except Divergence:
            assert journal.unused == before
            continue
        if found is None:
            assert journal.unused == before
            assert ask["op"] not in {r["op"] for r in records}
        else:
            assert (found["name"], found["digest"]) == (ask["name"], ask["digest"])
            given_out.append(found["op"])
    assert len(given_out) == len(set(given_out))
    assert {r["op"] for r in journal.unused} == {r["op"] for r in records} - set(given_out)
