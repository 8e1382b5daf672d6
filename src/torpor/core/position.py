"""Where an agent stood when it was frozen: what the driver of the next machine goes on from.

It is recorded with its snapshot, as JSON, and is read for ever: docs/formats/position.md says what
each key means, in each version. What comes in may be an export's, written by others (rule 13).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

from torpor.core.errors import Invalid
from torpor.core.ids import OpId

VERSION = 1

_STREAMS = {"1": 1, "2": 2}  # by the link's channels: stdout, stderr
_HELD_BYTES_MAX = 3  # the beginning of a character of UTF-8
_COUNT_MAX = 2**63 - 1

T = TypeVar("T")
_NOTHING: Mapping[Any, Any] = MappingProxyType({})


@dataclass(frozen=True)
class StreamPosition:
    """How far an output stream was taken, in bytes."""

    offset: int = 0
    held: bytes = b""  # the beginning of a character that was printed in part
    after: int | None = None  # an entry after which the log may hold what is printed next


@dataclass(frozen=True)
class Position:
    """By default, of an agent that has not begun, such as a template's."""

    unanswered: frozenset[OpId] = frozenset()  # what it has begun, and the host is to answer
    waiting: int = 0  # operations that it waits for
    busy: int = 0  # operations that it is busy with
    patient: bool = False  # it goes on only when all that it waits for has ended
    at_work: bool = False  # it did not rest: what it was doing goes on
    streams: Mapping[int, StreamPosition] = field(default_factory=lambda: _NOTHING)
    # Of steps that may be replayed: how far the log had each stream, by name, when they ended.
    printed: Mapping[OpId, Mapping[str, int]] = field(default_factory=lambda: _NOTHING)
    pages: Mapping[str, int] = field(default_factory=lambda: _NOTHING)  # figures, for people

    def to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "unanswered": sorted(self.unanswered),
            "status": [self.waiting, self.busy],
            "patient": self.patient,
            "at_work": self.at_work,
            "streams": {
                str(channel): {
                    "offset": stream.offset,
                    "held": b64encode(stream.held).decode(),
                    "after": stream.after,
                }
                for channel, stream in self.streams.items()
            },
            "printed": {op: dict(offsets) for op, offsets in self.printed.items()},
            "pages": dict(self.pages),
        }

    @classmethod
    def of_json(cls, value: object) -> Position:
        """As `to_json` wrote it, or an older torpor. Raises Invalid."""
        given = _object(value, "the position")
        version = _count(given.get("version", 0), "version")
        if version > VERSION:
            raise Invalid(
                f"the snapshot's position is of version {version}; this torpor reads up to "
                f"{VERSION}",
                hint="A newer torpor wrote it: use that one, or update this one.",
            )
        if version and (missing := _KEYS - given.keys()):
            raise Invalid(f"the snapshot's position lacks {', '.join(sorted(missing))}")
        status = _list(given.get("status", [0, 0]), "status")
        if len(status) != 2:
            raise _wrong("status", "two counts")
        return cls(
            unanswered=frozenset(
                OpId(_text(op, "unanswered"))
                for op in _list(given.get("unanswered", []), "unanswered")
            ),
            waiting=_count(status[0], "status"),
            busy=_count(status[1], "status"),
            patient=_flag(given.get("patient", False), "patient"),
            at_work=_flag(given.get("at_work", False), "at_work"),
            streams=_streams(given.get("streams", {})),
            printed={
                OpId(op): _counts(offsets, "printed")
                for op, offsets in _object(given.get("printed", {}), "printed").items()
            },
            pages=_counts(given.get("pages", {}), "pages"),
        )


NOT_BEGUN = Position()
_KEYS = NOT_BEGUN.to_json().keys()


def _streams(value: object) -> dict[int, StreamPosition]:
    found = {}
    for channel, each in _object(value, "streams").items():
        if channel not in _STREAMS:
            raise _wrong("streams", "of the channels 1 and 2")
        stream = _object(each, "a stream")
        try:
            held = b64decode(_text(stream.get("held"), "held"), validate=True)
        except Base64Error:
            raise _wrong("held", "base64") from None
        if len(held) > _HELD_BYTES_MAX:
            raise _wrong("held", f"at most {_HELD_BYTES_MAX} bytes")
        after = stream.get("after")
        found[_STREAMS[channel]] = StreamPosition(
            offset=_count(stream.get("offset"), "offset"),
            held=held,
            after=None if after is None else _count(after, "after"),
        )
    return found


def _counts(value: object, what: str) -> dict[str, int]:
    return {key: _count(count, what) for key, count in _object(value, what).items()}


def _object(value: object, what: str) -> Mapping[str, Any]:
    return _of(dict, value, what, "an object")


def _list(value: object, what: str) -> list[Any]:
    return _of(list, value, what, "a list")


def _text(value: object, what: str) -> str:
    return _of(str, value, what, "text")


def _flag(value: object, what: str) -> bool:
    return _of(bool, value, what, "true or false")


def _count(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _COUNT_MAX:
        raise _wrong(what, "an integer from 0 on")
    return value


def _of(kind: type[T], value: object, what: str, words: str) -> T:
    if not isinstance(value, kind):
        raise _wrong(what, words)
    return value


def _wrong(what: str, words: str) -> Invalid:
    return Invalid(f"a snapshot's position is malformed: {what} must be {words}")
