"""What a message from an agent means: pure, from the message and what its driver knows to effects.

    message + State ──interpret──► Effects(now, writes, then)   or how the run ends

Effects are data. Their driver (`torpor.worker.receiving`) does `now` before it looks at the next
message, puts the `writes` of many messages into one transaction, and does `then` once that is
durable: nothing is acknowledged before (rules 1, 2). What a write finds out, such as the waits that
it created, comes back from the transaction as more to do then.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torpor.contextlog import entries
from torpor.contextlog.entries import NewEntry
from torpor.contextlog.waits import WAITS, WaitRow
from torpor.core import artifacts
from torpor.core.errors import GuestError
from torpor.core.ids import OpId, op_kind
from torpor.core.states import RunState
from torpor.policy.retries import Failure
from torpor.wire import names
from torpor.worker.cancelling import CANCELLED
from torpor.worker.loading import exit_error

Message = Mapping[str, Any]  # checked by `torpor.wire.messages`


@dataclass(frozen=True, slots=True)
class State:
    """What a message's meaning depends on, beside itself."""

    freezes: bool  # snapshots can be taken, to keep the files that a step wrote
    cancelling: bool  # somebody has asked for the run's end
    memory_mib: int | None  # the machine's
    printed: Mapping[str, int]  # how far the log has each output stream, by name


# What is done before the next message is looked at.


@dataclass(frozen=True, slots=True)
class Begun:
    """The agent has begun these operations; some are the host's to answer."""

    begins: tuple[Message, ...]
    answered_by_host: bool = True


@dataclass(frozen=True, slots=True)
class Spool:
    """A part of a large result."""

    op: OpId
    data: bytes


@dataclass(frozen=True, slots=True)
class Replayed:
    """A step was answered from the log, and printed nothing again."""

    op: OpId


@dataclass(frozen=True, slots=True)
class Status:
    """Of so many operations the agent waits, and is busy with so many; `patient` if it goes on
    only when all have ended."""

    waiting: int
    busy: int
    patient: bool


@dataclass(frozen=True, slots=True)
class Resumed:
    """The machine lives, and its clock shows `at`."""

    at: float


@dataclass(frozen=True, slots=True)
class Unprepared:
    """It did not stand still when it was last to, and nobody waits for that any more."""


@dataclass(frozen=True, slots=True)
class OfCommand:
    """From a command beside the agent."""

    message: Message


# What is written.


@dataclass(frozen=True, slots=True)
class Note:
    """An entry that the log has already if the agent only repeats itself."""

    entry: NewEntry


@dataclass(frozen=True, slots=True)
class CreateWaits:
    begins: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Judge:
    """Decide about a divergence, as the operation `begin` asks."""

    begin: Message


@dataclass(frozen=True, slots=True)
class End:
    """An operation's end. Its `outcome` has a value, an error, or a `blob`: its size and form, of
    what was spooled. `also` is kept with it."""

    op: OpId
    outcome: Mapping[str, Any]
    also: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Hold:
    """Record this end together with the next snapshot, which has the files that the step wrote."""

    end: End


# What is done once that is durable.


@dataclass(frozen=True, slots=True)
class Confirm:
    """Let the agent know that its operation's end is recorded."""

    op: OpId


@dataclass(frozen=True, slots=True)
class Call:
    """Make a recorded exchange; its answer is to come on the guest's `stream`, if it has one."""

    op: OpId
    request: Mapping[str, Any]
    stream: int | None = None


@dataclass(frozen=True, slots=True)
class Certify:
    """Send a certificate for `name`, of the authority that the guest trusts."""

    name: str
    authority: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    op: OpId


@dataclass(frozen=True, slots=True)
class Fetch:
    """Send the agent a large result that the log has."""

    op: OpId


@dataclass(frozen=True, slots=True)
class Created:
    """From the transaction: these waits are open now, or were answered in an earlier epoch."""

    waits: tuple[WaitRow, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """From the transaction: an operation's outcome."""

    op: OpId
    outcome: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ending:
    """How the run ends: with `result`, or the `error` that people see. Of a failure, what decides
    whether it is tried again stands beside that."""

    state: RunState
    result: Any = None
    error: Mapping[str, Any] | None = None
    failure: Failure | None = None


Now = Begun | Spool | Replayed | Status | Resumed | Unprepared | OfCommand | Hold
Writing = NewEntry | Note | CreateWaits | Judge | End
Then = Confirm | Call | Certify | Checkpoint | Fetch | Created | Answered


@dataclass(frozen=True, slots=True)
class Effects:
    now: tuple[Now, ...] = ()
    writes: tuple[Writing, ...] = ()
    then: tuple[Then, ...] = ()
    ending: Ending | None = None  # then there is nothing else


def interpret(message: Message, state: State) -> Effects:
    """Raises GuestError if the guest may not send it, or not now (rule 13)."""
    meaning = MEANINGS.get(message["t"])
    if meaning is None:
        raise GuestError(f"the machine sent {message['t']!r}, which nobody awaits")
    return meaning(message, state)


# Operations.


def _begin(message: Message, state: State) -> Effects:
    kind, op = message["kind"], OpId(message["op"])
    if kind in WAITS:
        return _begin_waits((message,))
    match kind:
        case "verdict":
            return Effects((Begun((message,)),), (Judge(message),))
        case "model" | "http":
            then: tuple[Then, ...] = (Call(op, message["data"], message.get("stream")),)
        case "checkpoint":
            then = (Checkpoint(op),)
        case _:
            then = ()
    return Effects((Begun((message,), bool(then)),), (_begin_entry(op, message),), then)


def _begin_entry(op: OpId, message: Message) -> NewEntry:
    data = {key: message[key] for key in entries.IDENTITY if key in message}
    if message["data"]:
        data["data"] = message["data"]
    return NewEntry(entries.BEGIN, op, data)


def _batch(message: Message, state: State) -> Effects:
    return _begin_waits(tuple(message["begins"]))


def _begin_waits(begins: tuple[Message, ...]) -> Effects:
    return Effects((Begun(begins),), (CreateWaits(begins),))


def _part(message: Message, state: State) -> Effects:
    op = OpId(message["op"])
    try:
        data = b64decode(message["data"], validate=True)
    except Base64Error as error:
        raise GuestError(f"a part of {op} is not base64: {error}") from error
    return Effects((Spool(op, data),))


def _end(message: Message, state: State) -> Effects:
    op = OpId(message["op"])
    kind = op_kind(op)
    outcome = {key: message[key] for key in _OUTCOME if key in message}
    if message["ok"] and "blob" not in message and kind in artifacts.KINDS:
        raise GuestError(f"{op} ended without content")
    also: dict[str, Any] = {"printed": state.printed} if kind == "step" else {}
    if files := message.get("files", False):
        also["files"] = True
    end = End(op, outcome, also)
    if files and state.freezes:
        return Effects((Hold(end),))
    return Effects(writes=(end,), then=(Confirm(op),))


_OUTCOME = ("ok", "value", "error", "blob")


def _fetch(message: Message, state: State) -> Effects:
    return Effects(then=(Fetch(OpId(message["op"])),))


def _replayed(message: Message, state: State) -> Effects:
    return Effects((Replayed(OpId(message["op"])),))


def _note(message: Message, state: State) -> Effects:
    data = message["data"]
    if not isinstance(data, dict) or "value" in data:  # so that either can be told from the other
        data = {"value": data}
    return Effects(writes=(Note(NewEntry(f"note.{message['kind']}", message.get("op"), data)),))


# How the agent is, and its end.


def _status(message: Message, state: State) -> Effects:
    return Effects((Status(message["waiting"], message["busy"], message.get("all", False)),))


def _certificate(message: Message, state: State) -> Effects:
    return Effects(then=(Certify(message["name"], message["authority"]),))


def _resumed(message: Message, state: State) -> Effects:
    return Effects((Resumed(message["at"]),))


def _unprepared(message: Message, state: State) -> Effects:
    return Effects((Unprepared(),))


def _of_command(message: Message, state: State) -> Effects:
    return Effects((OfCommand(message),))


def _done(message: Message, state: State) -> Effects:
    return Effects(ending=Ending(RunState.COMPLETED, result=message["value"]))


def _failed(message: Message, state: State) -> Effects:
    if message["cancelled"] and state.cancelling:
        return Effects(ending=Ending(RunState.CANCELLED, error=CANCELLED))
    error = {key: message[key] for key in ("type", "message", "traceback")}
    failure = Failure(
        error["type"],
        diverged=message.get("diverged"),
        after_s=message.get("after_s"),
        final=message.get("final", False),
    )
    return Effects(ending=failed(error, failure))


def failed(error: Mapping[str, Any], failure: Failure | None = None) -> Ending:
    return Ending(RunState.FAILED, error=error, failure=failure or Failure(error["type"]))


def _exited(message: Message, state: State) -> Effects:
    return Effects(ending=failed(exit_error(message, state.memory_mib)))


MEANINGS: dict[str, Callable[[Message, State], Effects]] = {
    names.BEGIN: _begin,
    names.BATCH: _batch,
    names.PART: _part,
    names.END: _end,
    names.FETCH: _fetch,
    names.REPLAYED: _replayed,
    names.NOTE: _note,
    names.STATUS: _status,
    names.RESUMED: _resumed,
    names.UNPREPARED: _unprepared,
    names.CERTIFICATE: _certificate,
    names.EXEC_OUTPUT: _of_command,
    names.EXEC_TAKEN: _of_command,
    names.EXEC_EXITED: _of_command,
    names.DONE: _done,
    names.FAILED: _failed,
    names.EXITED: _exited,
}
