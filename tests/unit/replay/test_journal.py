from __future__ import annotations

from collections.abc import Callable

import pytest

from torpor.core.ids import op_id
from torpor.replay.journal import Divergence, Early, Intent, Journal, Recorded


def record(
    name: str,
    n: int,
    digest: str,
    kind: str = "step",
    *,
    side: bool = False,
    doubt: bool = False,
    hint: str = "",
) -> Recorded:
    op = op_id(kind, name, n)
    made: Recorded = {"op": op, "kind": kind, "name": name, "digest": digest, "at": f"a.py:{n}"}
    if side:
        made["side"] = True
    if hint:
        made["hint"] = hint
    if not doubt:
        made |= {"ok": True, "value": f"{op} {digest}"}
    return made


def ask(
    journal: Journal,
    name: str,
    digest: str,
    *,
    kind: str = "step",
    side: bool = False,
    alone: bool = True,
    hint: str = "",
    late: Early | None = None,
) -> tuple[str, Recorded | None]:
    intent = Intent(kind, name, digest, "a.py:99", side, hint)
    match = journal.find(intent, lambda: alone, late)
    journal.take(intent, match)
    return match


def refused(journal: Journal, call: Callable[[], object]) -> Divergence:
    """What `call` raises; it must have changed nothing."""
    before = journal.unused
    with pytest.raises(Divergence) as caught:
        call()
    assert journal.unused == before
    return caught.value


def test_an_empty_journal_is_live() -> None:
    journal = Journal()
    assert journal.empty
    assert ask(journal, "a", "x") == ("step:a#1", None)
    assert ask(journal, "a", "x") == ("step:a#2", None)
    journal.finish()


def test_a_recorded_operation_gives_its_outcome_once_and_what_follows_is_live() -> None:
    first = record("a", 1, "x")
    journal = Journal([first])
    assert not journal.empty
    assert ask(journal, "a", "x") == ("step:a#1", first)
    assert journal.empty
    journal.finish()
    assert ask(journal, "a", "x") == ("step:a#2", None)


# What the agent does instead of: step a(x), step a(y), wait w(z); and what it should have done.
EDITS: dict[str, tuple[list[tuple[str, str, str]], str]] = {
    "name": ([("step", "b", "x")], "step:a#1"),
    "arguments": ([("step", "a", "x"), ("step", "a", "z")], "step:a#2"),
    "order": ([("step", "a", "y")], "step:a#1"),
    "kind": ([("step", "a", "x"), ("step", "a", "y"), ("sleep", "w", "z")], "wait:w#1"),
    "more": ([("step", "a", "x"), ("step", "c", "x")], "step:a#2"),
    "fewer": ([("step", "a", "x"), ("wait", "w", "z")], "step:a#2"),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("alone", [True, False])
def test_the_main_line_alone_must_do_the_same_in_the_same_order(edit: str, alone: bool) -> None:
    """Also when there are other threads, that have not asked for anything before."""
    asks, missing = EDITS[edit]
    journal = Journal([record("a", 1, "x"), record("a", 2, "y"), record("w", 1, "z", kind="wait")])
    for kind, name, digest in asks[:-1]:
        assert ask(journal, name, digest, kind=kind, alone=alone)[1] is not None
    kind, name, digest = asks[-1]
    error = refused(journal, lambda: ask(journal, name, digest, kind=kind, alone=alone))
    assert error.recorded["op"] == missing
    assert error.intent is not None and error.intent[:3] == (kind, name, digest)
    assert f"{missing} (arguments {error.recorded['digest']}) at a.py:" in error.message
    assert f"{kind} {name} (arguments {digest}) at a.py:99" in error.message
    assert error.hint


def test_an_agent_that_ends_early_diverges() -> None:
    journal = Journal([record("a", 1, "x"), record("a", 2, "y")])
    ask(journal, "a", "x")
    error = refused(journal, journal.finish)
    assert (error.recorded["op"], error.intent) == ("step:a#2", None)
    assert "the agent ends" in error.message


def test_what_is_in_doubt_keeps_its_name_and_its_place() -> None:
    doubt = record("a", 1, "x", doubt=True)
    journal = Journal([doubt, record("b", 1, "y")])
    error = refused(journal, lambda: ask(journal, "b", "y"))
    assert "step:a#1" in error.message and "no result yet" in error.message
    assert ask(journal, "a", "x") == ("step:a#1", doubt)
    assert ask(journal, "b", "y")[0] == "step:b#1"
    journal = Journal([doubt])
    refused(journal, journal.finish)


def sides() -> list[Recorded]:
    """Main a(x), then two side lines a(y) and a(z), then main b(x)."""
    two = [record("a", 2, "y", side=True), record("a", 3, "z", side=True)]
    return [record("a", 1, "x"), *two, record("b", 1, "x")]


def test_side_lines_come_in_any_order_and_keep_their_records_names() -> None:
    journal = Journal(sides())
    assert ask(journal, "a", "z", side=True)[0] == "step:a#3"
    assert ask(journal, "a", "x")[0] == "step:a#1"
    assert ask(journal, "a", "y", side=True)[0] == "step:a#2"
    assert ask(journal, "b", "x")[0] == "step:b#1"
    journal.finish()
    assert ask(journal, "a", "y", side=True) == ("step:a#4", None)


def test_a_side_line_may_begin_something_new_while_others_are_alive() -> None:
    journal = Journal(sides())
    ask(journal, "a", "x")
    assert ask(journal, "c", "x", side=True, alone=False) == ("step:c#1", None)
    error = refused(journal, lambda: ask(journal, "c", "x", side=True, alone=True))
    assert error.recorded["op"] == "step:b#1"  # the main line's
    assert ask(journal, "b", "x", alone=False)[1] is not None
    error = refused(journal, lambda: ask(journal, "c", "x", side=True, alone=True))
    assert error.recorded["op"] == "step:a#2"  # nobody is left to ask for it
    refused(journal, journal.finish)


def test_the_main_line_begins_nothing_new_before_what_it_had_begun() -> None:
    journal = Journal(sides())
    ask(journal, "a", "x")
    error = refused(journal, lambda: ask(journal, "c", "x", alone=False))
    assert error.recorded["op"] == "step:b#1"
    assert ask(journal, "b", "x", alone=False)[1] is not None
    assert ask(journal, "c", "x", alone=False) == ("step:c#1", None)
    error = refused(journal, lambda: ask(journal, "c", "x", alone=True))
    assert error.recorded["op"] == "step:a#2"


def test_a_side_line_leaves_to_the_main_line_what_is_its_own() -> None:
    journal = Journal([record("a", 1, "x"), record("b", 1, "y", side=True)])
    assert ask(journal, "a", "x", side=True, alone=False) == ("step:a#2", None)
    assert ask(journal, "a", "x")[0] == "step:a#1"


def test_of_equal_operations_those_of_the_same_kind_of_line_come_first() -> None:
    journal = Journal([record("a", 1, "x", side=True), record("a", 2, "x")])
    assert ask(journal, "a", "x")[0] == "step:a#2"
    assert ask(journal, "a", "x")[0] == "step:a#1"
    journal.finish()


def test_a_side_line_s_operation_in_doubt_need_not_come_again() -> None:
    journal = Journal([record("a", 1, "x", side=True, doubt=True)])
    assert ask(journal, "b", "x") == ("step:b#1", None)
    journal.finish()
    # Something of its name may be what it is.
    error = refused(journal, lambda: ask(journal, "a", "y", side=True))
    assert error.recorded["op"] == "step:a#1"


def early(journal: Journal, call: Callable[[], object]) -> Early:
    before = journal.unused
    with pytest.raises(Early) as caught:
        call()
    assert journal.unused == before
    return caught.value


def test_no_body_begins_while_a_record_of_its_name_is_unused() -> None:
    """Another line's, that is still to come; or its own, with other arguments."""
    for side in (True, False):
        for doubt in (True, False):
            journal = Journal([record("a", 1, "x", side=True, doubt=doubt)])

            def live(
                late: Early | None = None, journal: Journal = journal, side: bool = side
            ) -> object:
                return ask(journal, "a", "y", side=side, alone=False, late=late)

            held = early(journal, live)
            assert (held.record["op"], held.alike) == ("step:a#1", False)
            assert ask(journal, "b", "y", side=side, alone=False) == ("step:b#1", None)
            assert ask(journal, "a", "y", kind="wait", alone=False) == ("wait:a#1", None)
            refused(journal, lambda live=live, held=held: live(held))  # type: ignore[misc]
            assert ask(journal, "a", "x", side=True)[0] == "step:a#1"
            assert live() == ("step:a#2", None)


def test_of_two_lines_that_do_the_same_either_may_be_ahead() -> None:
    """One had done x and y; now the other is given its x. Its own is new, or it never got to y."""
    journal = Journal([record("a", 1, "x", side=True), record("a", 2, "y", side=True)])
    assert ask(journal, "a", "x", side=True, alone=False)[0] == "step:a#1"
    assert ask(journal, "a", "x", side=True, alone=False) == ("step:a#3", None)
    assert ask(journal, "a", "y", side=True, alone=False)[0] == "step:a#2"


def test_of_equal_operations_each_gets_that_of_its_hint() -> None:
    hinted = [record("a", n, "x", side=True, hint=hint) for n, hint in enumerate("pqr", 1)]
    journal = Journal(hinted)
    held = early(journal, lambda: ask(journal, "a", "x", side=True, alone=False, hint="s"))
    assert (held.record["op"], held.alike) == ("step:a#1", True)
    for op, hint in (("step:a#3", "r"), ("step:a#1", "p"), ("step:a#2", "q")):
        assert ask(journal, "a", "x", side=True, alone=False, hint=hint)[0] == op
    assert ask(journal, "a", "x", side=True, alone=False, hint="s") == ("step:a#4", None)
    assert ask(journal, "a", "x", side=True, alone=False, hint="p") == ("step:a#5", None)


def test_hints_that_are_not_the_same_again_mean_nothing() -> None:
    hinted = [record("a", n, "x", side=True, hint=hint) for n, hint in enumerate("pqr", 1)]
    for waited in (False, True):
        journal = Journal(hinted)
        if waited:
            held = early(journal, lambda j=journal: ask(j, "a", "x", alone=False, hint="1"))  # type: ignore[misc]
            found = ask(journal, "a", "x", side=True, alone=False, hint="1", late=held)
        else:  # nobody is there to wait for
            found = ask(journal, "a", "x", side=True, hint="1")
        assert found[0] == "step:a#1"
        for n, hint in ((2, "p"), (3, "2")):  # of the rest none is held
            assert ask(journal, "a", "x", side=True, alone=False, hint=hint)[0] == f"step:a#{n}"


def test_the_main_line_alone_needs_no_hint() -> None:
    journal = Journal([record("a", 1, "x", hint="p"), record("a", 2, "x", hint="q")])
    assert ask(journal, "a", "x", hint="1")[0] == "step:a#1"
    assert ask(journal, "a", "x", hint="2")[0] == "step:a#2"


def test_what_the_agent_has_begun_itself_does_not_come_from_the_log() -> None:
    journal = Journal()
    for digest in "xyz":
        ask(journal, "a", digest)
    later = record("a", 4, "w")
    journal.extend([record("a", 2, "y"), later])
    assert journal.unused == (later,)
    assert ask(journal, "a", "w") == ("step:a#4", later)


def test_a_newer_journal_knows_the_results_of_what_was_in_doubt() -> None:
    journal = Journal([record("a", 1, "x", doubt=True), record("b", 1, "y")])
    journal.extend([record("a", 1, "x"), record("c", 1, "z")])
    assert [each["op"] for each in journal.unused] == ["step:a#1", "step:b#1", "step:c#1"]
    assert "ok" in journal.unused[0]


def test_once_a_side_line_was_met_the_main_line_may_come_in_another_order() -> None:
    journal = Journal([record("a", 1, "x", side=True)])
    ask(journal, "a", "x", side=True)
    journal.extend([record("b", 1, "x"), record("b", 2, "y")])
    assert ask(journal, "b", "y")[0] == "step:b#2"
    refused(journal, lambda: ask(journal, "b", "z"))
    assert ask(journal, "b", "x")[0] == "step:b#1"


def test_a_cancellation_falls_anywhere() -> None:
    journal = Journal([record("a", 1, "x"), record("b", 1, "y")])
    journal.interrupt()
    assert ask(journal, "tidy", "x") == ("step:tidy#1", None)
    assert ask(journal, "a", "y") == ("step:a#2", None)
    assert ask(journal, "b", "y")[1] is not None
    journal.finish()


def test_what_a_step_published_or_the_end_kept_is_always_new() -> None:
    """No replay asks for it; its number goes on after the log's."""
    published = record("a.txt", 2, "x", "file", side=True)
    journal = Journal([record("a", 1, "x"), published, record("a.txt", 3, "x", "file", doubt=True)])
    assert ask(journal, "a.txt", "x", kind="file") == ("file:a.txt#4", None)
    assert ask(journal, "a", "x")[1] is not None
    assert journal.empty
    journal.finish()
    journal.extend([record("a.txt", 9, "x", "file")])
    assert ask(journal, "a.txt", "x", kind="file", side=True) == ("file:a.txt#10", None)


def test_an_artifact_is_an_operation_as_any_other() -> None:
    journal = Journal([record("a.txt", 1, "x", "artifact"), record("b", 1, "x")])
    assert refused(journal, lambda: ask(journal, "b", "x")).recorded["op"] == "artifact:a.txt#1"
    assert ask(journal, "a.txt", "x", kind="artifact")[1] is not None


def test_names_of_what_was_superseded_stay_taken_in_the_next_process() -> None:
    """Whose journal has no records of it, but that of the verdict."""
    verdict = record("step:a#1", 1, "d1", "verdict")
    verdict["value"] = {"go_on": True, "taken": ["step:a#3", "wait:approve#1", "step:b: c#12"]}
    journal = Journal([verdict, record("a", 4, "d4")])
    assert ask(journal, "a", "d4")[0] == "step:a#4"
    assert ask(journal, "a", "d5")[0] == "step:a#5"
    assert ask(journal, "approve", "d", kind="wait")[0] == "wait:approve#2"
    assert ask(journal, "b: c", "d")[0] == "step:b: c#13"
    assert ask(journal, "other", "d")[0] == "step:other#1"
