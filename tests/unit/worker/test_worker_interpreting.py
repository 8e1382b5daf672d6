"""What an agent's messages mean, one by one, on plain values."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest

from torpor.contextlog.entries import BEGIN, NewEntry
from torpor.core.artifacts import KINDS
from torpor.core.errors import GuestError
from torpor.core.ids import OpId
from torpor.core.states import RunState
from torpor.policy.retries import Failure
from torpor.wire import messages, names
from torpor.worker import interpreting as effects
from torpor.worker.cancelling import CANCELLED
from torpor.worker.interpreting import Effects, Ending, State, interpret

STATE = State(freezes=True, cancelling=False, memory_mib=512, printed={"stdout": 7, "stderr": 0})
ALONE = replace(STATE, freezes=False, memory_mib=None)
OP = OpId("step:a#1")
DIGEST = "0" * 32


def message(t: str, **fields: Any) -> dict[str, Any]:
    """As it comes in: checked."""
    return messages.decode(messages.encode(t, **fields), messages.FROM_GUEST)


def meaning(t: str, state: State = STATE, **fields: Any) -> Effects:
    return interpret(message(t, **fields), state)


def begin(kind: str, name: str = "a", **data: Any) -> dict[str, Any]:
    op = f"{kind}:{name}#1"
    return message(names.BEGIN, op=op, kind=kind, name=name, digest=DIGEST, data=data)


WAIT: dict[str, Any] = {"prompt": "?", "data": None, "timeout_s": None, "tags": [], "approve": True}
CHILD: dict[str, Any] = {"agent": "a", "own": True, "input": {}}
REQUEST: dict[str, Any] = {"method": "POST", "path": "/v1/x", "headers": {}, "body": ""}


def test_a_step_that_begins_is_written_and_nothing_else() -> None:
    begun = begin("step", topic="owls")
    entry = NewEntry(
        BEGIN, OP, {"kind": "step", "name": "a", "digest": DIGEST, "data": {"topic": "owls"}}
    )
    assert interpret(begun, STATE) == Effects((effects.Begun((begun,), False),), (entry,))


def test_where_it_begins_is_kept_and_no_data_is_none() -> None:
    place: dict[str, Any] = {"at": "a.py:3", "side": True, "hint": "0" * 16}
    begun = begin("step") | place
    (entry,) = interpret(begun, STATE).writes
    assert isinstance(entry, NewEntry)
    assert entry.data == {"kind": "step", "name": "a", "digest": DIGEST, **place}


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("wait", WAIT),
        ("event", {"timeout_s": 3}),
        ("sleep", {"for_s": 1}),
        ("doubt", {}),
        ("permission", {"action": {"name": "a", "arguments": {}}, "timeout_s": None}),
        ("child", CHILD),
    ],
)
def test_a_wait_is_created_with_its_operation(kind: str, data: dict[str, Any]) -> None:
    begun = begin(kind, **data)
    created = effects.CreateWaits((begun,))
    assert interpret(begun, STATE) == Effects((effects.Begun((begun,)),), (created,))


def test_children_that_begin_together_are_one_write() -> None:
    fields = [
        {key: value for key, value in begin("child", name, **CHILD).items() if key != "t"}
        for name in ("a", "b")
    ]
    both = tuple(fields)
    assert meaning(names.BATCH, begins=fields) == Effects(
        (effects.Begun(both),), (effects.CreateWaits(both),)
    )


def test_the_host_answers_models_checkpoints_and_verdicts_once_they_are_written() -> None:
    call, checkpoint = begin("model", **REQUEST), begin("checkpoint")
    meant = interpret(call, STATE)
    assert meant.now == (effects.Begun((call,)),) and len(meant.writes) == 1
    assert meant.then == (effects.Call(OpId("model:a#1"), REQUEST),)
    meant = interpret(checkpoint, STATE)
    assert meant.now == (effects.Begun((checkpoint,)),) and len(meant.writes) == 1
    assert meant.then == (effects.Checkpoint(OpId("checkpoint:a#1")),)
    verdict = begin("verdict", message="m", superseded=["step:b#1"])
    assert interpret(verdict, STATE) == Effects(
        (effects.Begun((verdict,)),), (effects.Judge(verdict),)
    )


@pytest.mark.parametrize(
    "outcome", [{"ok": True, "value": 1}, {"ok": False, "error": {"type": "E", "message": "m"}}]
)
def test_an_end_is_confirmed_once_it_is_written(outcome: dict[str, Any]) -> None:
    end = effects.End(OP, outcome, {"printed": STATE.printed})
    assert meaning(names.END, op=OP, **outcome) == Effects(
        writes=(end,), then=(effects.Confirm(OP),)
    )


def test_what_was_printed_is_kept_with_steps_alone() -> None:
    op = OpId("read:clock#1")
    assert meaning(names.END, op=op, ok=True, value=1).writes == (
        effects.End(op, {"ok": True, "value": 1}, {}),
    )


def test_a_step_that_wrote_files_ends_with_a_snapshot_where_there_are_any() -> None:
    fields: dict[str, Any] = {"op": OP, "ok": True, "value": None, "files": True}
    end = effects.End(OP, {"ok": True, "value": None}, {"printed": STATE.printed, "files": True})
    assert meaning(names.END, **fields) == Effects((effects.Hold(end),))
    assert meaning(names.END, ALONE, **fields) == Effects(
        writes=(end,), then=(effects.Confirm(OP),)
    )


def test_a_large_result_is_spooled_and_then_ended() -> None:
    data = base64.b64encode(b"much").decode()
    assert meaning(names.PART, op=OP, data=data) == Effects((effects.Spool(OP, b"much"),))
    blob = {"bytes": 4, "form": "bytes"}
    (end,) = meaning(names.END, op=OP, ok=True, blob=blob).writes
    assert isinstance(end, effects.End) and end.outcome == {"ok": True, "blob": blob}


def test_notes_are_objects_that_tell_what_they_were() -> None:
    def entry(data: Any, **more: Any) -> Any:
        (note,) = meaning(names.NOTE, kind="log", data=data, **more).writes
        assert isinstance(note, effects.Note)
        return note.entry

    assert entry({"a": 1}, op=OP) == NewEntry("note.log", OP, {"a": 1})
    assert entry("words") == NewEntry("note.log", None, {"value": "words"})
    assert entry({"value": 1}) == NewEntry("note.log", None, {"value": {"value": 1}})


def test_what_the_log_has_is_fetched_and_skipped() -> None:
    assert meaning(names.FETCH, op=OP) == Effects(then=(effects.Fetch(OP),))
    assert meaning(names.REPLAYED, op=OP) == Effects((effects.Replayed(OP),))


def test_how_the_agent_is() -> None:
    assert meaning(names.STATUS, waiting=2, busy=1) == Effects((effects.Status(2, 1, False),))
    patient = meaning(names.STATUS, waiting=2, busy=0, all=True)
    assert patient == Effects((effects.Status(2, 0, True),))
    assert meaning(names.RESUMED, at=5.0) == Effects((effects.Resumed(5.0),))
    assert meaning(names.UNPREPARED, reason="r") == Effects((effects.Unprepared(),))


def test_what_a_command_beside_it_sends_is_the_commands() -> None:
    taken = message(names.EXEC_TAKEN, exec="e", bytes=3)
    output = message(names.EXEC_OUTPUT, exec="e", stream=1, data="")
    exited = message(names.EXEC_EXITED, exec="e", code=0)
    for each in (taken, output, exited):
        assert interpret(each, STATE) == Effects((effects.OfCommand(each),))


def ending(t: str, state: State = STATE, **fields: Any) -> Ending:
    meant = meaning(t, state, **fields)
    assert meant.ending is not None and meant == Effects(ending=meant.ending)
    return meant.ending


ERROR: dict[str, Any] = {"type": "ValueError", "message": "m", "traceback": None}


def test_the_ends_of_a_run() -> None:
    assert ending(names.DONE, value=[1]) == Ending(RunState.COMPLETED, result=[1])
    failed = ending(names.FAILED, **ERROR, cancelled=False)
    assert failed == Ending(RunState.FAILED, error=ERROR, failure=Failure("ValueError"))
    exited = ending(names.EXITED, code=None, signal=9, oom=False)
    assert exited.error is not None and "SIGKILL" in exited.error["message"]
    assert (exited.state, exited.failure) == (RunState.FAILED, Failure("AgentExited"))


def test_an_error_that_people_see_says_nothing_of_what_follows_from_it() -> None:
    more: dict[str, Any] = {"diverged": OP, "after_s": 3, "final": True}
    failed = ending(names.FAILED, **ERROR, cancelled=False, **more)
    assert failed.error == ERROR
    assert failed.failure == Failure("ValueError", diverged=OP, after_s=3, final=True)


def test_an_agent_is_cancelled_only_if_somebody_asked_for_it() -> None:
    cancelling = replace(STATE, cancelling=True)
    assert ending(names.FAILED, cancelling, **ERROR, cancelled=True) == Ending(
        RunState.CANCELLED, error=CANCELLED
    )
    for state, cancelled in ((STATE, True), (cancelling, False)):
        assert ending(names.FAILED, state, **ERROR, cancelled=cancelled).state is RunState.FAILED


def test_one_that_ran_out_of_memory_names_what_it_had() -> None:
    fields: dict[str, Any] = {"code": None, "signal": 9, "oom": True}
    machine, process = ending(names.EXITED, **fields), ending(names.EXITED, ALONE, **fields)
    assert machine.error is not None and "512 MiB" in machine.error["message"]
    assert process.error is not None and "MiB" not in process.error["message"]
    assert machine.failure == process.failure == Failure("OutOfMemory")


# Rule 13.


def test_a_part_must_be_base64() -> None:
    with pytest.raises(GuestError, match="a part of step:a#1 is not base64"):
        meaning(names.PART, op=OP, data="%")


@pytest.mark.parametrize("kind", KINDS)
def test_an_artifact_must_have_content(kind: str) -> None:
    op = f"{kind}:a#1"
    with pytest.raises(GuestError, match="ended without content"):
        meaning(names.END, op=op, ok=True, value=None)
    failed = meaning(names.END, op=op, ok=False, error={"type": "E", "message": "m"})
    assert failed.then == (effects.Confirm(OpId(op)),)


# What is awaited where it comes, and nowhere else.
AWAITED: dict[str, dict[str, Any]] = {
    names.HELLO: {"protocol": 1, "python": "3", "kernel": "6"},
    names.IMPORTING: {"what": "a"},
    names.IMPORTED: {},
    names.LOADED: {"agents": [], "default": None},
    names.LOAD_FAILED: {"error": "e", "traceback": ""},
    names.PREPARED: {},
    names.THAWED: {"epoch": 1, "at": 1.0},
    names.CRASHED: {"traceback": ""},
}


@pytest.mark.parametrize("t", sorted(AWAITED))
def test_what_is_not_awaited_is_refused(t: str) -> None:
    with pytest.raises(GuestError, match=f"the machine sent {t!r}, which nobody awaits"):
        meaning(t, **AWAITED[t])


def test_every_message_of_a_guest_has_a_meaning_or_is_refused() -> None:
    assert set(effects.MEANINGS) | set(AWAITED) == set(messages.FROM_GUEST)
    assert not set(effects.MEANINGS) & set(AWAITED)
