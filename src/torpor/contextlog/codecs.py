"""What the data of an entry may be, how it is stored, and how it is read again.

Data is a JSON object that fits into one entry, and is stored as it is: the codec `PLAIN`. The
beginnings and the ends of some operations have a codec of their own, registered by the kind of the
entry and that of the operation, and so do some entries of any operation, or of none. So the log
itself does not know what is special about them; `torpor.contextlog` registers all that there are
when it is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from torpor.core import jsonvalues
from torpor.core.errors import Invalid
from torpor.core.ids import RunId
from torpor.core.jsonvalues import ENTRY_BYTES_MAX

Data = Mapping[str, Any]

_HINT = "Keep large data in a file and record its name."
_INPUT_HINT = "Give what is large as a file of the run: torpor run --file, or a parameter Path."


def check_object(data: object, what: str, hint: str = _HINT) -> str:
    """`data` as JSON. Raises Invalid unless it is an object that fits into one entry (rule 13);
    `hint` says what to do with one that is too large."""
    if not isinstance(data, Mapping):
        raise Invalid(f"{what} must be a JSON object, not {type(data).__name__}")
    try:
        text = jsonvalues.write(data, jsonvalues.ENTRY_DEPTH_MAX)
    except ValueError as error:
        raise Invalid(f"{what} {error}") from error
    if len(text) > ENTRY_BYTES_MAX:
        raise Invalid(
            f"{what} has {len(text):,} bytes as JSON; the limit is {ENTRY_BYTES_MAX:,}",
            hint=hint,
        )
    return text


def check_input(data: object) -> str:
    """A run's input, as `check_object`."""
    return check_object(data, "the input", _INPUT_HINT)


@dataclass(frozen=True)
class Place:
    """Of an entry: its operation, and where it stands."""

    run: RunId
    seq: int
    op: str


def _as_it_is(c: Connection, data: Data) -> Data:
    return data


@dataclass(frozen=True)
class Codec:
    # The data as it is stored, as JSON; None: `fold` has to say how it is stored. Raises Invalid
    # unless it can be that of such an entry (rule 13); the text names it in the error.
    check: Callable[[object, str], str | None] = check_object
    fold: Callable[[Connection, Data], Data] = _as_it_is
    # The data as it was before it was folded.
    unfold: Callable[[Connection, dict[str, Any]], dict[str, Any]] = lambda c, data: data
    # Write what of the stored data is wanted in rows of its own, once its entry is written.
    record: Callable[[Connection, Place, Data], None] | None = None


PLAIN = Codec()
_registered: dict[str, dict[str, Codec]] = {}


def register(entry: str, operation: str, codec: Codec) -> None:
    """`codec` is that of all entries of this kind that belong to operations of that kind; or, for
    an `operation` of no letters, of all other entries of this kind."""
    _registered.setdefault(entry, {})[operation] = codec


def codec_of(kind: str, op: str | None) -> Codec:
    operations = _registered.get(kind)
    if operations is None:
        return PLAIN
    others = operations.get("", PLAIN)
    return others if op is None else operations.get(op.partition(":")[0], others)


def check(kind: str, op: str | None, data: object) -> str | None:
    """See `Codec.check`."""
    return codec_of(kind, op).check(data, f"the data of {kind} entry {op or ''}".rstrip())


def fold(c: Connection, kind: str, op: str | None, data: Data) -> Data:
    """An entry's data, which was checked, as it is stored."""
    return codec_of(kind, op).fold(c, data)


def unfold(c: Connection, kind: str, op: str | None, data: dict[str, Any]) -> dict[str, Any]:
    """An entry's data as it was before it was stored: the same object where nothing was changed."""
    return codec_of(kind, op).unfold(c, data)


def record(c: Connection, run: RunId, seq: int, kind: str, op: str | None, data: Data) -> None:
    """Write the rows that go with an entry just written; `data` is as it is stored."""
    write = codec_of(kind, op).record
    if write is not None and op is not None:
        write(c, Place(run, seq, op), data)
